//! The one place that calls the host: its imports on WebAssembly, stand-ins elsewhere.

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::bindings::{
        HttpError, KvError, ModelAnswer, ModelError, Question, Request, Response, clock, config,
        http, kv, log, metrics, model, random, tokenizer,
    };
    use crate::log::Level;

    pub(crate) fn write_log(level: Level, message: &str) {
        let level = match level {
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
        };
        log::write(level, message);
    }

    pub(crate) fn settings_json() -> String {
        config::get()
    }

    pub(crate) fn count_tokens(text: &str) -> u32 {
        tokenizer::count(text)
    }

    pub(crate) fn add_metric(name: &str, by: u64) {
        metrics::add(name, by);
    }

    pub(crate) fn observe_metric(name: &str, value: f64) {
        metrics::observe(name, value);
    }

    pub(crate) fn kv_get(key: &str) -> Option<Vec<u8>> {
        kv::get(key)
    }

    pub(crate) fn kv_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), KvError> {
        kv::set(key, value, ttl_ms)
    }

    pub(crate) fn kv_delete(key: &str) -> bool {
        kv::delete(key)
    }

    pub(crate) fn now_ms() -> u64 {
        clock::now()
    }

    pub(crate) fn monotonic_ns() -> u64 {
        clock::monotonic()
    }

    /// `bytes` are no more than one call may ask for.
    pub(crate) fn fill_random(bytes: &mut [u8]) {
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes.copy_from_slice(&random::bytes(count));
    }

    pub(crate) fn random_bits() -> u64 {
        random::bits()
    }

    pub(crate) fn ask_model(question: &Question) -> Result<ModelAnswer, ModelError> {
        model::ask(question)
    }

    pub(crate) fn send_http(request: &Request) -> Result<Response, HttpError> {
        http::send(request)
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::{
    add_metric, ask_model, count_tokens, fill_random, kv_delete, kv_get, kv_set, monotonic_ns,
    now_ms, observe_metric, random_bits, send_http, settings_json, write_log,
};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::{
    add_metric, ask_model, count_tokens, fill_random, kv_delete, kv_get, kv_set, monotonic_ns,
    now_ms, observe_metric, random_bits, send_http, settings_json, write_log,
};

/// Sends panics to the host's log, once per instance. Without it a panic is a bare
/// `unreachable` to the host.
pub(crate) fn install_panic_hook() {
    #[cfg(target_arch = "wasm32")]
    {
        static INSTALLED: std::sync::Once = std::sync::Once::new();
        INSTALLED.call_once(|| {
            std::panic::set_hook(Box::new(|panic| {
                write_log(crate::log::Level::Error, &panic.to_string());
            }));
        });
    }
}
