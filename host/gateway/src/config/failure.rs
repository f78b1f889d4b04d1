//! What a binding says of failures: a text for `static`, and its circuit breaker.

use std::{num::NonZeroU32, time::Duration};

use gapura_plugin_runtime::BreakerConfig;

use super::{
    ConfigError, FailurePolicyName,
    file::{BindingSection, BreakerSection},
    location::Document,
};

pub(super) fn check(
    binding: &BindingSection,
    key: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    let is_static = binding.on_failure == Some(FailurePolicyName::Static);
    match &binding.static_answer {
        None if is_static => {
            let message = "`on_failure` is `static`, which needs the text: `static_answer = \"…\"`";
            return Err(document.invalid(&format!("{key}.on_failure"), message.to_owned()));
        }
        Some(text) if is_static && text.trim().is_empty() => {
            let message = "`static_answer` is empty; it is what clients read";
            return Err(document.invalid(&format!("{key}.static_answer"), message.to_owned()));
        }
        Some(_) if !is_static => {
            let message = "`static_answer` means nothing without `on_failure = \"static\"`";
            return Err(document.invalid(&format!("{key}.static_answer"), message.to_owned()));
        }
        _ => {}
    }
    let BreakerConfig {
        backoff,
        max_backoff,
        ..
    } = breaker(&binding.breaker);
    if max_backoff < backoff {
        let message = format!(
            "`max_backoff_ms` is {}, less than `backoff_ms`, which is {}",
            max_backoff.as_millis(),
            backoff.as_millis()
        );
        return Err(document.invalid(&format!("{key}.breaker"), message));
    }
    Ok(())
}

pub(super) fn breaker(section: &BreakerSection) -> BreakerConfig {
    let default = BreakerConfig::default();
    let millis = |ms: Option<NonZeroU32>, default| {
        ms.map_or(default, |ms| Duration::from_millis(ms.get().into()))
    };
    BreakerConfig {
        failures: section.failures.unwrap_or(default.failures),
        backoff: millis(section.backoff_ms, default.backoff),
        max_backoff: millis(section.max_backoff_ms, default.max_backoff),
    }
}
