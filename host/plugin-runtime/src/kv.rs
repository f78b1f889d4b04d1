//! What plugins remember from request to request: bounded stores, one for each plugin on each
//! route. They outlive instances, versions and chains.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes of key and value of one entry.
pub const KV_ENTRY_BYTES: u64 = 64 << 10;
/// What an entry takes beside key and value: two allocations, a slot of a hash table that may be
/// half empty, and one of a tree whose nodes may be.
const OVERHEAD_BYTES: u64 = 256;

/// The stores of a process.
#[derive(Debug, Default)]
pub struct Kv(Mutex<HashMap<(String, String), Arc<Store>>>);

impl Kv {
    /// The store of the plugin named `plugin` on `route`, made when first asked for.
    pub(crate) fn store(&self, route: &str, plugin: &str) -> Arc<Store> {
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (route.to_owned(), plugin.to_owned());
        Arc::clone(stores.entry(key).or_default())
    }

    /// Lets the plugin named `plugin` on `route` remember `value`, as if it had set it itself: for
    /// requests that are played again. What is larger than an entry may be is left out.
    pub fn preset(&self, route: &str, plugin: &str, key: &str, value: &[u8]) {
        let store = self.store(route, plugin);
        let _ = store.set(key.to_owned(), value.to_vec(), None, u64::MAX);
    }
}

/// One plugin's values on one route. Times are nanoseconds of one monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Store(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<Arc<str>, Entry>,
    /// Keys by when they were last used.
    by_use: BTreeMap<u64, Arc<str>>,
    /// Counts uses.
    uses: u64,
    /// Keys, values and what keeping them takes.
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    value: Box<[u8]>,
    /// When it is over.
    until_ns: Option<u64>,
    used: u64,
}

impl Store {
    /// The value of `key`, which counts as a use of it.
    pub(crate) fn get(&self, key: &str, now_ns: u64) -> Option<Vec<u8>> {
        let mut entries = self.entries();
        let entry = entries.by_key.get(key)?;
        if entry.is_over(now_ns) {
            entries.remove(key);
            return None;
        }
        let used = entries.next_use();
        let entry = entries.by_key.get_mut(key)?;
        let before = std::mem::replace(&mut entry.used, used);
        let value = entry.value.to_vec();
        if let Some(key) = entries.by_use.remove(&before) {
            entries.by_use.insert(used, key);
        }
        Some(value)
    }

    /// Puts `value` in place of what is there, and lets go what was not used for longest until all
    /// fit into `limit_bytes`.
    ///
    /// # Errors
    /// The most bytes that key and value may have, where they have more; what was there stays.
    pub(crate) fn set(
        &self,
        key: String,
        value: Vec<u8>,
        until_ns: Option<u64>,
        limit_bytes: u64,
    ) -> Result<(), u64> {
        let most = KV_ENTRY_BYTES.min(limit_bytes.saturating_sub(OVERHEAD_BYTES));
        if (key.len() + value.len()) as u64 > most {
            return Err(most);
        }
        let mut entries = self.entries();
        entries.remove(&key);
        let used = entries.next_use();
        let key: Arc<str> = key.into();
        let value = value.into_boxed_slice();
        entries.bytes += entry_bytes(&key, &value);
        entries.by_use.insert(used, Arc::clone(&key));
        let entry = Entry {
            value,
            until_ns,
            used,
        };
        entries.by_key.insert(key, entry);
        entries.fit(limit_bytes);
        Ok(())
    }

    /// Forgets `key`; whether it was there.
    pub(crate) fn delete(&self, key: &str, now_ns: u64) -> bool {
        let removed = self.entries().remove(key);
        removed.is_some_and(|entry| !entry.is_over(now_ns))
    }

    /// A guest's panic never happens with the lock held.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let (key, entry) = self.by_key.remove_entry(key)?;
        self.by_use.remove(&entry.used);
        self.bytes -= entry_bytes(&key, &entry.value);
        Some(entry)
    }

    fn fit(&mut self, limit_bytes: u64) {
        while self.bytes > limit_bytes
            && let Some((_, key)) = self.by_use.pop_first()
        {
            self.remove(&key);
        }
    }
}

impl Entry {
    fn is_over(&self, now_ns: u64) -> bool {
        self.until_ns.is_some_and(|until_ns| until_ns <= now_ns)
    }
}

fn entry_bytes(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 1 << 20;

    fn set(store: &Store, key: &str, value: &[u8], limit_bytes: u64) {
        let set = store.set(key.to_owned(), value.to_vec(), None, limit_bytes);
        set.expect("small enough");
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let store = Store::default();
        let limit = 3 * (2 + OVERHEAD_BYTES);
        for key in ["a", "b", "c"] {
            set(&store, key, b"1", limit);
        }
        assert_eq!(store.get("a", 0), Some(b"1".to_vec()));
        set(&store, "d", b"1", limit);
        assert_eq!(store.get("b", 0), None, "used before all others");
        for key in ["a", "c", "d"] {
            assert!(store.get(key, 0).is_some(), "{key}");
        }
        // A smaller limit, as a changed configuration brings, holds from the next value on.
        set(&store, "e", b"1", limit / 3);
        assert_eq!(store.entries().by_key.len(), 1);
        assert_eq!(store.entries().bytes, 2 + OVERHEAD_BYTES);
    }

    #[test]
    fn a_value_is_there_until_its_time_is_over() {
        let store = Store::default();
        store
            .set("k".to_owned(), vec![1], Some(10), ROOM)
            .expect("small");
        assert_eq!(store.get("k", 9), Some(vec![1]));
        assert_eq!(store.get("k", 10), None);
        assert_eq!(store.entries().bytes, 0, "it is gone, not hidden");
        store
            .set("k".to_owned(), vec![2], Some(10), ROOM)
            .expect("small");
        assert!(!store.delete("k", 10), "nobody could read it any more");
        store
            .set("k".to_owned(), vec![3], None, ROOM)
            .expect("small");
        assert!(store.delete("k", u64::MAX));
        assert!(!store.delete("k", 0));
    }

    #[test]
    fn an_entry_that_is_too_large_changes_nothing() {
        let store = Store::default();
        set(&store, "k", b"before", ROOM);
        let large = vec![0; KV_ENTRY_BYTES as usize];
        assert_eq!(
            store.set("k".to_owned(), large, None, ROOM),
            Err(KV_ENTRY_BYTES)
        );
        assert_eq!(store.get("k", 0), Some(b"before".to_vec()));
        let set = store.set("key".to_owned(), vec![0; 8], None, OVERHEAD_BYTES + 10);
        assert_eq!(set, Err(10), "the store itself is smaller");
        assert_eq!(store.set("k".to_owned(), vec![], None, 0), Err(0));
    }

    proptest::proptest! {
        /// Whatever is done, the books are right and the bound holds.
        #[test]
        fn the_bytes_counted_are_the_bytes_held(
            steps in proptest::collection::vec((0..4_u8, 0..12_u8, 0..2000_usize), 0..200),
        ) {
            let (store, limit) = (Store::default(), 8 << 10);
            for (step, key, size) in steps {
                let key = key.to_string();
                match step {
                    0 => drop(store.get(&key, size as u64)),
                    1 => drop(store.delete(&key, size as u64)),
                    _ => store.set(key, vec![0; size], Some(1000), limit).expect("small"),
                }
                let entries = store.entries();
                let held: u64 = entries.by_key.iter().map(|(key, e)| entry_bytes(key, &e.value)).sum();
                assert_eq!(entries.bytes, held);
                assert!(held <= limit);
                assert_eq!(entries.by_key.len(), entries.by_use.len());
            }
        }
    }
}
