//! From a configuration and loaded plugins to a route table.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use gapura_engine::ModelInfo;
use gapura_plugin_runtime::{Binding, Chain, FailurePolicy, Grants, Limits, Plugin};

use super::{ControlError, VersionState, provenance, release::Releases, serving::Serving};
use crate::{
    builtin,
    config::{BindingConfig, Config, FailurePolicyName, RouteConfig, nearest},
    routing::{Route, RouteTable, Trial},
};

/// Requests that an instance of one of the binary's own templates serves after its first.
const BUILTIN_REUSE: u32 = 1000;

/// Whether a route of `config` binds the plugin `name`.
pub(super) fn binds(config: &Config, name: &str) -> bool {
    config.routes.iter().any(|route| route_binds(route, name))
}

fn route_binds(route: &RouteConfig, name: &str) -> bool {
    route.plugins.iter().any(|binding| binding.plugin == name)
}

/// The table of `config` over `serving`, which `releases` says more of. With `changed` (the table in force and the name of the
/// one plugin that differs from it) the routes that do not bind it are kept as they are.
pub(super) fn build(
    config: &Config,
    model: Option<&ModelInfo>,
    serving: &BTreeMap<String, Serving>,
    releases: &Releases,
    changed: Option<(&RouteTable, &str)>,
) -> Result<RouteTable, ControlError> {
    let mut routes = Vec::with_capacity(config.routes.len());
    for route in &config.routes {
        let kept = changed
            .filter(|(_, name)| !route_binds(route, name))
            .and_then(|(table, _)| table.by_name(&route.name));
        routes.push(match kept {
            Some(kept) => Arc::clone(kept),
            None => Arc::new(with_trial(route, serving, releases)?),
        });
    }
    Ok(RouteTable::new(routes, &model_names(config, model)))
}

/// The route, and beside it the one with the version on trial, if there is one.
fn with_trial(
    config: &RouteConfig,
    serving: &BTreeMap<String, Serving>,
    releases: &Releases,
) -> Result<Route, ControlError> {
    let live = chain(config, serving, releases, |serving| {
        (&serving.live, serving.previous.as_ref())
    })?;
    let mut route = Route::new(config, Arc::new(live));
    let mut tried = config.plugins.iter().filter_map(|binding| {
        let trial = serving.get(&binding.plugin)?.trial.as_ref()?;
        Some((binding.plugin.as_str(), trial))
    });
    let Some((name, trial)) = tried.next() else {
        return Ok(route);
    };
    // A plugin may be bound twice; two plugins on trial would make versions of a route that
    // nobody has asked for.
    if let Some((other, trial)) = tried.find(|(other, _)| *other != name) {
        return Err(ControlError::TwoTrials {
            route: config.name.clone(),
            plugin: name.to_owned(),
            other: other.to_owned(),
            state: VersionState::Trial(trial.mode).to_string(),
        });
    }
    // Before a version on trial comes the live one.
    let candidate = chain(config, serving, releases, |serving| match &serving.trial {
        Some(trial) => (&trial.plugin, Some(&serving.live)),
        None => (&serving.live, serving.previous.as_ref()),
    })?;
    route.trial = Some(Trial {
        mode: trial.mode,
        plugin: trial.plugin.id().clone(),
        watched: Arc::clone(&trial.watched),
        route: Arc::new(Route::new(config, Arc::new(candidate))),
    });
    Ok(route)
}

fn chain(
    route: &RouteConfig,
    serving: &BTreeMap<String, Serving>,
    releases: &Releases,
    versions: impl Fn(&Serving) -> (&Plugin, Option<&Plugin>),
) -> Result<Chain, ControlError> {
    let mut bindings = Vec::with_capacity(route.plugins.len());
    for binding in &route.plugins {
        let Some(found) = serving.get(&binding.plugin) else {
            return Err(unknown_plugin(&route.name, &binding.plugin, serving));
        };
        let (plugin, previous) = versions(found);
        let accepts = |plugin: &Plugin| {
            let signatures = releases.signatures(&binding.plugin, plugin.digest());
            provenance::check(route, binding, plugin.digest(), signatures)
        };
        accepts(plugin)?;
        // What the route would not bind does not answer in its plugin's place either.
        let previous = previous.filter(|previous| accepts(previous).is_ok());
        let mut bound = bind(plugin.clone(), previous.cloned(), binding);
        // What is recorded is all that the chain was given, which an instance's past is not.
        if route.record.is_some() && !builtin::is_one(plugin.digest()) {
            bound.reuse = 0;
        }
        bindings.push(bound);
    }
    Ok(Chain::new(&route.name, bindings)?)
}

