//! What a store carries: the limits of one instance, what it imports, and an empty WASI.

mod imports;
mod wasi;

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::bound::Bound;
use crate::budget::Budget;
use crate::guest::Failure;
use crate::http::Sent;
use crate::kv::Store;
use crate::limits::{Grants, Limits};
use crate::model::Spent;
use crate::plugin::{PluginId, Stage};
use crate::services::Services;

/// How many calls' worth of log lines an instance gets.
const LOG_CALLS: u64 = 16;

/// What is the same for every instance of a binding.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) id: PluginId,
    pub(crate) route: Arc<str>,
    /// Its place in the chain.
    pub(crate) index: usize,
    pub(crate) grants: Grants,
    /// The settings as JSON text, as `config.get` answers them.
    pub(crate) settings: Arc<str>,
    pub(crate) limits: Limits,
}

/// What is the same for every instance of a request.
pub(crate) struct RequestScope {
    pub(crate) services: Services,
    /// What its guests have asked the model.
    pub(crate) spent: Spent,
    /// The HTTP requests that they have sent.
    pub(crate) sent: Sent,
}

impl RequestScope {
    pub(crate) fn new(services: Services) -> Arc<Self> {
        Arc::new(Self {
            services,
            spent: Spent::default(),
            sent: Sent::default(),
        })
    }

    /// Tells the observer of a failure that was no call of the guest.
    pub(crate) fn failed(&self, bound: &Bound, stage: Stage, failure: &Failure) {
        let plugin = bound.binding.plugin.id();
        self.services.observer.failed(plugin, stage, failure.kind);
    }
}

/// The host stops a guest. Raised as a trap, found again by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Abort {
    #[error("more than {limit_ms} ms of processor time")]
    Deadline { limit_ms: u128 },
    #[error("took longer than {limit_ms} ms, waiting included")]
    TookTooLong { limit_ms: u128 },
    #[error("asked for {wanted_bytes} bytes of memory, the limit is {limit_bytes}")]
    Memory { wanted_bytes: u64, limit_bytes: u64 },
    #[error("asked for a table of {wanted} elements, the limit is {limit}")]
    Table { wanted: usize, limit: u64 },
    #[error("more than {limit} calls of imports")]
    HostCalls { limit: u64 },
    #[error("asked for {wanted} random bytes, {limit} are the most of a call")]
    RandomBytes { wanted: u32, limit: u32 },
}

/// The data of one store.
pub(crate) struct GuestState {
    pub(crate) profile: Arc<Profile>,
    pub(crate) budget: Budget,
    pub(crate) limiter: Limiter,
    /// The last line that the guest logged as an error: the SDK's panic hook puts the message
    /// there before it traps.
    pub(crate) last_error: Option<String>,
    /// Lines dropped since the last call began.
    pub(crate) lines_dropped: u64,
    /// Every call is given fuel, and tells what it used.
    pub(crate) counts_fuel: bool,
    request_id: String,
    /// `None` while its instance waits for one.
    request: Option<Arc<RequestScope>>,
    /// Looked up at the first use.
    kv: Option<Arc<Store>>,
    host_calls_left: u64,
    lines_left_of_call: u64,
    lines_left: u64,
    wasi: Option<Box<wasi::Wasi>>,
}

impl GuestState {
    pub(crate) fn new(profile: Arc<Profile>, request_id: &str, request: Arc<RequestScope>) -> Self {
        let limiter = Limiter {
            limits: profile.limits.clone(),
            memory_bytes: 0,
        };
        let lines_left = profile.limits.log_lines.saturating_mul(LOG_CALLS);
        Self {
            profile,
            budget: Budget::new(),
            limiter,
            last_error: None,
            lines_dropped: 0,
            counts_fuel: false,
            request_id: request_id.to_owned(),
            request: Some(request),
            kv: None,
            host_calls_left: 0,
            lines_left_of_call: 0,
            lines_left,
            wasi: None,
        }
    }

    /// Another request begins: what is counted per request starts anew. What the guest has of WASI
    /// stays, for it keeps handles of it.
    pub(crate) fn begin_request(&mut self, request_id: &str, request: Arc<RequestScope>) {
        request_id.clone_into(&mut self.request_id);
        self.request = Some(request);
        self.kv = None;
        self.lines_left = self.profile.limits.log_lines.saturating_mul(LOG_CALLS);
    }

    /// The request that the guest works for.
    fn request(&self) -> &Arc<RequestScope> {
        let request = self.request.as_ref();
        request.expect("a guest is called for a request only")
    }

    /// The request is over: an instance that waits keeps nothing of it alive.
    pub(crate) fn end_request(&mut self) {
        self.request = None;
        self.kv = None;
    }

    /// A call begins: what is counted per call starts anew.
    pub(crate) fn begin_call(&mut self) {
        let request = self.request();
        request.services.observer.begins(&self.profile.id);
        self.host_calls_left = self.profile.limits.host_calls;
        self.lines_left_of_call = self.profile.limits.log_lines;
        self.lines_dropped = 0;
        self.last_error = None;
    }

    fn count_host_call(&mut self) -> wasmtime::Result<()> {
        match self.host_calls_left.checked_sub(1) {
            Some(left) => {
                self.host_calls_left = left;
                Ok(())
            }
            None => Err(Abort::HostCalls {
                limit: self.profile.limits.host_calls,
            }
            .into()),
        }
    }
}

/// Bounds memories, all of an instance together, and tables.
pub(crate) struct Limiter {
    limits: Limits,
    /// Of all memories; they never shrink.
    pub(crate) memory_bytes: u64,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted_bytes = self.memory_bytes + (desired - current) as u64;
        if wanted_bytes > self.limits.memory_bytes {
            let limit_bytes = self.limits.memory_bytes;
            return Err(Abort::Memory {
                wanted_bytes,
                limit_bytes,
            }
            .into());
        }
        self.memory_bytes = wanted_bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired as u64 > self.limits.table_elements {
            let limit = self.limits.table_elements;
            return Err(Abort::Table {
                wanted: desired,
                limit,
            }
            .into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_an_instance_count_together() {
        let limits = Limits {
            memory_bytes: 8 << 20,
            ..Limits::default()
        };
        let mut limiter = Limiter {
            limits,
            memory_bytes: 0,
        };
        assert!(limiter.memory_growing(0, 3 << 20, None).unwrap());
        assert!(limiter.memory_growing(0, 4 << 20, None).unwrap());
        // Beyond what its module allows: it does not grow, and nothing is counted.
        let refused = limiter.memory_growing(3 << 20, 5 << 20, Some(3 << 20));
        assert!(!refused.unwrap());
        assert!(limiter.memory_growing(3 << 20, 4 << 20, None).unwrap());
        assert_eq!(limiter.memory_bytes, 8 << 20);
        let error = limiter.memory_growing(4 << 20, (4 << 20) + 65_536, None);
        assert_eq!(
            error.unwrap_err().to_string(),
            "asked for 8454144 bytes of memory, the limit is 8388608"
        );
    }
}
