//! HTTP requests of plugins: to the hosts that a binding's grant names, and to no other.
//!
//! A name is looked up once, every address that it has is checked, and the connection is made to one
//! of those: a name that leads elsewhere a moment later gains nothing. Each request has a connection
//! of its own, which is closed with the future that waits for it; redirects are not followed, and
//! proxies of the environment are not asked.

mod address;
mod allow;
mod connect;
mod exchange;
mod request;
mod resolve;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gapura_plugin_runtime::{HttpError, HttpResponse};
use rustls::{ClientConfig, RootCertStore};

pub use allow::AllowList;
pub(crate) use request::{Prepared, prepare};

use resolve::{Resolve, SystemResolver};

/// Sends requests.
pub struct Outbound {
    resolver: Arc<dyn Resolve>,
    tls: Arc<ClientConfig>,
}

impl Default for Outbound {
    /// The system's resolver and the certificates that browsers trust.
    fn default() -> Self {
        let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        Self::new(Arc::<SystemResolver>::default(), roots)
    }
}

impl Outbound {
    fn new(resolver: Arc<dyn Resolve>, roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            resolver,
            tls: Arc::new(tls),
        }
    }

    /// Sends `prepared`, of a plugin of `route`, where `allowed` allows it, and reads the whole response, whose body may have
    /// `max_response_bytes`. Takes as long as the server likes: the caller holds the time. Dropping
    /// the future closes the connection.
    pub(crate) async fn send(
        &self,
        route: &str,
        allowed: &AllowList,
        prepared: Prepared,
        max_response_bytes: u64,
    ) -> Result<HttpResponse, HttpError> {
        let Prepared { target, request } = prepared;
        let stream = connect::tcp(&*self.resolver, route, allowed, &target).await?;
        if target.is_https() {
            let stream = connect::tls(&self.tls, &target, stream).await?;
            return exchange::exchange(stream, request, max_response_bytes).await;
        }
        exchange::exchange(stream, request, max_response_bytes).await
    }
}
