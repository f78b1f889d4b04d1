//! Versions of a plugin that differ in nothing but their digests, and how they stand.

use std::{
    thread,
    time::{Duration, Instant},
};

use gapura_plugin_runtime::add_custom_section;
use gapura_test_guests as guests;
use serde_json::Value;

use crate::process::Process;

/// `component` as one of many versions that do the same.
pub(crate) fn marked(component: &[u8], mark: &str) -> Vec<u8> {
    let mut other = component.to_vec();
    add_custom_section(&mut other, "mark", mark.as_bytes());
    other
}

/// The guest that puts deltas into brackets, [`marked`].
pub(crate) fn version(mark: &str) -> Vec<u8> {
    marked(guests::BRACKETS, mark)
}

/// What the administration says of a plugin.
pub(crate) fn plugin(server: &Process, name: &str) -> Value {
    let (status, plugin) = server.admin("GET", &format!("plugins/{name}"), None);
    assert_eq!(status, 200, "{plugin}");
    plugin
}

/// Of the plugin `mark`: the digest that serves, and the states of all versions, the newest first.
pub(crate) fn stand(server: &Process) -> (String, Vec<String>) {
    let plugin = plugin(server, "mark");
    let versions = plugin["versions"].as_array().expect("a list");
    let states = versions
        .iter()
        .map(|version| version["state"].as_str().expect("a state").to_owned());
    let digest = plugin["digest"].as_str().expect("a digest").to_owned();
    (digest, states.collect())
}

/// Waits until `is_so`, which it has to be within so many `seconds`.
pub(crate) fn within(seconds: u64, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
