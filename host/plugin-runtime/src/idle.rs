//! Instances that have answered and wait for another request, where their binding allows it.
//!
//! They hold room of the pool only as long as nobody needs it: a request that finds the pool out
//! lets them go ([`Rooms`](crate::rooms::Rooms)). They belong to a binding of a chain, so that none outlives a swap.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::guest::Guest;

/// Most that wait for one binding.
const MAX_WAITING: usize = 64;
/// Those that nobody has needed for so long go when the next one comes or goes.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The instances of one binding that wait, the last one that came first.
#[derive(Default)]
pub(crate) struct Idle(Mutex<Vec<Waiting>>);

struct Waiting {
    guest: Guest,
    since: Instant,
}

/// All bindings whose instances may wait.
#[derive(Default)]
pub(crate) struct Bindings(Mutex<Vec<Weak<Idle>>>);

impl Idle {
    /// The one that came last, whose memory is most likely still warm.
    pub(crate) fn take(&self) -> Option<Guest> {
        let mut waiting = self.locked();
        let taken = waiting.pop();
        drop_old(&mut waiting);
        taken.map(|waiting| waiting.guest)
    }

    /// Keeps `guest`, in room of its own.
    pub(crate) fn put(&self, guest: Guest) {
        let mut waiting = self.locked();
        drop_old(&mut waiting);
        if waiting.len() < MAX_WAITING {
            waiting.push(Waiting {
                guest,
                since: Instant::now(),
            });
        }
    }

    /// Drops up to `count`, the oldest first, and says how many.
    fn release(&self, count: usize) -> usize {
        let mut waiting = self.locked();
        let count = count.min(waiting.len());
        waiting.drain(..count);
        count
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_old(waiting: &mut Vec<Waiting>) {
    let is_old = |waiting: &&Waiting| waiting.since.elapsed() > MAX_WAIT;
    let count = waiting.iter().take_while(is_old).count();
    waiting.drain(..count);
}

impl Bindings {
    /// A new binding.
    pub(crate) fn add(&self, idle: &Arc<Idle>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|idle| idle.strong_count() > 0);
        all.push(Arc::downgrade(idle));
    }

    /// Drops up to `count` waiting instances, so that others can be made, and says how many.
    pub(crate) fn release(&self, count: usize) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut released = 0;
        for idle in all.iter().filter_map(Weak::upgrade) {
            if released == count {
                break;
            }
            released += idle.release(count - released);
        }
        released
    }
}
