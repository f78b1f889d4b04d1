//! Everything without a seat: requests that never had one, and sequences that gave theirs
//! back. The low lane goes after the normal one, but not for ever.

use std::collections::{BTreeMap, HashMap};

use super::fair::{FairQueue, Tenant};
use crate::{
    request::Lane,
    sequence::{Rank, Sequence, SequenceId},
};

/// Of so many seats in a row that go to the normal lane while somebody waits in the low one,
/// the next goes to the low one.
const NORMAL_IN_A_ROW: u32 = 8;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    normal: LaneQueue,
    low: LaneQueue,
    normal_in_a_row: u32,
    num_admitted: u64,
    places: HashMap<SequenceId, Place>,
}

/// One lane: who had a seat before goes first, then who never had one.
#[derive(Debug, Default)]
struct LaneQueue {
    preempted: BTreeMap<Rank, Sequence>,
    fresh: FairQueue,
}

/// Where a waiting sequence is to be found.
#[derive(Debug, Clone)]
enum Place {
    Fresh(Lane, Tenant),
    Preempted(Rank),
}

impl Waiting {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Sequences that had a seat.
    pub(super) fn num_preempted(&self) -> usize {
        self.normal.preempted.len() + self.low.preempted.len()
    }

    /// A request that has just come.
    pub(super) fn add(&mut self, sequence: Sequence) {
        let place = Place::Fresh(sequence.lane(), sequence.tenant().clone());
        self.places.insert(sequence.id, place);
        self.lane(sequence.lane()).fresh.add(sequence);
    }

    /// A sequence that has given its seat back.
    pub(super) fn add_preempted(&mut self, sequence: Sequence) {
        let rank = sequence.rank;
        self.places.insert(sequence.id, Place::Preempted(rank));
        self.lane(rank.lane).preempted.insert(rank, sequence);
    }

    /// Sequences that had a seat, to note whether their clients have read.
    pub(super) fn preempted_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        let lanes = [&mut self.normal, &mut self.low];
        lanes
            .into_iter()
            .flat_map(|lane| lane.preempted.values_mut())
    }

    /// Takes out who is to have the next seat. One that is paused is passed over. What is taken
    /// goes to [`admit`](Self::admit) or back to [`put_back`](Self::put_back).
    pub(super) fn take_next(&mut self) -> Option<Sequence> {
        let is_lows_turn = self.normal_in_a_row >= NORMAL_IN_A_ROW;
        let (first, second) = if is_lows_turn {
            (&mut self.low, &mut self.normal)
        } else {
            (&mut self.normal, &mut self.low)
        };
        first.take_next().or_else(|| second.take_next())
    }

    /// Undoes [`take_next`](Self::take_next).
    pub(super) fn put_back(&mut self, sequence: Sequence) {
        let is_fresh = matches!(self.places.get(&sequence.id), Some(Place::Fresh(..)));
        if is_fresh {
            self.lane(sequence.lane()).fresh.put_back(sequence);
        } else {
            let rank = sequence.rank;
            self.lane(rank.lane).preempted.insert(rank, sequence);
        }
    }

    /// The sequence last taken gets a seat, to compute `num_tokens`. Whether it is its first;
    /// it has its rank then.
    pub(super) fn admit(&mut self, sequence: &mut Sequence, num_tokens: usize) -> bool {
        let is_first = matches!(self.places.remove(&sequence.id), Some(Place::Fresh(..)));
        if is_first {
            self.num_admitted += 1;
            sequence.rank = Rank {
                lane: sequence.lane(),
                number: self.num_admitted,
            };
            let fresh = &mut self.lane(sequence.lane()).fresh;
            fresh.admitted(sequence.tenant(), num_tokens);
        }
        self.normal_in_a_row = match sequence.rank.lane {
            Lane::Low => 0,
            Lane::Normal if self.low.is_empty() => 0,
            Lane::Normal => self.normal_in_a_row + 1,
        };
        is_first
    }

    /// Counts generated tokens against who asked for them.
    pub(super) fn charge(&mut self, sequence: &Sequence, num_tokens: usize) {
        let fresh = &mut self.lane(sequence.lane()).fresh;
        fresh.charge(sequence.tenant(), num_tokens);
    }

    /// A sequence that had a seat is gone for good.
    pub(super) fn left(&mut self, sequence: &Sequence) {
        let fresh = &mut self.lane(sequence.lane()).fresh;
        fresh.left(sequence.tenant());
    }

    /// Tokens that a waiting sequence has generated.
    pub(super) fn num_generated(&self, id: SequenceId) -> usize {
        let Some(Place::Preempted(rank)) = self.places.get(&id) else {
            return 0;
        };
        let lanes = [&self.normal, &self.low];
        let mut found = lanes.iter().filter_map(|lane| lane.preempted.get(rank));
        found
            .next()
            .map_or(0, |sequence| sequence.generated().len())
    }

    /// Takes a waiting sequence out for good; `None` if it does not wait.
    pub(super) fn remove(&mut self, id: SequenceId) -> Option<Sequence> {
        match self.places.remove(&id)? {
            Place::Fresh(lane, tenant) => self.lane(lane).fresh.remove(&tenant, id),
            Place::Preempted(rank) => {
                let sequence = self.lane(rank.lane).preempted.remove(&rank)?;
                self.left(&sequence);
                Some(sequence)
            }
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut LaneQueue {
        match lane {
            Lane::Normal => &mut self.normal,
            Lane::Low => &mut self.low,
        }
    }
}

impl LaneQueue {
    fn is_empty(&self) -> bool {
        self.preempted.is_empty() && self.fresh.num_waiting() == 0
    }

    fn take_next(&mut self) -> Option<Sequence> {
        let mut preempted = self.preempted.iter();
        let ready = preempted.find_map(|(rank, sequence)| (!sequence.is_paused).then_some(*rank));
        match ready {
            Some(rank) => self.preempted.remove(&rank),
            None => self.fresh.take_next(),
        }
    }
}
