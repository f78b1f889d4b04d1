//! What the administration API says of plugins and routes.

use gapura_plugin_runtime::{BreakerState, Import, Plugin};
use serde::Serialize;

use crate::{
    config::GuardConfig,
    telemetry::Totals,
    trial::{Comparison, Tally, Watched},
};

use super::{
    Change, Check, Controller, Granted, Source, State, TrialMode, VersionState,
    release::{Release, Version},
};
use crate::config::{Digest, RouteConfig};

/// What is known of a plugin. Fields that describe a component are those of the live version,
/// or else of the newest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: String,
    /// The version that its author wrote into it; `null` where that was not read yet.
    pub version: Option<String>,
    /// SHA-256 of the component.
    pub digest: String,
    /// As `x-gapura-chain` shows it.
    pub label: String,
    /// How far it has come.
    pub state: VersionState,
    /// Where it came from.
    pub source: Source,
    /// Bytes of the component.
    pub size_bytes: u64,
    /// The stages that it implements.
    pub stages: Vec<String>,
    /// The host interfaces that it imports.
    pub imports: Vec<String>,
    /// The routes that bind it.
    pub routes: Vec<String>,
    /// What those routes grant it.
    pub granted: Vec<Granted>,
    /// Seconds since 1970 when this version came.
    pub since: u64,
    /// The newest version that did not pass verification, if there is one.
    pub refused: Option<Refusal>,
    /// All versions, the newest first.
    pub versions: Vec<VersionStatus>,
    /// The version on trial beside the live one.
    pub trial: Option<WatchStatus>,
    /// The live version beside the one that it replaced a short while ago.
    pub probation: Option<WatchStatus>,
}

/// Two versions side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WatchStatus {
    /// The candidate's digest.
    pub digest: String,
    /// `shadow`, `canary` or `live`.
    pub mode: VersionState,
    /// Requests of a hundred that it answers.
    pub percent: Option<u8>,
    /// For how many seconds.
    pub seconds: u64,
    /// The version that it is to replace, or has replaced: since then, or before.
    pub live: Tally,
    /// The candidate since then.
    pub candidate: Tally,
    /// When it is rolled back by itself; `null` where that is off.
    pub limits: Option<Limits>,
    /// A shadow's answers beside the live version's.
    pub shadow: Option<Comparison>,
}

/// The guard's limits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// Requests before it is judged.
    pub min_requests: u64,
    /// Share of requests that may fail.
    pub max_failure_rate: f64,
    /// Share of requests that may run out of time.
    pub max_deadline_rate: f64,
    /// How many times as long as the other's its 95th percentile may be.
    pub max_latency_ratio: f64,
    /// Microseconds that count as nothing.
    pub min_latency_us: u64,
}

/// One version of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersionStatus {
    /// The version that its author wrote into it; `null` where that was not read yet.
    pub version: Option<String>,
    /// SHA-256 of the component.
    pub digest: String,
    /// As `x-gapura-chain` shows it.
    pub label: String,
    /// `staged`, `verified`, `shadow`, `canary`, `live` or `retired`.
    pub state: VersionState,
    /// Requests of a hundred that it answers, if it is a canary.
    pub percent: Option<u8>,
    /// Whether a rollback would go back to it.
    pub is_previous: bool,
    /// Where it came from.
    pub source: Source,
    /// Bytes of the component.
    pub size_bytes: u64,
    /// Golden cases that it carries and keeps.
    pub cases: Option<usize>,
    /// The host interfaces that it imports.
    pub imports: Vec<String>,
    /// Whose signatures it has: what the configuration calls the keys, or else the public keys.
    pub signed_by: Vec<String>,
    /// Seconds since 1970 when it came.
    pub since: u64,
    /// Why it did not pass verification, or was taken out of service.
    pub reason: Option<String>,
}

/// An artefact that was not taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// Its SHA-256.
    pub digest: String,
    /// Stable and machine-readable.
    pub code: String,
    /// Why.
    pub reason: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// A route and its chain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Other model names that lead to it.
    pub aliases: Vec<String>,
    /// Whether it answers to the model's own name.
    pub default: bool,
    /// As `x-gapura-chain` shows it.
    pub chain: String,
    /// The keys of which one must have signed each plugin; `null` where none is asked for.
    pub signers: Option<Vec<String>>,
    /// The chain with the version on trial, if there is one.
    pub trial: Option<TrialStatus>,
    /// Its plugins, in order.
    pub plugins: Vec<BindingStatus>,
}

/// A version on trial, as a route has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialStatus {
    /// The plugin.
    pub plugin: String,
    /// The version's digest.
    pub digest: String,
    /// `shadow` or `canary`.
    pub state: VersionState,
    /// Requests of a hundred that it answers.
    pub percent: Option<u8>,
    /// As `x-gapura-chain` shows it.
    pub chain: String,
}

