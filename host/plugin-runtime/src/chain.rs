//! The plugins bound to a route: checked once, then never changed.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use crate::bindings::{self, completion_observer};
use crate::bound::Bound;
use crate::breaker::{BreakerConfig, BreakerState};
use crate::error::ChainError;
use crate::guest::Failure;
use crate::limits::{FailurePolicy, Grants, Limits};
use crate::plugin::{Plugin, Stage};
use crate::rooms::Claim;
use crate::run::Run;
use crate::services::Services;
use crate::slow::Turns;
use crate::state::RequestScope;
use crate::types::Summary;

/// One plugin as a route uses it.
#[derive(Debug, Clone)]
pub struct Binding {
    /// The plugin.
    pub plugin: Plugin,
    /// Its settings: a JSON object, `null` for none.
    pub settings: Value,
    /// The imports that it may use.
    pub grants: Grants,
    /// What it may consume.
    pub limits: Limits,
    /// How many later requests an instance that has answered may serve, one at a time; then it is
    /// dropped, as it is after any failure and when half of its memory is used. What a guest keeps
    /// in its memory is seen by those requests. 0 is a fresh instance for each.
    pub reuse: u32,
    /// What happens when it fails. A plugin that renders always fails closed, since there is
    /// nothing to go on with.
    pub on_failure: FailurePolicy,
    /// Lets `on_failure = open` stand for a plugin that validates or renders.
    pub allow_open_validator: bool,
    /// The version that was live before, for [`FailurePolicy::Previous`]. It is bound alike; one
    /// that imports what this binding does not grant is not used, and the log says so.
    pub previous: Option<Plugin>,
    /// When it is left alone for a while. The breakers of a new chain are closed.
    pub breaker: BreakerConfig,
}

impl Binding {
    /// `plugin` without settings, with the default grants and limits, failing closed, without a
    /// circuit breaker.
    pub fn new(plugin: Plugin) -> Self {
        Self {
            plugin,
            settings: Value::Null,
            grants: Grants::default(),
            limits: Limits::default(),
            reuse: 0,
            on_failure: FailurePolicy::Closed,
            allow_open_validator: false,
            previous: None,
            breaker: BreakerConfig::OFF,
        }
    }
}

/// The plugins of one route, in order. Immutable: a changed route gets a new chain, and requests
/// in flight finish on the one they began with.
pub struct Chain {
    route: Arc<str>,
    bound: Vec<Arc<Bound>>,
    bindings: Vec<Binding>,
    renderer: usize,
    label: String,
}

impl Chain {
    /// Checks that `bindings` can serve `route` together.
    ///
    /// # Errors
    /// [`ChainError`]: no or several renderers, an import that is not granted, a failure policy
    /// that would skip a validator, settings or limits that cannot be.
    pub fn new(route: &str, bindings: Vec<Binding>) -> Result<Self, ChainError> {
        for binding in &bindings {
            check_binding(route, binding)?;
        }
        let renderer = only_renderer(route, &bindings)?;
        let label = bindings
            .iter()
            .map(|binding| binding.plugin.label())
            .collect::<Vec<_>>()
            .join(",");
        let route: Arc<str> = route.into();
        let turns = Turns::default();
        let bound = bindings
            .iter()
            .enumerate()
            .map(|(index, binding)| Arc::new(Bound::new(&route, index, binding.clone(), &turns)))
            .collect();
        Ok(Self {
            route,
            bound,
            bindings,
            renderer,
            label,
        })
    }

    /// The route that it was made for.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The labels of its plugins in order, separated by commas: the value of `x-gapura-chain`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its bindings, in order.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The circuit breaker of each binding, in order; of its stages the one that is furthest from
    /// closed.
    pub fn breakers(&self) -> impl Iterator<Item = BreakerState> {
        self.bound.iter().map(|bound| bound.breaker())
    }

    /// Begins one request, which stays on this chain until it ends.
    pub fn start(self: &Arc<Self>, services: Services) -> Run {
        Run::new(Arc::clone(self), services, false)
    }

    /// The same for what a guest of this route waits for, such as its question to the model: since
    /// that guest keeps its instance meanwhile, this one waits neither behind others of the route
    /// nor for its share.
    pub fn start_nested(self: &Arc<Self>, services: Services) -> Run {
        Run::new(Arc::clone(self), services, true)
    }

    /// Whether a plugin of it hears how answers end.
    pub fn is_observed(&self) -> bool {
        self.stage(Stage::Observe).next().is_some()
    }

