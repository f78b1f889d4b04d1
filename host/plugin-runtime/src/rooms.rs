//! Room for instances: how many may live at once, and whose turn it is.
//!
//! Each route waits in a line of its own. A route that has room already gets more only while it
//! then holds no more than is left for others: alone it may have half of the pool, and however many
//! routes take all that they get, some is left for the next one. Guests that hang, and answers that
//! are read slowly, keep the requests of their own route waiting and nobody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::idle;

/// All room of a runtime.
pub(crate) struct Rooms {
    max: u32,
    state: Mutex<State>,
    /// The instances that wait for a request. They give way to those that one needs.
    pub(crate) idle: idle::Bindings,
}

struct State {
    free: u32,
    /// Held by instances that wait for a request: as good as free.
    idle: u32,
    /// Of routes that hold room or wait for some.
    lines: HashMap<Arc<str>, Line>,
    num_waiting: usize,
    /// How many have waited so far.
    tickets: u64,
    /// Somebody has a right to room that is not free: nobody goes before, and nothing is kept idle.
    is_short: bool,
}

#[derive(Default)]
struct Line {
    held: u32,
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    ticket: u64,
    count: u32,
    is_nested: bool,
    sender: oneshot::Sender<Room>,
}

/// Room for instances, given back when dropped. What lives in it has to go first.
pub(crate) struct Room {
    rooms: Arc<Rooms>,
    /// Whose it is; `None` for an instance that waits for a request.
    route: Option<Arc<str>>,
    count: u32,
}

/// Who wants room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) route: &'a Arc<str>,
    /// All at once: holding some while waiting for more would let requests block each other.
    pub(crate) count: u32,
    /// For a guest of the route that waits for it and so keeps its own room meanwhile: the route's
    /// share does not count, and it goes first.
    pub(crate) is_nested: bool,
}

/// More than there is, whoever else has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Rooms {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            max,
            state: Mutex::new(State {
                free: max,
                idle: 0,
                lines: HashMap::new(),
                num_waiting: 0,
                tickets: 0,
                is_short: false,
            }),
            idle: idle::Bindings::default(),
        })
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn free(&self) -> u32 {
        self.locked().free
    }

    /// Waits for room. Dropping the future gives up the place in line.
    ///
    /// # Errors
    /// [`TooMany`], at once.
    pub(crate) async fn reserve(self: &Arc<Self>, claim: Claim<'_>) -> Result<Room, TooMany> {
        if claim.count > self.max {
            return Err(TooMany);
        }
        let receiver = {
            let mut state = self.locked();
            let line = state.lines.get(claim.route);
            let is_next = line.is_none_or(|line| line.waiting.is_empty()) && !state.is_short;
            let held = line.map_or(0, |line| line.held);
            if is_next && claim.count <= state.free && state.is_fair(held, claim.count) {
                return Ok(self.take(&mut state, claim.route, claim.count));
            }
            let (sender, receiver) = oneshot::channel();
            state.tickets += 1;
            let waiter = Waiter {
                ticket: state.tickets,
                count: claim.count,
                is_nested: claim.is_nested,
                sender,
            };
            state.num_waiting += 1;
            let line = state.lines.entry(Arc::clone(claim.route)).or_default();
            match claim.is_nested {
                true => line.waiting.push_front(waiter),
                false => line.waiting.push_back(waiter),
            }
            receiver
        };
        self.settle();
        Ok(receiver.await.expect("a line keeps whoever still waits"))
    }

    /// Room for an instance that waits for a request, if there is some that nobody has a right to.
    pub(crate) fn spare(self: &Arc<Self>) -> Option<Room> {
        let mut state = self.locked();
        if state.is_short || state.free == 0 {
            return None;
        }
        state.free -= 1;
        state.idle += 1;
        Some(Room {
            rooms: Arc::clone(self),
            route: None,
            count: 1,
        })
    }

    fn take(self: &Arc<Self>, state: &mut State, route: &Arc<str>, count: u32) -> Room {
        state.free -= count;
        state.lines.entry(Arc::clone(route)).or_default().held += count;
        Room {
            rooms: Arc::clone(self),
            route: Some(Arc::clone(route)),
            count,
        }
    }

    /// Gives room to those who wait, as far as there is any; idle instances give way.
    fn settle(self: &Arc<Self>) {
        loop {
            let (granted, lacking) = self.grant();
            for (sender, room) in granted {
                // Back again at once if nobody waits for it any more.
                drop(sender.send(room));
            }
            if lacking == 0 || self.idle.release(lacking as usize) == 0 {
                return;
            }
        }
    }

    /// Takes room for as many as there is some for, and says how much the next one lacks.
    fn grant(self: &Arc<Self>) -> (Vec<(oneshot::Sender<Room>, Room)>, u32) {
        let mut granted = Vec::new();
        let mut state = self.locked();
        state.forget_who_left();
        loop {
            let Some((route, count)) = state.next() else {
                state.is_short = false;
                return (granted, 0);
            };
            if count > state.free {
                state.is_short = true;
                return (granted, count - state.free);
            }
            let line = state.lines.get_mut(&route);
            if let Some(waiter) = line.and_then(|line| line.waiting.pop_front()) {
                state.num_waiting -= 1;
                granted.push((waiter.sender, self.take(&mut state, &route, count)));
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a route that holds `held` leaves as many to others with `count` more.
    fn is_fair(&self, held: u32, count: u32) -> bool {
        let left = (self.free + self.idle).saturating_sub(count);
        held == 0 || held + count <= left
    }

    /// Who is next of those who have a right to more: of the route that holds the least, and of
    /// several such whoever came first.
    fn next(&self) -> Option<(Arc<str>, u32)> {
        if self.num_waiting == 0 {
            return None;
        }
        let firsts = self.lines.iter().filter_map(|(route, line)| {
            let first = line.waiting.front()?;
            let may_have = first.is_nested || self.is_fair(line.held, first.count);
            let rank = (!first.is_nested, line.held, first.ticket);
            may_have.then_some((rank, route, first.count))
        });
        let next = firsts.min_by_key(|(rank, _, _)| *rank);
        next.map(|(_, route, count)| (Arc::clone(route), count))
    }

    fn forget_who_left(&mut self) {
        if self.num_waiting == 0 {
            return;
        }
        self.lines.retain(|_, line| {
            let before = line.waiting.len();
            line.waiting.retain(|waiter| !waiter.sender.is_closed());
            self.num_waiting -= before - line.waiting.len();
            line.held > 0 || !line.waiting.is_empty()
        });
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.rooms.locked();
        state.free += self.count;
        let Some(route) = &self.route else {
            // Whoever is short of it has asked for it, and looks again.
            state.idle -= self.count;
            return;
        };
        if let Some(line) = state.lines.get_mut(route) {
            line.held -= self.count;
            if line.held == 0 && line.waiting.is_empty() {
                state.lines.remove(route);
            }
        }
        let is_waited_for = state.num_waiting > 0;
        drop(state);
        if is_waited_for {
            self.rooms.settle();
        }
    }
}

#[cfg(test)]
mod tests;
