//! From the validator to the processor of the same request: its key, under its id.
//!
//! Clients may choose their request ids, so two requests under way may have the same. Then
//! nobody knows whose answer comes, and neither is kept.

use core::time::Duration;

use gapura_plugin_sdk::kv;

/// From a request's validation to the start of its answer; an id that comes again within this
/// time with another request is not kept.
const TTL: Duration = Duration::from_secs(60);

/// What lies where two requests have left something.
const AMBIGUOUS: &[u8] = b"";

/// Leaves `key` for the processor of this request.
pub(crate) fn leave(request_id: &str, tenant: Option<&str>, key: &str) {
    let name = name(request_id, tenant);
    let value = match kv::get(&name) {
        Some(other) if other != key.as_bytes() => AMBIGUOUS,
        _ => key.as_bytes(),
    };
    // Where the route has no room for it the answer is not kept.
    let _ = kv::set_for(&name, value, TTL);
}

/// The key that was left for this request, if one was. It stays: who comes after must see it.
pub(crate) fn find(request_id: &str, tenant: Option<&str>) -> Option<String> {
    let value = kv::get(&name(request_id, tenant))?;
    String::from_utf8(value).ok().filter(|key| !key.is_empty())
}

/// One API key's ids say nothing of another's.
fn name(request_id: &str, tenant: Option<&str>) -> String {
    match tenant {
        // An id has no space.
        Some(tenant) => format!("request {request_id} {tenant}"),
        None => format!("request {request_id}"),
    }
}