    /// Tells its observers how an answer ended, one after the other, each in a fresh instance. One
    /// that fails is logged, and heard of by [`Services::observer`]; the others hear all the same.
    pub async fn completed(&self, services: Services, summary: &Summary) {
        let scope = RequestScope::new(services);
        let seen = Arc::new(bindings::summary(summary, &self.bound));
        for (_, bound) in self.stage(Stage::Observe) {
            if let Err(failure) = observe(bound, &scope, &summary.answer.request_id, &seen).await {
                let failure = failure.in_chain(bound, Stage::Observe);
                let request_id = &summary.answer.request_id;
                warn!(route = &*self.route, request_id, %failure, "an observer failed");
            }
        }
    }

    pub(crate) fn stage(&self, stage: Stage) -> impl Iterator<Item = (usize, &Arc<Bound>)> {
        self.bound
            .iter()
            .enumerate()
            .filter(move |(_, bound)| bound.binding.plugin.has(stage))
    }

    /// The index and binding of the plugin that renders.
    pub(crate) fn renderer(&self) -> (usize, &Arc<Bound>) {
        (self.renderer, &self.bound[self.renderer])
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("route", &self.route)
            .field("label", &self.label)
            .finish()
    }
}

async fn observe(
    bound: &Arc<Bound>,
    scope: &Arc<RequestScope>,
    request_id: &str,
    summary: &Arc<completion_observer::Summary>,
) -> Result<(), Failure> {
    const STAGE: Stage = Stage::Observe;
    bound.check_breaker(scope, STAGE)?;
    let reserved = bound.binding.plugin.artifact().shared.reserve(Claim {
        route: &bound.profile.route,
        count: 1,
        is_nested: false,
    });
    let reserved = reserved.await;
    let room = reserved.inspect_err(|failure| scope.failed(bound, STAGE, failure))?;
    let permit = bound.admit(scope, STAGE)?;
    let heard = {
        let (bound, scope) = (Arc::clone(bound), Arc::clone(scope));
        let (summary, request_id) = (Arc::clone(summary), request_id.to_owned());
        async move {
            let mut guest = bound.guest(&scope, &request_id, STAGE, room).await?;
            let artifact = bound.binding.plugin.artifact();
            guest.completed(artifact, &summary).await?;
            bound.give_back(&scope, guest);
            Ok(())
        }
    };
    let heard = bound.run(heard).await;
    permit.conclude(scope, heard.as_ref().err());
    heard
}

fn only_renderer(route: &str, bindings: &[Binding]) -> Result<usize, ChainError> {
    let mut renderers = bindings
        .iter()
        .enumerate()
        .filter(|(_, binding)| binding.plugin.has(Stage::Render));
    let Some((index, first)) = renderers.next() else {
        return Err(ChainError::NoRenderer {
            route: route.to_owned(),
        });
    };
    match renderers.next() {
        None => Ok(index),
        Some((_, second)) => Err(ChainError::TwoRenderers {
            route: route.to_owned(),
            first: first.plugin.label().to_owned(),
            second: second.plugin.label().to_owned(),
        }),
    }
}

fn check_binding(route: &str, binding: &Binding) -> Result<(), ChainError> {
    let plugin = &binding.plugin;
    let (route, label) = (route.to_owned(), plugin.label().to_owned());
    if let Some(&import) = plugin
        .imports()
        .iter()
        .find(|&&import| !binding.grants.allows(import))
    {
        return Err(ChainError::NotGranted {
            route,
            plugin: label,
            import,
        });
    }
    if binding.on_failure == FailurePolicy::Open && !binding.allow_open_validator {
        let guards = [Stage::Validate, Stage::Render];
        if let Some(stage) = guards.into_iter().find(|&stage| plugin.has(stage)) {
            return Err(ChainError::OpenNotAllowed {
                route,
                plugin: label,
                stage,
            });
        }
    }
    let found = match &binding.settings {
        Value::Null | Value::Object(_) => None,
        Value::Bool(_) => Some("a boolean"),
        Value::Number(_) => Some("a number"),
        Value::String(_) => Some("a string"),
        Value::Array(_) => Some("an array"),
    };
    if let Some(found) = found {
        return Err(ChainError::Settings {
            route,
            plugin: label,
            found,
        });
    }
    let max_memory_bytes = plugin.artifact().shared.max_memory_bytes;
    if let Some((name, value, min, max)) = binding.limits.first_out_of_range(max_memory_bytes) {
        return Err(ChainError::Limit {
            route,
            plugin: label,
            name,
            value,
            min,
            max,
        });
    }
    Ok(())
}
