//! How handles reach the engine thread: a queue, under a lock, that the thread sleeps on. The
//! channel of the standard library spins and yields before it sleeps, a millionth of a second
//! at a time, which costs more than a short request does.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The thread's end. Dropped, it takes no more and drops what it holds.
pub(crate) struct Inbox<T>(Arc<Shared<T>>);

/// A handle's end.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// What lay in the inbox.
pub(crate) struct Arrived<T> {
    /// In the order in which it was sent.
    pub(crate) items: VecDeque<T>,
    /// Nothing will ever arrive again.
    pub(crate) is_last: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    num_senders: usize,
    has_inbox: bool,
    /// So that nobody makes a system call to wake a thread that is awake.
    is_asleep: bool,
}

/// An inbox and its first sender.
pub(crate) fn inbox<T>() -> (Sender<T>, Inbox<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            num_senders: 1,
            has_inbox: true,
            is_asleep: false,
        }),
        arrived: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Inbox(shared))
}

impl<T> Inbox<T> {
    /// All that has arrived. Sleeps for as long as `patience` where there is nothing, unless
    /// nobody is left to send anything.
    pub(crate) fn take(&self, patience: Duration) -> Arrived<T> {
        let mut state = self.0.lock();
        if !patience.is_zero() {
            state.is_asleep = true;
            state = self
                .0
                .arrived
                .wait_timeout_while(state, patience, |state| {
                    state.items.is_empty() && state.num_senders > 0
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.is_asleep = false;
        }
        Arrived {
            items: mem::take(&mut state.items),
            is_last: state.num_senders == 0,
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_inbox = false;
        let items = mem::take(&mut state.items);
        // What they own may end in other locks.
        drop(state);
        drop(items);
    }
}

impl<T> Sender<T> {
    /// Hands `item` to the thread, or back if that has let go of its inbox.
    pub(crate) fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if !state.has_inbox {
            return Err(item);
        }
        state.items.push_back(item);
        self.0.wake(state);
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().num_senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.num_senders -= 1;
        if state.num_senders == 0 {
            self.0.wake(state);
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing in here panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        // Once: those who send before it has got up need not call again.
        let was_asleep = mem::take(&mut state.is_asleep);
        drop(state);
        if was_asleep {
            self.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn items_come_in_order_and_all_at_once() {
        let (sender, inbox) = inbox();
        for item in 0..3 {
            sender.send(item).unwrap();
        }
        let arrived = inbox.take(LONG);
        assert_eq!(arrived.items, [0, 1, 2]);
        assert!(!arrived.is_last);
        assert!(inbox.take(Duration::ZERO).items.is_empty());
    }

    #[test]
    fn a_sleeping_thread_wakes_for_every_item() {
        let (sender, inbox) = inbox();
        let (answer, answered) = std::sync::mpsc::channel();
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..1000 {
                    for item in inbox.take(LONG).items {
                        answer.send(item).unwrap();
                    }
                }
            });
            for item in 0..1000 {
                sender.send(item).unwrap();
                // It has nothing else to do, so it goes to sleep before the next one.
                assert_eq!(answered.recv().unwrap(), item);
            }
        });
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn an_empty_inbox_is_looked_into_for_as_long_as_asked() {
        let (sender, inbox) = inbox::<()>();
        let begun = Instant::now();
        assert!(inbox.take(Duration::from_millis(20)).items.is_empty());
        assert!(begun.elapsed() >= Duration::from_millis(20));
        drop(sender);
    }

    #[test]
    fn the_last_sender_to_leave_wakes_it() {
        let (sender, inbox) = inbox::<()>();
        let other = sender.clone();
        drop(sender);
        assert!(!inbox.take(Duration::ZERO).is_last);
        let begun = Instant::now();
        thread::scope(|scope| {
            scope.spawn(move || drop(other));
            assert!(inbox.take(LONG).is_last);
        });
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn an_inbox_that_is_gone_hands_back_and_keeps_nothing() {
        let (sender, inbox) = inbox();
        let item = Arc::new(());
        sender.send(Arc::clone(&item)).unwrap();
        drop(inbox);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(sender.send(item).is_err());
    }
}
