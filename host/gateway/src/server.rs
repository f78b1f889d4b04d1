//! Sockets: binding with a message that helps, accepting, and the drain at the end.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::net::TcpListener;

/// Between attempts to accept when the process is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener cannot be had.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program listens there.
    #[error("port {} on {} is taken by another program; stop it or choose another port, such as `--listen {}:{}`", at.port(), at.ip(), at.ip(), at.port().wrapping_add(1).max(1024))]
    Taken {
        /// The address.
        at: SocketAddr,
    },
    /// The system refuses.
    #[error("cannot listen on {at}: {source}")]
    Refused {
        /// The address.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on `at`; port 0 takes a free one.
///
/// # Errors
/// [`BindError`].
pub async fn bind(at: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(at)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken { at },
            _ => BindError::Refused { at, source },
        })
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request ended by itself.
    Whole,
    /// The deadline came first.
    Cut,
}

/// Answers on `listener` with `app` until `stop` ends; then takes no more connections, lets
/// running requests end until the instant that `stop` gave, and drops the rest. The header of
/// a request has to be in within `header_timeout`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    header_timeout: Duration,
    stop: impl Future<Output = Instant>,
) -> Drained {
    let connections = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout);
    let mut running = tokio::task::JoinSet::new();
    let mut stop = pin!(stop);
    let deadline = loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Reaps ended connections, so that the set holds the open ones only.
            Some(_) = running.join_next() => continue,
            deadline = &mut stop => break deadline,
        };
        match accepted {
            Ok((stream, _)) => {
                // Deltas are small and must not wait for company.
                let _ = stream.set_nodelay(true);
                let service = TowerToHyperService::new(app.clone());
                let connection = http.serve_connection(TokioIo::new(stream), service);
                let connection = connections.watch(connection);
                running.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection broke");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    };
    drop(listener);
    match tokio::time::timeout_at(deadline.into(), connections.shutdown()).await {
        Ok(()) => Drained::Whole,
        Err(_) => {
            running.abort_all();
            Drained::Cut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let at = first.local_addr().unwrap();
        let error = bind(at).await.unwrap_err().to_string();
        let start = format!(
            "port {} on 127.0.0.1 is taken by another program;",
            at.port()
        );
        assert!(
            error.starts_with(&start) && !error.contains('\n'),
            "{error}"
        );
    }
}
