//! What plugins cost: one account for each version of a plugin on each route. Everything that is
//! said of it, by `/metrics`, the administration API, `Server-Timing` and the release controller,
//! comes from here.
//!
//! A request finds the accounts of its chain once, by its route; calls find theirs by comparing
//! digests, and add to counters. Nothing is locked or hashed while an answer streams.

mod account;
mod histogram;
mod series;
mod tally;

use std::collections::BTreeMap;
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gapura_plugin_runtime::{Chain, PluginId};

pub(crate) use account::{Account, AccountStatus, Asked};
#[cfg(test)]
pub(crate) use histogram::Histogram;
pub use histogram::Snapshot;
pub(super) use series::Series;
pub(crate) use tally::Tally;

/// Accounts of versions that no route serves with any more. Each takes about 10 KiB.
const MAX_RETIRED: usize = 256;

/// The accounts of a chain's plugins, in its order.
pub(crate) type Accounts = Arc<[Arc<Account>]>;

/// All accounts of the process.
#[derive(Debug)]
pub struct Ledger {
    is_on: AtomicBool,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// By name, digest and route, with the number of the account.
    accounts: BTreeMap<[String; 3], (u64, Arc<Account>)>,
    /// Accounts ever opened.
    opened: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(true),
            books: Mutex::default(),
        }
    }
}

/// What one version has done on all its routes. A difference of two is what came between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests in which it was called and that are over.
    pub requests: u64,
    /// Those in which a call failed, whatever its binding made of that.
    pub failed: u64,
    /// Those in which a call ran out of time; they count as failed too.
    pub deadlines: u64,
    /// All its calls for one request together, the making of instances included.
    pub latency: Snapshot,
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failed: self.failed.saturating_sub(earlier.failed),
            deadlines: self.deadlines.saturating_sub(earlier.deadlines),
            latency: self.latency - earlier.latency,
        }
    }
}

impl Ledger {
    /// What the version `digest` of the plugin `name` has done so far; nothing where it never ran.
    pub fn version(&self, name: &str, digest: &str) -> Totals {
        let accounts = self.accounts_of(name);
        let of_version = accounts
            .iter()
            .filter(|account| account.id.digest == digest);
        of_version.fold(Totals::default(), |sum, account| {
            let totals = account.totals();
            Totals {
                requests: sum.requests + totals.requests,
                failed: sum.failed + totals.failed,
                deadlines: sum.deadlines + totals.deadlines,
                latency: sum.latency + totals.latency,
            }
        })
    }

    /// Closes the accounts of versions that are not `known` and that nothing runs with any more.
    /// Of the others as well the oldest go where there are too many.
    pub fn keep(&self, known: impl Fn(&PluginId) -> bool) {
        let mut books = self.books();
        books
            .accounts
            .retain(|_, (_, account)| !is_retired(account) || known(&account.id));
    }

    /// Whether anything is booked from now on.
    pub fn switch(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Whether anything is booked.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// The accounts of `chain`; those that there are not yet are opened.
    pub(crate) fn accounts(&self, chain: &Chain) -> Accounts {
        let bindings = chain.bindings().iter();
        let account = |id| self.account(chain.route(), id);
        bindings
            .map(|binding| account(binding.plugin.id()))
            .collect()
    }

    /// The tally of a request on the chain whose accounts these are.
    pub(crate) fn tally(self: &Arc<Self>, accounts: &Accounts) -> Arc<Tally> {
        Arc::new(Tally::new(Arc::clone(self), Arc::clone(accounts)))
    }

    /// What is said of the versions of the plugin `name`, by version and route.
    pub(crate) fn status(&self, name: &str) -> Vec<AccountStatus> {
        let accounts = self.accounts_of(name);
        accounts.iter().map(|account| account.status()).collect()
    }

    /// The account of `id` on `route`, opened where there is none.
    pub(super) fn account(&self, route: &str, id: &PluginId) -> Arc<Account> {
        if !self.is_on() {
            return Arc::new(Account::new(route, id));
        }
        let mut books = self.books();
        let key = [&id.name, &id.digest, route].map(|part: &str| part.to_owned());
        if let Some((_, account)) = books.accounts.get(&key) {
            return Arc::clone(account);
        }
        let account = Arc::new(Account::new(route, id));
        books.opened += 1;
        let entry = (books.opened, Arc::clone(&account));
        books.accounts.insert(key, entry);
        books.close_oldest();
        account
    }

    fn accounts_of(&self, name: &str) -> Vec<Arc<Account>> {
        let books = self.books();
        let all = books.accounts.values().map(|(_, account)| account);
        all.filter(|account| account.id.name == name)
            .cloned()
            .collect()
    }

    fn all(&self) -> Vec<Arc<Account>> {
        let books = self.books();
        let all = books.accounts.values();
        all.map(|(_, account)| Arc::clone(account)).collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn close_oldest(&mut self) {
        let accounts = self.accounts.iter();
        let retired = accounts.filter(|(_, (_, account))| is_retired(account));
        let mut retired: Vec<_> = retired
            .map(|(key, (number, _))| (*number, key.clone()))
            .collect();
        retired.sort_unstable();
        let surplus = retired.len().saturating_sub(MAX_RETIRED);
        for (_, key) in &retired[..surplus] {
            self.accounts.remove(key);
        }
    }
}

/// Nobody else has it: no route, and no request under way.
fn is_retired(account: &Arc<Account>) -> bool {
    Arc::strong_count(account) == 1
}

#[cfg(test)]
mod tests;
