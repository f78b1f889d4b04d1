//! How many threads are worth starting: two hardware threads of one core share its arithmetic
//! units, which a matrix product keeps busy alone.

use std::{collections::HashSet, fs, thread};

/// Physical cores, no more than the CPUs that the process may use. At least 1.
pub(super) fn physical() -> usize {
    let usable = thread::available_parallelism().map_or(1, usize::from);
    let cores = sibling_groups().map_or(usable, |groups| groups.len());
    cores.clamp(1, usable)
}

/// The distinct groups of sibling threads, as Linux lists them; `None` elsewhere.
fn sibling_groups() -> Option<HashSet<String>> {
    let cpus = fs::read_dir("/sys/devices/system/cpu").ok()?;
    let groups: HashSet<String> = cpus
        .filter_map(|cpu| {
            let siblings = cpu.ok()?.path().join("topology/thread_siblings_list");
            fs::read_to_string(siblings).ok()
        })
        .collect();
    (!groups.is_empty()).then_some(groups)
}
