//! What a store carries: the limits of one instance, what it imports, and an empty WASI.

use std::sync::Arc;

use tracing::{debug, error, info, warn};
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::bindings::{config, log, tokenizer, types};
use crate::budget::Budget;
use crate::limits::Limits;
use crate::plugin::PluginId;
use crate::services::TokenCounter;

/// Longest log line in bytes, as the contract says.
const LOG_LINE_BYTES: usize = 4 << 10;
/// How many calls' worth of log lines an instance gets.
const LOG_CALLS: u64 = 16;
/// Most bytes of one WASI random read.
const WASI_RANDOM_BYTES: u64 = 64 << 10;
/// Most WASI resources (streams, pollables) alive in one instance.
const WASI_RESOURCES: usize = 256;

/// What is the same for every instance of a binding.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) id: PluginId,
    pub(crate) route: Arc<str>,
    /// The settings as JSON text, as `config.get` answers them.
    pub(crate) settings: Arc<str>,
    pub(crate) limits: Limits,
}

/// The host stops a guest. Raised as a trap, found again by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Abort {
    #[error("more than {limit_ms} ms of processor time")]
    Deadline { limit_ms: u128 },
    #[error("took longer than {limit_ms} ms, waiting included")]
    TookTooLong { limit_ms: u128 },
    #[error("asked for {wanted_bytes} bytes of memory, the limit is {limit_bytes}")]
    Memory {
        wanted_bytes: usize,
        limit_bytes: u64,
    },
    #[error("asked for a table of {wanted} elements, the limit is {limit}")]
    Table { wanted: usize, limit: u64 },
    #[error("more than {limit} calls of imports")]
    HostCalls { limit: u64 },
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
    tokens: Arc<dyn TokenCounter>,
    host_calls_left: u64,
    lines_left_of_call: u64,
    lines_left: u64,
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    context: WasiCtx,
    table: ResourceTable,
}

impl GuestState {
    pub(crate) fn new(
        profile: Arc<Profile>,
        request_id: &str,
        tokens: Arc<dyn TokenCounter>,
    ) -> Self {
        let limiter = Limiter {
            limits: profile.limits.clone(),
            peak_bytes: 0,
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
            tokens,
            host_calls_left: 0,
            lines_left_of_call: 0,
            lines_left,
            wasi: None,
        }
    }

    /// A call begins: what is counted per call starts anew.
    pub(crate) fn begin_call(&mut self) {
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

impl types::Host for GuestState {}

impl log::Host for GuestState {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.count_host_call()?;
        let message = one_line(&message);
        if level == log::Level::Error {
            self.last_error = Some(message.clone());
        }
        if self.lines_left_of_call == 0 || self.lines_left == 0 {
            self.lines_dropped += 1;
            return Ok(());
        }
        self.lines_left_of_call -= 1;
        self.lines_left -= 1;
        let PluginId {
            name: plugin,
            version,
            ..
        } = &self.profile.id;
        let (route, request_id) = (&*self.profile.route, &*self.request_id);
        match level {
            log::Level::Debug => debug!(plugin, version, route, request_id, "{message}"),
            log::Level::Info => info!(plugin, version, route, request_id, "{message}"),
            log::Level::Warn => warn!(plugin, version, route, request_id, "{message}"),
            log::Level::Error => error!(plugin, version, route, request_id, "{message}"),
        }
        Ok(())
    }
}

impl config::Host for GuestState {
    fn get(&mut self) -> wasmtime::Result<String> {
        self.count_host_call()?;
        Ok(self.profile.settings.to_string())
    }
}

impl tokenizer::Host for GuestState {
    fn count(&mut self, text: String) -> wasmtime::Result<u32> {
        self.count_host_call()?;
        Ok(self.tokens.count(&text))
    }
}

/// No files, no environment, no arguments, no sockets, no stdio. Made when first used: most
/// plugins never do, some only at their first hash map.
impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            let mut table = ResourceTable::new();
            table.set_max_capacity(WASI_RESOURCES);
            let context = WasiCtx::builder()
                .allow_tcp(false)
                .allow_udp(false)
                .allow_ip_name_lookup(false)
                .max_random_size(WASI_RANDOM_BYTES)
                .build();
            Box::new(Wasi { context, table })
        });
        WasiCtxView {
            ctx: &mut wasi.context,
            table: &mut wasi.table,
        }
    }
}

/// Bounds memories and tables; remembers the most memory that there was.
pub(crate) struct Limiter {
    limits: Limits,
    pub(crate) peak_bytes: u64,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired as u64 > self.limits.memory_bytes {
            let limit_bytes = self.limits.memory_bytes;
            return Err(Abort::Memory {
                wanted_bytes: desired,
                limit_bytes,
            }
            .into());
        }
        self.peak_bytes = self.peak_bytes.max(desired as u64);
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

/// The line that a guest's message becomes: cut, and unable to forge another line.
fn one_line(message: &str) -> String {
    let mut end = message.len().min(LOG_LINE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let cut = &message[..end];
    if !cut.contains(char::is_control) {
        return cut.to_owned();
    }
    let mut line = String::with_capacity(cut.len() + 16);
    for c in cut.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_one_line_of_bounded_length() {
        assert_eq!(
            one_line("a\nWARN forged\x1b[2J"),
            "a\\nWARN forged\\u{1b}[2J"
        );
        assert_eq!(one_line(&"é".repeat(4096)).len(), LOG_LINE_BYTES);
        assert_eq!(
            one_line(&format!("x{}", "é".repeat(4096))).len(),
            LOG_LINE_BYTES - 1
        );
    }
}
