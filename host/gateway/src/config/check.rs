//! What can be said of the file alone, as it stands, so that each complaint has a line.

use std::collections::{HashMap, HashSet};

use super::{
    ConfigError, Digest, SamplingSection,
    error::nearest,
    failure,
    file::{ConfigFile, RouteSection, ServerSection},
    http,
    location::Document,
    provenance, sources,
};

/// Most requests of a route that are kept.
const MAX_RECORDS: u32 = 10_000;

/// Most plugins of one route; a chain longer than this is a mistake.
const MAX_BINDINGS: usize = 32;

/// Most instances of plugins: the address space of a process has room for a few more.
const MAX_INSTANCES: u32 = 10_000;

/// Checks everything that can be said of the file alone.
pub(super) fn check_tree(tree: &ConfigFile, document: &Document<'_>) -> Result<(), ConfigError> {
    check_server(&tree.server, document)?;
    if let Some(hash) = &tree.admin.token_sha256 {
        check_digest(hash, "admin.token_sha256", document)?;
    }
    let slowdown = tree.engine.max_slowdown;
    if slowdown.is_nan() || slowdown < 1.0 {
        let message = format!("`max_slowdown` is {slowdown}; it must be 1 or more, or `inf`");
        return Err(document.invalid("engine.max_slowdown", message));
    }
    let max_instances = tree.plugins.max_instances.get();
    if max_instances > MAX_INSTANCES {
        let message =
            format!("`max_instances` is {max_instances}; it must be 1 to {MAX_INSTANCES}");
        return Err(document.invalid("plugins.max_instances", message));
    }
    check_sampling(&tree.sampling, "sampling", document)?;
    provenance::check(tree, document)?;
    sources::check(&tree.plugins.sources, document)?;
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (index, route) in tree.routes.iter().enumerate() {
        let key = format!("routes.{index}");
        check_route(route, &key, document)?;
        for (name, place) in std::iter::once((&route.name, format!("{key}.name"))).chain(
            route
                .aliases
                .iter()
                .map(|alias| (alias, format!("{key}.aliases"))),
        ) {
            if let Some(other) = names.insert(name, &route.name) {
                let message = format!("`{name}` already leads to route `{other}`");
                return Err(document.invalid(&place, message));
            }
        }
    }
    if let Some((index, _)) = tree
        .routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route.default)
        .nth(1)
    {
        let message = "two routes say `default = true`, one may";
        return Err(document.invalid(&format!("routes.{index}.default"), message));
    }
    check_keys(tree, document)
}

fn check_server(server: &ServerSection, document: &Document<'_>) -> Result<(), ConfigError> {
    for (name, seconds) in [
        ("request_timeout_seconds", server.request_timeout_seconds),
        ("body_timeout_seconds", server.body_timeout_seconds),
        ("header_timeout_seconds", server.header_timeout_seconds),
        ("keep_alive_seconds", server.keep_alive_seconds),
        ("stall_seconds", server.stall_seconds),
    ] {
        if !(seconds > 0.0 && seconds <= 86_400.0) {
            let message = format!("`{name}` is {seconds}; it must be above 0 and up to 86400");
            return Err(document.invalid(&format!("server.{name}"), message));
        }
    }
    if !(0.0..=86_400.0).contains(&server.drain_timeout_seconds) {
        let message = format!(
            "`drain_timeout_seconds` is {}; it must be 0 to 86400",
            server.drain_timeout_seconds
        );
        return Err(document.invalid("server.drain_timeout_seconds", message));
    }
    for (name, count) in [
        ("max_body_bytes", server.max_body_bytes),
        ("max_messages", server.max_messages),
    ] {
        if count == 0 {
            let message = format!("`{name}` is 0; nothing could be asked");
            return Err(document.invalid(&format!("server.{name}"), message));
        }
    }
    for (index, origin) in server.cors_allow_origins.iter().enumerate() {
        if origin != "*" && axum::http::HeaderValue::from_str(origin).is_err() {
            let key = format!("server.cors_allow_origins.{index}");
            return Err(document.invalid(&key, format!("`{origin}` is not an origin")));
        }
    }
    Ok(())
}

