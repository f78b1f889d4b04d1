//! Names become addresses.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Names looked up at the same time, for one route and for all: names of a server that does not
/// answer keep the other names of their route waiting, and none of other routes.
const MAX_OF_ROUTE: usize = 4;
const MAX_LOOKUPS: usize = 64;
/// How long whoever asks waits, its turn included.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Looks names up.
pub(super) trait Resolve: Send + Sync {
    /// Every address of `name`, for a plugin of `route`.
    fn resolve<'a>(&'a self, route: &'a str, name: &'a str) -> Resolving<'a>;
}

/// What [`Resolve::resolve`] returns.
pub(super) type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Asks the system, which holds a thread until it gives up, whether or not anyone still waits.
type Ask = fn(&str) -> io::Result<Vec<IpAddr>>;

/// As any program of this machine does.
pub(super) struct SystemResolver {
    ask: Ask,
    max_wait: Duration,
    lookups: Arc<Semaphore>,
    /// Of routes that have looked up a name; there are as many as the configuration has.
    of_routes: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        let ask: Ask = |name| {
            let found = (name, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        };
        Self::new(ask, MAX_WAIT)
    }
}

impl SystemResolver {
    fn new(ask: Ask, max_wait: Duration) -> Self {
        Self {
            ask,
            max_wait,
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            of_routes: Mutex::default(),
        }
    }

    fn of_route(&self, route: &str) -> Arc<Semaphore> {
        let mut of_routes = self
            .of_routes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = of_routes.get(route) {
            return Arc::clone(own);
        }
        let own = Arc::new(Semaphore::new(MAX_OF_ROUTE));
        of_routes.insert(route.to_owned(), Arc::clone(&own));
        own
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, route: &'a str, name: &'a str) -> Resolving<'a> {
        let (ask, name) = (self.ask, name.to_owned());
        let asking = async move {
            // The route's own first: none of its look-ups waits where others could go.
            let own = self.of_route(route).acquire_owned().await;
            let shared = Arc::clone(&self.lookups).acquire_owned().await;
            let permits = (
                own.map_err(io::Error::other)?,
                shared.map_err(io::Error::other)?,
            );
            let found = tokio::task::spawn_blocking(move || {
                let found = ask(&name);
                drop(permits);
                found
            });
            found.await.map_err(io::Error::other)?
        };
        Box::pin(async move {
            let found = tokio::time::timeout(self.max_wait, asking).await;
            found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that does not answer for what begins with `hangs`.
    fn ask(name: &str) -> io::Result<Vec<IpAddr>> {
        if name.starts_with("hangs") {
            std::thread::sleep(Duration::from_secs(2));
        }
        Ok(vec![IpAddr::from([192, 0, 2, 1])])
    }

    #[tokio::test]
    async fn names_that_hang_keep_their_own_route_waiting_alone() {
        let resolver = SystemResolver::new(ask, Duration::from_secs(60));
        let hanging = (0..MAX_LOOKUPS).map(|_| resolver.resolve("bad", "hangs.example"));
        let hanging = futures_util::future::join_all(hanging);
        let others = async {
            let found = resolver.resolve("good", "quick.example").await;
            assert_eq!(found.expect("an address"), [IpAddr::from([192, 0, 2, 1])]);
            assert_eq!(resolver.of_route("bad").available_permits(), 0);
            let own = resolver.resolve("bad", "quick.example");
            let own = tokio::time::timeout(Duration::from_millis(20), own).await;
            assert!(own.is_err(), "it waits its turn");
        };
        // The hanging ones are asked first, and are not waited for.
        tokio::select! {
            biased;
            _ = hanging => panic!("the other route waits for them"),
            () = others => {}
        }
    }

    #[tokio::test]
    async fn whoever_asks_does_not_wait_for_ever() {
        let resolver = SystemResolver::new(ask, Duration::from_millis(20));
        let found = resolver.resolve("route", "hangs.example").await;
        assert_eq!(
            found.expect_err("no answer").kind(),
            io::ErrorKind::TimedOut
        );
        let left = resolver.of_route("route").available_permits();
        assert_eq!(left, MAX_OF_ROUTE - 1, "the thread is still taken");
    }
}