/// A plugin as a route uses it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BindingStatus {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// Its digest.
    pub digest: String,
    /// The stages that it takes part in.
    pub stages: Vec<&'static str>,
    /// The imports that it is bound to grant, for the plugin needs them.
    pub grants_needed: Vec<&'static str>,
    /// The hosts that the plugin may ask by HTTP, where it needs that.
    pub http: Vec<String>,
    /// `closed`, `open`, `previous` or `static`.
    pub on_failure: &'static str,
    /// The trusted key that has signed it.
    pub signed_by: Option<String>,
    /// Whether the route takes certain digests only.
    pub is_pinned: bool,
    /// The version that failed calls are repeated on, as `x-gapura-chain` would show it.
    pub previous: Option<String>,
    /// `closed`, or `open` or `half-open` where the plugin is left alone for a while.
    pub breaker: &'static str,
    /// Milliseconds until a request tries it again, of a breaker that is open.
    pub retry_in_ms: Option<u64>,
}

impl Controller {
    /// All plugins by name.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let state = self.state();
        let names = state.releases.plugins.keys();
        names
            .filter_map(|name| self.whole_status(&state, name))
            .collect()
    }

    /// One plugin.
    pub fn plugin(&self, name: &str) -> Option<PluginStatus> {
        self.whole_status(&self.state(), name)
    }

    fn whole_status(&self, state: &State, name: &str) -> Option<PluginStatus> {
        let status = state.status_of(name)?;
        let Some(serving) = state.serving.get(name) else {
            return Some(status);
        };
        let (ledger, guard) = (self.metrics.ledger(), &state.config.plugins.guard);
        let trial = serving.trial.as_ref().map(|trial| {
            let totals = trial.watched.totals(ledger);
            let mode = VersionState::Trial(trial.mode);
            let is_shadow = trial.mode == TrialMode::Shadow;
            WatchStatus {
                shadow: is_shadow.then(|| trial.watched.comparison().clone()),
                ..watch_status(&trial.watched, mode, &totals, guard)
            }
        });
        let probation = serving.probation.as_ref().map(|watched| {
            let [_, candidate] = watched.totals(ledger);
            let totals = [watched.before_live().clone(), candidate];
            watch_status(watched, VersionState::Live, &totals, guard)
        });
        Some(PluginStatus {
            trial,
            probation,
            ..status
        })
    }

    /// All routes, in the configuration's order.
    pub fn route_statuses(&self) -> Vec<RouteStatus> {
        let table = self.routes.load();
        let state = self.state();
        let status = |route: &std::sync::Arc<crate::routing::Route>| RouteStatus {
            name: route.name.clone(),
            aliases: route.aliases.clone(),
            default: route.default,
            chain: route.chain.label().to_owned(),
            signers: state.signers(&route.name),
            trial: route.trial.as_ref().map(|trial| TrialStatus {
                plugin: trial.plugin.name.clone(),
                digest: trial.plugin.digest.clone(),
                state: VersionState::Trial(trial.mode),
                percent: percent(VersionState::Trial(trial.mode)),
                chain: trial.route.chain.label().to_owned(),
            }),
            plugins: route
                .chain
                .bindings()
                .iter()
                .zip(route.chain.breakers())
                .zip(&*route.http)
                .map(|((binding, breaker), http)| BindingStatus {
                    plugin: binding.plugin.name().to_owned(),
                    version: binding.plugin.version().to_owned(),
                    digest: binding.plugin.digest().to_owned(),
                    stages: binding
                        .plugin
                        .stages()
                        .iter()
                        .map(|stage| stage.as_str())
                        .collect(),
                    grants_needed: binding
                        .plugin
                        .grants_needed()
                        .map(|grant| grant.as_str())
                        .collect(),
                    http: match binding.plugin.imports().contains(&Import::Http) {
                        true => http.hosts(),
                        false => Vec::new(),
                    },
                    on_failure: binding.on_failure.as_str(),
                    previous: binding
                        .previous
                        .as_ref()
                        .map(|plugin| plugin.label().to_owned()),
                    breaker: breaker.as_str(),
                    retry_in_ms: match breaker {
                        BreakerState::Open { retry_in } => {
                            Some(u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX))
                        }
                        BreakerState::Closed | BreakerState::HalfOpen => None,
                    },
                    signed_by: state.signed_by(&binding.plugin),
                    is_pinned: state.is_pinned(&route.name, binding.plugin.name()),
                })
                .collect(),
        };
        table.iter().map(status).collect()
    }

    /// What changed, the newest first.
    pub fn history(&self) -> Vec<Change> {
        self.state().history.newest_first()
    }
}

impl State {
    fn route(&self, name: &str) -> Option<&RouteConfig> {
        self.config.routes.iter().find(|route| route.name == name)
    }