fn check_sampling(
    sampling: &SamplingSection,
    key: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    let check = |name: &str, value: Option<f32>, range: &str, fits: fn(f32) -> bool| match value {
        Some(value) if !fits(value) => Err(document.invalid(
            &format!("{key}.{name}"),
            format!("`{name}` is {value}; it must be {range}"),
        )),
        _ => Ok(()),
    };
    check("temperature", sampling.temperature, "0 to 2", |v| {
        (0.0..=2.0).contains(&v)
    })?;
    check("top_p", sampling.top_p, "above 0 and up to 1", |v| {
        v > 0.0 && v <= 1.0
    })?;
    check("min_p", sampling.min_p, "0 to 1", |v| {
        (0.0..=1.0).contains(&v)
    })?;
    let above_zero = |v: f32| v > 0.0 && v.is_finite();
    check(
        "repetition_penalty",
        sampling.repetition_penalty,
        "above 0",
        above_zero,
    )?;
    if sampling.max_tokens == Some(0) {
        let message = "`max_tokens` is 0; every answer would be empty";
        return Err(document.invalid(&format!("{key}.max_tokens"), message));
    }
    Ok(())
}

fn check_route(
    route: &RouteSection,
    key: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    if !is_name(&route.name) {
        let message = format!(
            "route name `{}` must be 1 to 64 letters, digits, `-`, `_` or `.`",
            route.name
        );
        return Err(document.invalid(&format!("{key}.name"), message));
    }
    check_sampling(&route.sampling, &format!("{key}.sampling"), document)?;
    if let Some(temperature) = route.limits.max_temperature
        && !(0.0..=2.0).contains(&temperature)
    {
        let message = format!("`max_temperature` is {temperature}; it must be 0 to 2");
        return Err(document.invalid(&format!("{key}.limits.max_temperature"), message));
    }
    if let Some(record) = &route.record
        && record.keep.get() > MAX_RECORDS
    {
        let message = format!("`keep` is {}; {MAX_RECORDS} are the limit", record.keep);
        return Err(document.invalid(&format!("{key}.record.keep"), message));
    }
    if route.plugins.is_empty() {
        let message = format!(
            "route `{}` has no plugins; it needs at least the one that renders prompts, \
             such as `plugins = [{{ plugin = \"chatml\" }}]`",
            route.name
        );
        return Err(document.invalid(key, message));
    }
    if route.plugins.len() > MAX_BINDINGS {
        let message = format!(
            "route `{}` has {} plugins, {MAX_BINDINGS} are the limit",
            route.name,
            route.plugins.len()
        );
        return Err(document.invalid(&format!("{key}.plugins"), message));
    }
    for (index, binding) in route.plugins.iter().enumerate() {
        let key = format!("{key}.plugins.{index}");
        if !is_name(&binding.plugin) {
            let message = format!(
                "plugin name `{}` must be 1 to 64 letters, digits, `-`, `_` or `.`",
                binding.plugin
            );
            return Err(document.invalid(&format!("{key}.plugin"), message));
        }
        if let Err(error) = serde_json::to_value(&binding.settings) {
            return Err(document.invalid(&format!("{key}.settings"), error.to_string()));
        }
        failure::check(binding, &key, document)?;
        http::check(binding, &key, document)?;
    }
    Ok(())
}

fn check_keys(tree: &ConfigFile, document: &Document<'_>) -> Result<(), ConfigError> {
    let mut names = HashSet::new();
    for (index, entry) in tree.keys.iter().enumerate() {
        let key = format!("keys.{index}");
        check_digest(&entry.sha256, &format!("{key}.sha256"), document)?;
        if !names.insert(&entry.name) {
            let message = format!("two keys have the name `{}`", entry.name);
            return Err(document.invalid(&format!("{key}.name"), message));
        }
        for route in entry.routes.iter().flatten() {
            let known = || tree.routes.iter().map(|route| route.name.as_str());
            if !tree.routes.is_empty() && !known().any(|name| name == route) {
                let mut message = format!("there is no route `{route}`");
                if let Some(name) = nearest(route, known()) {
                    message.push_str(&format!(", did you mean `{name}`?"));
                }
                return Err(document.invalid(&format!("{key}.routes"), message));
            }
        }
    }
    Ok(())
}

fn check_digest(text: &str, key: &str, document: &Document<'_>) -> Result<(), ConfigError> {
    if Digest::from_hex(text).is_some() {
        return Ok(());
    }
    let message = "this is not a SHA-256 of 64 hexadecimal digits; `gapura key new` prints one \
                   (never put the key itself here)";
    Err(document.invalid(key, message))
}

/// Letters, digits and `-_.`, so that it can stand in a path, a file name and a header.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
