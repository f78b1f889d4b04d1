//! Whose turn it is among tenants that wait: that of who has had the least. What a tenant has
//! had is counted in tokens, those of its prompts as they are admitted and those of its
//! answers as they come (the virtual token counter of Sheng et al., OSDI 2024). Within a
//! tenant it is order of arrival. Every operation is logarithmic in what waits.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::sequence::{Sequence, SequenceId};

/// Who asks; all requests without a name are one tenant's.
pub(super) type Tenant = Option<Arc<str>>;

/// Requests that have not had a seat yet.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// Those who wait or hold seats; never iterated, for its order is no order.
    tenants: HashMap<Tenant, Account>,
    /// Those who wait, by what they have had, then by when they were first seen.
    turns: BTreeMap<Turn, Tenant>,
    /// What the last one who was given a seat had had. A tenant that comes anew starts here,
    /// and saves nothing up while it is away.
    served_so_far: u64,
    num_seen: u64,
    num_waiting: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    served: u64,
    number: u64,
}

#[derive(Debug)]
struct Account {
    turn: Turn,
    waiting: BTreeMap<SequenceId, Sequence>,
    num_admitted: usize,
}

impl FairQueue {
    pub(super) fn num_waiting(&self) -> usize {
        self.num_waiting
    }

    pub(super) fn add(&mut self, sequence: Sequence) {
        let tenant = sequence.tenant().clone();
        let account = self.tenants.entry(tenant.clone()).or_insert_with(|| {
            self.num_seen += 1;
            Account {
                turn: Turn {
                    served: 0,
                    number: self.num_seen,
                },
                waiting: BTreeMap::new(),
                num_admitted: 0,
            }
        });
        if account.waiting.is_empty() {
            account.turn.served = account.turn.served.max(self.served_so_far);
            self.turns.insert(account.turn, tenant);
        }
        account.waiting.insert(sequence.id, sequence);
        self.num_waiting += 1;
    }

    /// Takes out whose turn it is. It is followed by [`admitted`](Self::admitted), or by
    /// [`put_back`](Self::put_back), after which it is the same one's turn again unless another
    /// comes who has had less.
    pub(super) fn take_next(&mut self) -> Option<Sequence> {
        let (_, tenant) = self.turns.first_key_value()?;
        let account = self.tenants.get_mut(tenant)?;
        let (_, sequence) = account.waiting.pop_first()?;
        if account.waiting.is_empty() {
            self.turns.pop_first();
        }
        self.num_waiting -= 1;
        Some(sequence)
    }

    /// Undoes [`take_next`](Self::take_next).
    pub(super) fn put_back(&mut self, sequence: Sequence) {
        if let Some(account) = self.tenants.get_mut(sequence.tenant()) {
            self.turns.insert(account.turn, sequence.tenant().clone());
            account.waiting.insert(sequence.id, sequence);
            self.num_waiting += 1;
        }
    }

    /// The sequence last taken has a seat and is going to compute `num_tokens` of its prompt.
    pub(super) fn admitted(&mut self, tenant: &Tenant, num_tokens: usize) {
        if let Some(account) = self.tenants.get_mut(tenant) {
            account.num_admitted += 1;
            self.served_so_far = self.served_so_far.max(account.turn.served);
        }
        self.charge(tenant, num_tokens);
    }

    /// Counts tokens against a tenant that holds a seat.
    pub(super) fn charge(&mut self, tenant: &Tenant, num_tokens: usize) {
        let Some(account) = self.tenants.get_mut(tenant) else {
            return;
        };
        let name = self.turns.remove(&account.turn);
        account.turn.served += num_tokens as u64;
        if let Some(name) = name {
            self.turns.insert(account.turn, name);
        }
    }

    /// A sequence that had been admitted is gone.
    pub(super) fn left(&mut self, tenant: &Tenant) {
        if let Some(account) = self.tenants.get_mut(tenant) {
            account.num_admitted -= 1;
            self.forget_if_gone(tenant);
        }
    }

    /// Takes a waiting sequence out for good.
    pub(super) fn remove(&mut self, tenant: &Tenant, id: SequenceId) -> Option<Sequence> {
        let account = self.tenants.get_mut(tenant)?;
        let sequence = account.waiting.remove(&id)?;
        self.num_waiting -= 1;
        if account.waiting.is_empty() {
            self.turns.remove(&account.turn);
        }
        self.forget_if_gone(tenant);
        Some(sequence)
    }

    fn forget_if_gone(&mut self, tenant: &Tenant) {
        let is_gone = |account: &Account| account.waiting.is_empty() && account.num_admitted == 0;
        if self.tenants.get(tenant).is_some_and(is_gone) {
            self.tenants.remove(tenant);
        }
    }
}
