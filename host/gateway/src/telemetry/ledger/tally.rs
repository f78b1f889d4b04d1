//! What the plugins of a chain cost one request. It hears of every call, books it to the plugin's
//! account, and when the request is over, its sum.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gapura_plugin_runtime::{
    CallObserver, FailureKind, FailurePolicy, GuestCall, Outcome, PluginId, Stage,
};

use super::account::{Account, Asked, nanos};
use super::{Accounts, Ledger};

/// The tally of one request on one chain. Dropping it books the request.
#[derive(Debug)]
pub(crate) struct Tally {
    ledger: Arc<Ledger>,
    accounts: Accounts,
    /// In the order of the chain.
    spent: Box<[Spent]>,
    /// Of plugins that are not of the chain, such as a version that stands in for one.
    others: Mutex<Others>,
}

type Others = Vec<(Arc<Account>, Arc<Spent>)>;

/// What one plugin has spent on the request so far.
#[derive(Debug, Default)]
struct Spent {
    is_called: AtomicBool,
    has_failed: AtomicBool,
    has_timed_out: AtomicBool,
    stages_ns: [AtomicU64; Stage::ALL.len()],
}

/// What one stage of a plugin took, of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageCost {
    /// Which plugin.
    pub(crate) plugin: PluginId,
    /// Which stage.
    pub(crate) stage: Stage,
    /// All its calls, the making of instances included.
    pub(crate) took: Duration,
}

impl Tally {
    pub(super) fn new(ledger: Arc<Ledger>, accounts: Accounts) -> Self {
        Self {
            ledger,
            spent: accounts.iter().map(|_| Spent::default()).collect(),
            accounts,
            others: Mutex::default(),
        }
    }

    /// What was spent so far, in the order of the chain and of the pipeline.
    pub(crate) fn costs(&self) -> Vec<StageCost> {
        let others = self.others();
        let others = others.iter().map(|(account, spent)| (account, &**spent));
        let all = self.accounts.iter().zip(&self.spent).chain(others);
        let costs = all.flat_map(|(account, spent)| {
            Stage::ALL.into_iter().filter_map(|stage| {
                let ns = spent.stages_ns[stage as usize].load(Ordering::Relaxed);
                (ns > 0).then(|| StageCost {
                    plugin: account.id.clone(),
                    stage,
                    took: Duration::from_nanos(ns),
                })
            })
        });
        costs.collect()
    }

    /// `plugin` has asked the model; `tokens` are those of its prompt and of what came.
    pub(crate) fn question(&self, plugin: &PluginId, asked: Asked, tokens: [u32; 2]) {
        self.with(plugin, |account, _| account.question(asked, tokens));
    }

    /// Digests differ in their first bytes, so that the search costs nothing.
    fn with(&self, plugin: &PluginId, work: impl FnOnce(&Account, &Spent)) {
        let is_of = |account: &Arc<Account>| {
            account.id.digest == plugin.digest && account.id.name == plugin.name
        };
        if let Some(place) = self.accounts.iter().position(is_of) {
            return work(&self.accounts[place], &self.spent[place]);
        }
        let mut others = self.others();
        let place = others.iter().position(|(account, _)| is_of(account));
        let place = place.unwrap_or_else(|| {
            let route = self.accounts.first().map_or("", |account| &account.route);
            others.push((self.ledger.account(route, plugin), Arc::default()));
            others.len() - 1
        });
        let (account, spent) = others[place].clone();
        drop(others);
        work(&account, &spent);
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    fn failed(&self, kind: FailureKind) {
        self.is_called.store(true, Ordering::Relaxed);
        self.has_failed.store(true, Ordering::Relaxed);
        if kind == FailureKind::Deadline {
            self.has_timed_out.store(true, Ordering::Relaxed);
        }
    }

    fn book(&mut self, account: &Account) {
        if *self.is_called.get_mut() {
            let took_ns = self.stages_ns.iter_mut().map(|ns| *ns.get_mut()).sum();
            let (failed, timed_out) = (self.has_failed.get_mut(), self.has_timed_out.get_mut());
            account.request(took_ns, *failed, *timed_out);
        }
    }
}

impl CallObserver for Tally {
    fn observe(&self, call: &GuestCall<'_>) {
        self.with(call.plugin, |account, spent| {
            account.call(call);
            spent.is_called.store(true, Ordering::Relaxed);
            // A clock may not have moved; that the stage was called must show all the same.
            let ns = nanos(call.duration).max(1);
            spent.stages_ns[call.stage as usize].fetch_add(ns, Ordering::Relaxed);
            if let Outcome::Failed(kind) = call.outcome {
                spent.failed(kind);
            }
        });
    }

    fn failed(&self, plugin: &PluginId, stage: Stage, kind: FailureKind) {
        self.with(plugin, |account, spent| {
            account.failure(stage, kind);
            spent.failed(kind);
        });
    }

    fn fell_back(&self, plugin: &PluginId, stage: Stage, policy: &FailurePolicy) {
        self.with(plugin, |account, _| account.fell_back(stage, policy));
    }

    fn reused(&self, plugin: &PluginId) {
        self.with(plugin, |account, _| account.reused());
    }

    fn recycled(&self, plugin: &PluginId) {
        self.with(plugin, |account, _| account.recycled());
    }

    fn breaker_opened(&self, plugin: &PluginId, stage: Stage) {
        self.with(plugin, |account, _| account.breaker_opened(stage));
    }

    fn held(&self, plugin: &PluginId, bytes: u64) {
        self.with(plugin, |account, _| account.held(bytes));
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        for (account, spent) in self.accounts.iter().zip(&mut self.spent) {
            spent.book(account);
        }
        let others = self
            .others
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (account, spent) in others {
            if let Some(spent) = Arc::get_mut(spent) {
                spent.book(account);
            }
        }
    }
}
