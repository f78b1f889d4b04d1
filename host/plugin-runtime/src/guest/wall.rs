//! The limit of a guest call by the clock on the wall.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::state::Abort;

/// A call may take this many times its processor time by the clock on the wall, and the base on
/// top: it may wait for a core or, under WASI, sleep, which no epoch ends. Wide, since a busy
/// machine must not fail a guest that does little; what it has to end is a request that hangs.
const WALL_FACTOR: u32 = 4;
const WALL_BASE: Duration = Duration::from_millis(500);

/// How long a call may take by the clock on the wall.
pub(super) struct Wall {
    limit: Duration,
    /// Nanoseconds on top, for the answers that the guest has waited for.
    extra: Arc<AtomicU64>,
}

impl Wall {
    /// Of a call that may work for `budget`; `extra` may grow while it runs.
    pub(super) fn new(budget: Duration, extra: Arc<AtomicU64>) -> Self {
        Self {
            limit: budget * WALL_FACTOR + WALL_BASE,
            extra,
        }
    }

    /// Awaits `call`, not for longer than it may take. A call that ends before it first waits or
    /// yields never meets that limit, and costs no timer.
    pub(super) async fn hold<T>(
        &self,
        call: impl Future<Output = wasmtime::Result<T>>,
    ) -> wasmtime::Result<T> {
        let mut call = pin!(call);
        let started = tokio::time::Instant::now();
        let mut limit = self.limit;
        loop {
            if let Ok(result) = tokio::time::timeout_at(started + limit, &mut call).await {
                return result;
            }
            let extended = self.limit + Duration::from_nanos(self.extra.load(Ordering::Relaxed));
            if extended == limit {
                let limit_ms = limit.as_millis();
                return Err(Abort::TookTooLong { limit_ms }.into());
            }
            limit = extended;
        }
    }
}
