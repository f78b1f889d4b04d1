//! The time of one guest call.
//!
//! What is counted is processor time, not wall time: on a busy machine a guest of a few
//! microseconds can wait longer for a core than its whole deadline, and must not fail for it. The
//! thread's clock is read only at epoch ticks, so that a call shorter than a tick costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::slow;
use crate::ticker::TICK;

/// The clock has not been read since the call began.
const UNREAD: u64 = u64::MAX;

/// How much time a call has, and how much it took. Lives in the store.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Duration,
    spent: Duration,
    /// The thread's clock when the guest last (re)started, in nanoseconds, or [`UNREAD`]. Shared
    /// with the future of a yield, which may end on another thread.
    resumed: Arc<AtomicU64>,
    /// Nanoseconds that the call may take longer by the clock on the wall, for what it waits for.
    /// Shared with whoever holds that limit.
    extra: Arc<AtomicU64>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self {
            limit: Duration::ZERO,
            spent: Duration::ZERO,
            resumed: Arc::new(AtomicU64::new(UNREAD)),
            extra: Arc::default(),
        }
    }

    /// A call begins that may take `limit`.
    pub(crate) fn begin(&mut self, limit: Duration) {
        self.limit = limit;
        self.spent = Duration::ZERO;
        self.resumed.store(UNREAD, Ordering::Relaxed);
        self.extra.store(0, Ordering::Relaxed);
    }

    /// The time on top of the wall's limit that waits have been given so far, in nanoseconds.
    pub(crate) fn extra(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.extra)
    }

    /// The guest waits for the host, for `limit` at most, until the answer is dropped. That time is
    /// neither processor time, whatever its thread does meanwhile, nor time by the wall's limit.
    pub(crate) fn wait(&mut self, limit: Duration) -> Waiting {
        let resumed = self.resumed.load(Ordering::Relaxed);
        if resumed != UNREAD {
            self.spent += Duration::from_nanos(thread_clock().saturating_sub(resumed));
        }
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let longer = self.extra.load(Ordering::Relaxed).saturating_add(limit);
        self.extra.store(longer, Ordering::Relaxed);
        Waiting(Arc::clone(&self.resumed))
    }

    /// Charges the time since the guest last (re)started. Called at an epoch tick, on the thread
    /// that runs the guest.
    pub(crate) fn charge(&mut self) -> Result<(), Duration> {
        let now = thread_clock();
        let resumed = self.resumed.swap(now, Ordering::Relaxed);
        // The first tick comes half a tick after the call's beginning on average.
        let charged = if resumed == UNREAD {
            TICK / 2
        } else {
            Duration::from_nanos(now.saturating_sub(resumed))
        };
        self.spent += charged;
        if self.spent >= self.limit {
            Err(self.limit)
        } else {
            Ok(())
        }
    }

    /// Lets other tasks run, then goes on charging from there. A call that has taken long by then
    /// goes on where it is in nobody's way.
    pub(crate) fn pause(&self) -> impl Future<Output = ()> + Send + 'static {
        if self.spent >= slow::QUICK {
            slow::leave();
        }
        let resumed = Arc::clone(&self.resumed);
        async move {
            tokio::task::yield_now().await;
            resumed.store(thread_clock(), Ordering::Relaxed);
        }
    }
}

/// A guest that waits for the host. Its time goes on when this is dropped, on that thread.
pub(crate) struct Waiting(Arc<AtomicU64>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(thread_clock(), Ordering::Relaxed);
    }
}

/// Processor time of the calling thread, in nanoseconds.
fn thread_clock() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_charged_and_working_is() {
        let mut budget = Budget::new();
        budget.begin(Duration::from_millis(20));
        assert_eq!(budget.charge(), Ok(()));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(budget.charge(), Ok(()), "asleep for three times the limit");
        let start = thread_clock();
        while thread_clock() - start < 25_000_000 {
            std::hint::spin_loop();
        }
        assert_eq!(budget.charge(), Err(Duration::from_millis(20)));
    }

    #[test]
    fn what_its_thread_does_while_a_guest_waits_is_not_charged() {
        let mut budget = Budget::new();
        budget.begin(Duration::from_millis(20));
        assert_eq!(budget.charge(), Ok(()), "the clock has been read once");
        let waiting = budget.wait(Duration::from_secs(3));
        let start = thread_clock();
        while thread_clock() - start < 40_000_000 {
            std::hint::spin_loop();
        }
        drop(waiting);
        assert_eq!(budget.charge(), Ok(()));
        drop(budget.wait(Duration::from_secs(4)));
        assert_eq!(budget.extra().load(Ordering::Relaxed), 7_000_000_000);
        budget.begin(Duration::from_millis(20));
        assert_eq!(budget.extra().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_new_call_begins_with_nothing_spent() {
        let mut budget = Budget::new();
        budget.begin(TICK / 4);
        assert_eq!(budget.charge(), Err(TICK / 4));
        budget.begin(TICK);
        assert_eq!(budget.charge(), Ok(()));
    }
}
