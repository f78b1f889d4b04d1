//! The time of one guest call.
//!
//! What is counted is processor time, not wall time: on a busy machine a guest of a few
//! microseconds can wait longer for a core than its whole deadline, and must not fail for it. The
//! thread's clock is read only at epoch ticks, so that a call shorter than a tick costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

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
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self {
            limit: Duration::ZERO,
            spent: Duration::ZERO,
            resumed: Arc::new(AtomicU64::new(UNREAD)),
        }
    }

    /// A call begins that may take `limit`.
    pub(crate) fn begin(&mut self, limit: Duration) {
        self.limit = limit;
        self.spent = Duration::ZERO;
        self.resumed.store(UNREAD, Ordering::Relaxed);
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

    /// Lets other tasks run, then goes on charging from there.
    pub(crate) fn pause(&self) -> impl Future<Output = ()> + Send + 'static {
        let resumed = Arc::clone(&self.resumed);
        async move {
            tokio::task::yield_now().await;
            resumed.store(thread_clock(), Ordering::Relaxed);
        }
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
    fn a_new_call_begins_with_nothing_spent() {
        let mut budget = Budget::new();
        budget.begin(TICK / 4);
        assert_eq!(budget.charge(), Err(TICK / 4));
        budget.begin(TICK);
        assert_eq!(budget.charge(), Ok(()));
    }
}
