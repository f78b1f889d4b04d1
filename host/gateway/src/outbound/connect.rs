//! From a target to a connection: one look-up, every address checked, one of them connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gapura_plugin_runtime::HttpError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;
use url::Host;

use super::allow::AllowList;
use super::request::Target;
use super::resolve::Resolve;

/// Addresses of a name that are tried, one after the other.
const MAX_TRIES: usize = 4;
/// How long each but the last of them may take.
const TRY: Duration = Duration::from_millis(500);

/// Connects to `target`, if `allowed` names it and reaches every address that it has. `route` asks.
pub(super) async fn tcp(
    resolver: &dyn Resolve,
    route: &str,
    allowed: &AllowList,
    target: &Target,
) -> Result<TcpStream, HttpError> {
    let authority = target.authority();
    if !allowed.names(target) {
        return Err(HttpError::Denied(format!(
            "{authority} is not among the hosts that the route allows"
        )));
    }
    let ips = match &target.host {
        Host::Ipv4(ip) => vec![IpAddr::V4(*ip)],
        Host::Ipv6(ip) => vec![IpAddr::V6(*ip)],
        Host::Domain(name) => {
            let found = resolver.resolve(route, name).await;
            found.map_err(|error| {
                debug!(host = name, %error, "a plugin's host cannot be looked up");
                HttpError::Connect(format!("there is no address of {name}"))
            })?
        }
    };
    if ips.is_empty() {
        let host = &target.host;
        return Err(HttpError::Connect(format!("there is no address of {host}")));
    }
    // One bad address is enough: whoever answers for the name chooses which of them is used.
    if let Some(&ip) = ips.iter().find(|&&ip| !allowed.reaches(target, ip)) {
        // The guest is not told which: it is no map of the network.
        debug!(host = authority, %ip, "a plugin's host has a private address");
        return Err(HttpError::Denied(format!(
            "{authority} has a private address, which the route does not allow by itself"
        )));
    }
    connect(&ips[..ips.len().min(MAX_TRIES)], target.port)
        .await
        .map_err(|error| {
            debug!(host = authority, %error, "a plugin's host cannot be reached");
            HttpError::Connect(format!("nobody answers at {authority}"))
        })
}

/// The first of `ips` that answers; there is one at least.
async fn connect(ips: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let (last, others) = ips.split_last().ok_or(io::ErrorKind::NotFound)?;
    for &ip in others {
        let connecting = TcpStream::connect(SocketAddr::new(ip, port));
        if let Ok(Ok(stream)) = tokio::time::timeout(TRY, connecting).await {
            return Ok(stream);
        }
    }
    TcpStream::connect(SocketAddr::new(*last, port)).await
}

/// Makes `stream` secure, and sure that `target` is at its end.
pub(super) async fn tls(
    config: &Arc<ClientConfig>,
    target: &Target,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, HttpError> {
    let name = match &target.host {
        Host::Ipv4(ip) => ServerName::from(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => ServerName::from(IpAddr::V6(*ip)),
        Host::Domain(name) => ServerName::try_from(name.clone())
            .map_err(|_| HttpError::Tls(format!("no certificate can be for {name}")))?,
    };
    let connector = TlsConnector::from(Arc::clone(config));
    connector
        .connect(name, stream)
        .await
        .map_err(|error| HttpError::Tls(error.to_string()))
}
