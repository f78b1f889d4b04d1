//! The log line of a request that was refused before a handler had it on record: a wrong key,
//! too many requests, a path that is not there.

use std::time::Duration;

use super::record::millis;

/// What is known of such a request. Never its headers or its query, which may hold a key.
pub(crate) struct Refused<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// The name of the key, where it was one of ours.
    pub(crate) tenant: Option<&'a str>,
    pub(crate) status: u16,
    /// The machine-readable cause, or empty.
    pub(crate) code: &'a str,
    pub(crate) duration: Duration,
}

/// Writes it.
pub(crate) fn log_refusal(refused: &Refused<'_>) {
    tracing::info!(
        request_id = refused.request_id,
        method = refused.method,
        path = refused.path,
        tenant = refused.tenant.unwrap_or_default(),
        status = refused.status,
        error = refused.code,
        duration_ms = millis(refused.duration),
        "request"
    );
}