    fn signers(&self, route: &str) -> Option<Vec<String>> {
        let signers = self.route(route)?.signers.as_ref()?;
        Some(signers.names().map(str::to_owned).collect())
    }

    fn is_pinned(&self, route: &str, plugin: &str) -> bool {
        let bindings = self.route(route).map_or(&[][..], |route| &route.plugins);
        bindings
            .iter()
            .any(|binding| binding.plugin == plugin && !binding.digests.is_empty())
    }

    fn signed_by(&self, plugin: &Plugin) -> Option<String> {
        let digest = Digest::from_hex(plugin.digest())?;
        let signatures = self.releases.signatures(plugin.name(), plugin.digest());
        let trusted = &self.config.plugins.trusted_keys;
        let signer = trusted.verify_any(digest, signatures).ok()?;
        Some(signer.to_owned())
    }

    pub(super) fn status_of(&self, name: &str) -> Option<PluginStatus> {
        let release = self.releases.plugins.get(name)?;
        let live = release.live().and_then(|digest| release.version(digest));
        let shown = live.or_else(|| release.versions().first())?;
        let routes: Vec<String> = self
            .config
            .routes
            .iter()
            .filter(|route| route.plugins.iter().any(|binding| binding.plugin == name))
            .map(|route| route.name.clone())
            .collect();
        let (stages, imports) = match &shown.check {
            Check::Passed(facts) => (facts.stages.clone(), facts.imports.clone()),
            Check::Pending | Check::Failed { .. } => (Vec::new(), Vec::new()),
        };
        Some(PluginStatus {
            name: name.to_owned(),
            version: shown.label(),
            digest: shown.digest.clone(),
            label: label(name, shown),
            state: release.state(shown),
            source: shown.source,
            size_bytes: shown.size_bytes,
            stages,
            imports,
            routes,
            granted: Granted::to(&self.config, name),
            since: shown.since,
            refused: release.versions().iter().find_map(refusal),
            versions: release
                .versions()
                .iter()
                .map(|version| self.version_status(name, release, version))
                .collect(),
            trial: None,
            probation: None,
        })
    }

    fn version_status(&self, name: &str, release: &Release, version: &Version) -> VersionStatus {
        let trusted = &self.config.plugins.trusted_keys;
        let signers = version.signatures.iter().map(|signature| {
            let key = signature.key();
            trusted
                .name(key)
                .map_or_else(|| key.to_string(), str::to_owned)
        });
        let state = release.state(version);
        let (cases, imports) = match &version.check {
            Check::Passed(facts) => (Some(facts.cases), facts.imports.clone()),
            Check::Pending | Check::Failed { .. } => (None, Vec::new()),
        };
        VersionStatus {
            version: version.label(),
            digest: version.digest.clone(),
            label: label(name, version),
            state,
            percent: percent(state),
            is_previous: release.previous() == Some(&version.digest),
            source: version.source,
            size_bytes: version.size_bytes,
            cases,
            imports,
            signed_by: signers.collect(),
            since: version.since,
            reason: match &version.check {
                Check::Failed { reason, .. } => Some(reason.clone()),
                _ => version.withdrawn.clone(),
            },
        }
    }
}

fn watch_status(
    watched: &Watched,
    mode: VersionState,
    [live, candidate]: &[Totals; 2],
    guard: &GuardConfig,
) -> WatchStatus {
    WatchStatus {
        digest: watched.candidate().digest.clone(),
        mode,
        percent: percent(mode),
        seconds: watched.elapsed().as_secs(),
        live: live.into(),
        candidate: candidate.into(),
        limits: guard.enabled.then(|| Limits {
            min_requests: guard.min_requests,
            max_failure_rate: guard.max_failure_rate,
            max_deadline_rate: guard.max_deadline_rate,
            max_latency_ratio: guard.max_latency_ratio,
            min_latency_us: u64::try_from(guard.min_latency.as_micros()).unwrap_or(u64::MAX),
        }),
        shadow: None,
    }
}

fn percent(state: VersionState) -> Option<u8> {
    match state {
        VersionState::Trial(TrialMode::Canary(percent)) => Some(percent),
        _ => None,
    }
}

/// As a loaded plugin calls itself.
fn label(name: &str, version: &Version) -> String {
    gapura_plugin_runtime::PluginId {
        name: name.to_owned(),
        version: version.label().unwrap_or_else(|| "?".to_owned()),
        digest: version.digest.clone(),
    }
    .label()
}

fn refusal(version: &Version) -> Option<Refusal> {
    match &version.check {
        Check::Failed { code, reason } => Some(Refusal {
            digest: version.digest.clone(),
            code: code.clone(),
            reason: reason.clone(),
            at: version.since,
        }),
        Check::Pending | Check::Passed(_) => None,
    }
}
