//! Calls that take long. What a guest does in its first moments it does on the thread of its
//! request; after that it goes on on threads of its own, which the operating system runs only a
//! little while others have work. So a guest that loops takes what is left over, and not what its
//! neighbours need; on an idle machine it is as fast as ever.
//!
//! A route has so many turns there, fewer than there are threads: the guests of one that loop every
//! time do not keep those of another waiting.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::warn;

/// Processor time of a call after which it is slow. Plugins of every language that are well take a
/// fraction of it.
pub(crate) const QUICK: Duration = Duration::from_millis(2);

/// How nice the threads are: they get a tenth of what others get who have work.
const NICENESS: i32 = 10;

thread_local! {
    /// The guest that was just polled on this thread is slow.
    static IS_LEAVING: Cell<bool> = const { Cell::new(false) };
    /// This is one of the threads for slow calls.
    static IS_SLOW: Cell<bool> = const { Cell::new(false) };
}

/// The threads for slow calls, made when there is the first.
#[derive(Default)]
pub(crate) struct Slow(OnceLock<Option<Runtime>>);

/// How many slow calls of one route run at a time.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

/// Says that the guest that yields now has had its quick moments.
pub(crate) fn leave() {
    IS_LEAVING.set(true);
}

impl Slow {
    /// Does `work`: here at first, and where a guest in it turns out to be slow, from then on on
    /// the other threads. Dropping the future ends the work, there within a tick.
    pub(crate) async fn run<T>(
        &self,
        turns: &Turns,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T
    where
        T: Send + 'static,
    {
        let mut work = Box::pin(work);
        if let Some(done) = quickly(&mut work).await {
            return done;
        }
        let Some(runtime) = self.runtime() else {
            return work.await;
        };
        let turn = Arc::clone(&turns.0).acquire_owned().await;
        let mut moved = Moved(runtime.spawn(async move {
            let done = work.await;
            drop(turn);
            done
        }));
        match (&mut moved.0).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The threads have ended, and so does whoever waits.
            Err(_) => std::future::pending().await,
        }
    }

    fn runtime(&self) -> Option<&Runtime> {
        let start = || {
            let started = Builder::new_multi_thread()
                .worker_threads(cores())
                .thread_name("plugin-slow")
                .on_thread_start(|| {
                    IS_SLOW.set(true);
                    // Of this thread alone, on Linux. Where that is not allowed it runs as others do.
                    let _ = rustix::process::nice(NICENESS);
                })
                .enable_all()
                .build();
            started
                .inspect_err(|error| warn!(%error, "no threads for slow plugins"))
                .ok()
        };
        self.0.get_or_init(start).as_ref()
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take().flatten() {
            // It may be dropped by an async task, which must not wait for threads.
            runtime.shutdown_background();
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new((cores() / 2).max(1))))
    }
}

/// What comes of `work` unless it wants to leave this thread before.
async fn quickly<T>(work: &mut Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    std::future::poll_fn(|context| {
        // Of a guest that is not polled here, if of any.
        IS_LEAVING.set(false);
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if IS_LEAVING.take() && !IS_SLOW.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Work on another thread, which ends with this.
struct Moved<T>(JoinHandle<T>);

impl<T> Drop for Moved<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread's name before and after it yields, as a guest does at a tick.
    async fn threads(is_slow: bool) -> [Option<String>; 2] {
        let name = || std::thread::current().name().map(str::to_owned);
        let before = name();
        if is_slow {
            leave();
        }
        tokio::task::yield_now().await;
        [before, name()]
    }

    #[tokio::test]
    async fn slow_work_goes_on_elsewhere_and_quick_work_does_not() {
        let (slow, turns) = (Slow::default(), Turns::default());
        let [before, after] = slow.run(&turns, threads(false)).await;
        assert_eq!(before, after);
        assert!(slow.0.get().is_none(), "no threads before they are needed");
        let [before, after] = slow.run(&turns, threads(true)).await;
        assert_ne!(before, after);
        assert_eq!(after.as_deref(), Some("plugin-slow"));
        assert_eq!(turns.0.available_permits(), (cores() / 2).max(1));
    }

    #[tokio::test]
    async fn slow_work_within_slow_work_needs_no_turn_of_its_own() {
        let slow = Arc::new(Slow::default());
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let inner = (Arc::clone(&slow), turns.clone());
        let work = async move {
            let [_, outer] = threads(true).await;
            let [_, inner] = inner.0.run(&inner.1, threads(true)).await;
            [outer, inner]
        };
        let on = slow.run(&turns, work).await;
        assert_eq!(
            on,
            [
                Some("plugin-slow".to_owned()),
                Some("plugin-slow".to_owned())
            ]
        );
    }

    #[tokio::test]
    async fn slow_work_ends_with_whoever_waits_for_it() {
        let (slow, turns) = (Slow::default(), Turns::default());
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        let work = async move {
            leave();
            loop {
                tokio::task::yield_now().await;
                let _still = &holds;
            }
        };
        let gone = tokio::time::timeout(Duration::from_millis(50), slow.run::<()>(&turns, work));
        assert!(gone.await.is_err());
        while Arc::strong_count(&held) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_threads_give_way_to_others() {
        let (slow, turns) = (Slow::default(), Turns::default());
        let nice = || rustix::process::nice(0).expect("to be asked is allowed");
        let own = nice();
        let there = slow.run(&turns, async move {
            leave();
            tokio::task::yield_now().await;
            nice()
        });
        assert_eq!(there.await, (own + NICENESS).min(19));
        assert_eq!(nice(), own, "this one stays as it was");
    }
}