fn bind(plugin: Plugin, previous: Option<Plugin>, config: &BindingConfig) -> Binding {
    let reuse = match builtin::is_one(plugin.digest()) {
        true => BUILTIN_REUSE,
        false => 0,
    };
    Binding {
        plugin,
        settings: config.settings.clone(),
        grants: Grants::with(config.grants.iter().copied()),
        reuse: config.reuse.unwrap_or(reuse),
        limits: limits(config),
        on_failure: match config.on_failure {
            Some(FailurePolicyName::Open) => FailurePolicy::Open,
            Some(FailurePolicyName::Previous) => FailurePolicy::Previous,
            Some(FailurePolicyName::Static) => {
                FailurePolicy::Static(config.static_answer.clone().unwrap_or_default())
            }
            Some(FailurePolicyName::Closed) | None => FailurePolicy::Closed,
        },
        allow_open_validator: config.force_open,
        previous: previous.filter(|_| config.on_failure == Some(FailurePolicyName::Previous)),
        breaker: config.breaker,
    }
}

fn limits(binding: &BindingConfig) -> Limits {
    let (config, questions, http) = (&binding.limits, binding.questions, &binding.http);
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Limits {
        memory_bytes: config.memory_bytes as u64,
        call_ms: millis(config.call_deadline),
        delta_ms: millis(config.delta_deadline),
        output_bytes: config.output_bytes as u64,
        held_bytes: config.held_bytes as u64,
        log_lines: u64::from(config.log_lines),
        kv_bytes: config.kv_bytes as u64,
        model_questions: questions.questions.into(),
        model_tokens: questions.tokens.into(),
        model_ms: millis(questions.within),
        http_requests: http.requests.into(),
        http_ms: millis(http.within),
        http_response_bytes: http.response_bytes as u64,
        ..Limits::default()
    }
}

fn unknown_plugin(route: &str, plugin: &str, serving: &BTreeMap<String, Serving>) -> ControlError {
    let names: Vec<&str> = serving.keys().map(String::as_str).collect();
    let hint = nearest(plugin, names.iter().copied())
        .map_or(String::new(), |name| format!("did you mean `{name}`? "));
    ControlError::UnknownPlugin {
        route: route.to_owned(),
        plugin: plugin.to_owned(),
        advice: format!(
            "{hint}there are {}; others come from [plugins] dir as {plugin}.wasm, or from [plugins.sources]",
            names.join(", ")
        ),
    }
}

/// `config` with the built-in template of `architecture` on the routes that ask for it.
pub(super) fn fit_template(config: &Config, architecture: &str) -> Config {
    let mut config = config.clone();
    let bindings = config
        .routes
        .iter_mut()
        .flat_map(|route| &mut route.plugins);
    for binding in bindings.filter(|binding| binding.is_template) {
        builtin::template_for(architecture).clone_into(&mut binding.plugin);
    }
    config
}

/// The names that mean the model itself: the configured one, or else what the model calls
/// itself (before it is loaded, what its source suggests), and its id on the hub.
fn model_names(config: &Config, model: Option<&ModelInfo>) -> Vec<String> {
    let source = config.model.source.as_deref().unwrap_or_default();
    if let Some(name) = &config.model.name {
        return vec![name.clone()];
    }
    let is_file = Path::new(source).exists();
    let stem = Path::new(source).file_stem().filter(|_| is_file);
    let mut names: Vec<String> = match (model, stem) {
        (Some(model), _) => vec![model.id.clone()],
        (None, Some(stem)) => vec![stem.to_string_lossy().into_owned()],
        (None, None) => Vec::new(),
    };
    if !is_file && !source.is_empty() && !names.iter().any(|name| name == source) {
        names.push(source.to_owned());
    }
    names
}
