//! From the validator to the processor of the same request: its key, under the id of its call, which
//! the host makes and no client chooses.

use core::time::Duration;

use gapura_plugin_sdk::kv;

/// From a request's validation to the start of its answer.
const TTL: Duration = Duration::from_secs(60);

/// Leaves `key` for the processor of this call.
pub(crate) fn leave(call_id: &str, key: &str) {
    // Where the route has no room for it the answer is not kept.
    let _ = kv::set_for(&name(call_id), key.as_bytes(), TTL);
}

/// Takes the key that was left for this call, if one was.
pub(crate) fn take(call_id: &str) -> Option<String> {
    let name = name(call_id);
    let key = kv::get(&name)?;
    kv::delete(&name);
    String::from_utf8(key).ok()
}

fn name(call_id: &str) -> String {
    format!("call {call_id}")
}
