//! `http` of a binding: whom its plugin may ask, checked.

use std::num::NonZeroU32;
use std::time::Duration;

use gapura_plugin_runtime::Import;

use super::file::{BindingSection, HttpSection};
use super::location::Document;
use super::{ConfigError, HttpAccess};
use crate::outbound::AllowList;

/// The grant `http` and its hosts go together: one without the other is a mistake.
pub(super) fn check(
    binding: &BindingSection,
    key: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    let allow = &binding.http.allow;
    AllowList::parse(allow).map_err(|(index, problem)| {
        document.invalid(&format!("{key}.http.allow.{index}"), problem)
    })?;
    let is_granted = binding.grants.contains(&Import::Http);
    let message = match (is_granted, allow.is_empty()) {
        (true, false) | (false, true) => return Ok(()),
        (true, true) => format!(
            "`{}` is granted `http` and no host: name those that it may ask, such as \
             `http = {{ allow = [\"api.example.com\"] }}`",
            binding.plugin
        ),
        (false, false) => format!(
            "`http.allow` names hosts and `{}` is not granted `http`: add it to `grants`",
            binding.plugin
        ),
    };
    Err(document.invalid(&format!("{key}.http"), message))
}

/// What the section leaves open is filled in.
pub(super) fn access(section: &HttpSection) -> HttpAccess {
    let or = |value: Option<NonZeroU32>, base| value.map_or(base, NonZeroU32::get);
    HttpAccess {
        allow: AllowList::parse(&section.allow).expect("`check` has read every entry"),
        requests: or(section.max_requests, 4),
        within: Duration::from_millis(or(section.timeout_ms, 2000).into()),
        response_bytes: or(section.max_response_kib, 256) as usize * 1024,
    }
}
