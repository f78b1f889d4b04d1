//! The one place that calls the host: its imports on WebAssembly, stand-ins elsewhere.

#[cfg(target_arch = "wasm32")]
mod imports {
    use crate::bindings::{config, log, tokenizer};
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
}

#[cfg(target_arch = "wasm32")]
pub(crate) use imports::{count_tokens, settings_json, write_log};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::{count_tokens, settings_json, write_log};

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
