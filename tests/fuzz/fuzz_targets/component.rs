//! Any bytes as a plugin.
//!
//! They are a plugin or an error of one screen, within the time that compiling takes and the probe
//! allows. A panic of the probe's thread ends the process too.
#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use gapura_plugin_runtime::{PluginRuntime, RuntimeConfig, custom_sections};
use libfuzzer_sys::fuzz_target;

static RUNTIME: LazyLock<PluginRuntime> = LazyLock::new(|| {
    PluginRuntime::new(RuntimeConfig {
        max_instances: 1,
        max_memory_bytes: 64 << 20,
        ..RuntimeConfig::default()
    })
    .expect("a runtime")
});

/// The probe stops a start function after four and a half seconds; the sanitizer makes compiling
/// an input of the greatest length slow.
const MAX_LOAD_TIME: Duration = Duration::from_secs(10);
/// What a message may have: it goes into a log line and an HTTP answer.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

fuzz_target!(|data: &[u8]| {
    custom_sections(data, "gapura:case");
    let started = Instant::now();
    if let Err(error) = RUNTIME.load("fuzzed", data) {
        let message = error.to_string();
        assert!(
            (1..=MAX_MESSAGE_BYTES).contains(&message.len()),
            "{message}"
        );
    }
    assert!(started.elapsed() < MAX_LOAD_TIME, "{:?}", started.elapsed());
});
