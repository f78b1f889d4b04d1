//! Which chain answers a request. A [`RouteTable`] is immutable; the
//! [`Controller`](crate::controller::Controller) swaps whole tables.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use axum::http::HeaderValue;
use gapura_plugin_runtime::{Chain, PluginId};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{RecordConfig, RouteConfig, SamplingDefaults, SamplingLimits},
    controller::TrialMode,
    outbound::AllowList,
    telemetry::{Ledger, ledger::Accounts},
    trial::Watched,
};

/// One way through the gateway at one version of its plugins. A request takes it once and
/// keeps it to its end.
#[derive(Debug)]
pub struct Route {
    /// The model name and the path segment that lead here.
    pub name: String,
    /// Other model names that lead here.
    pub aliases: Vec<String>,
    /// Also answers to the model's own name.
    pub default: bool,
    /// The plugins, in order.
    pub chain: Arc<Chain>,
    /// The plugins and their versions, for the header `x-gapura-chain`.
    pub chain_header: HeaderValue,
    /// Whom each plugin of the chain may ask by HTTP.
    pub http: Arc<[AllowList]>,
    /// What requests leave open.
    pub sampling: SamplingDefaults,
    /// What requests may not exceed.
    pub limits: SamplingLimits,
    /// A version of one of the plugins that serves beside the live one.
    pub trial: Option<Trial>,
    /// Which requests are kept to be run again.
    pub record: Option<RecordConfig>,
    /// Opened with the first request.
    accounts: OnceLock<Accounts>,
}

/// A version on trial, as a route has it.
#[derive(Debug)]
pub struct Trial {
    /// How it serves.
    pub mode: TrialMode,
    /// Which version.
    pub plugin: PluginId,
    /// What it does there.
    pub watched: Arc<Watched>,
    /// The route with that version in its chain.
    pub route: Arc<Route>,
}

impl Route {
    /// The route of `config` over `chain`.
    pub fn new(config: &RouteConfig, chain: Arc<Chain>) -> Self {
        let chain_header = HeaderValue::from_str(chain.label())
            .expect("plugin names and versions are visible ASCII");
        Self {
            name: config.name.clone(),
            aliases: config.aliases.clone(),
            default: config.default,
            chain,
            chain_header,
            http: config
                .plugins
                .iter()
                .map(|of| of.http.allow.clone())
                .collect(),
            sampling: config.sampling,
            limits: config.limits,
            trial: None,
            record: config.record,
            accounts: OnceLock::new(),
        }
    }

    /// What its plugins cost is booked here.
    pub(crate) fn accounts(&self, ledger: &Ledger) -> &Accounts {
        self.accounts.get_or_init(|| ledger.accounts(&self.chain))
    }

    /// The version that sees what this one answers, if there is one.
    pub(crate) fn shadow(&self) -> Option<&Trial> {
        let trial = self.trial.as_ref();
        trial.filter(|trial| trial.mode == TrialMode::Shadow)
    }

    /// The version that answers a share of the requests, if there is one.
    pub(crate) fn canary(&self) -> Option<&Trial> {
        let trial = self.trial.as_ref();
        trial.filter(|trial| matches!(trial.mode, TrialMode::Canary(_)))
    }

    /// The version of this route that answers the requests of `key`: always the same one, as long
    /// as the same version is on trial and its share does not shrink.
    pub fn version_for(self: &Arc<Self>, key: &str) -> &Arc<Self> {
        match &self.trial {
            Some(Trial {
                mode: TrialMode::Canary(percent),
                plugin,
                route,
                ..
            }) if share(&plugin.digest, key) < f64::from(*percent) / 100.0 => route,
            _ => self,
        }
    }
}

/// Where `key` stands, in [0, 1): evenly spread, and anew for each version.
fn share(digest: &str, key: &str) -> f64 {
    let hash = Sha256::new()
        .chain_update(digest)
        .chain_update([0])
        .chain_update(key)
        .finalize();
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hash[..4]);
    f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// All routes.
#[derive(Debug)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_model: HashMap<String, usize>,
    default: usize,
}

impl RouteTable {
    /// `routes` in the configuration's order, at least one; names and aliases are distinct.
    /// `model_names` are the loaded model's own names, which lead to the default route.
    pub fn new(routes: Vec<Arc<Route>>, model_names: &[String]) -> Self {
        assert!(!routes.is_empty(), "a configuration has at least one route");
        let default = routes.iter().position(|route| route.default).unwrap_or(0);
        let mut by_model: HashMap<String, usize> = model_names
            .iter()
            .map(|name| (name.clone(), default))
            .collect();
        for (index, route) in routes.iter().enumerate() {
            for name in std::iter::once(&route.name).chain(&route.aliases) {
                by_model.insert(name.clone(), index);
            }
        }
        Self {
            routes,
            by_model,
            default,
        }
    }

    /// The route that a request's `model` names: a route, an alias, or the model itself.
    pub fn by_model(&self, model: &str) -> Option<&Arc<Route>> {
        self.by_model.get(model).map(|index| &self.routes[*index])
    }

    /// The route of `/routes/NAME/v1`; aliases do not count here.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.name == name)
    }

    /// The route of requests that name no model, and of `/v1/completions` for the model itself.
    pub fn default_route(&self) -> &Arc<Route> {
        &self.routes[self.default]
    }

    /// In the configuration's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// Every model name that leads somewhere, sorted: for `/v1/models`.
    pub fn model_ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.by_model.keys().map(String::as_str).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_keys_is_even_sticky_and_grows_by_adding() {
        let digest = "ab".repeat(32);
        let keys: Vec<String> = (0..10_000).map(|number| format!("user-{number}")).collect();
        let within = |digest: &str, percent: f64| -> Vec<&String> {
            keys.iter()
                .filter(|key| share(digest, key) < percent / 100.0)
                .collect()
        };
        let (ten, fifty) = (within(&digest, 10.0), within(&digest, 50.0));
        assert!((900..1100).contains(&ten.len()), "{}", ten.len());
        assert!((4800..5200).contains(&fifty.len()), "{}", fifty.len());
        assert!(ten.iter().all(|key| fifty.contains(key)));
        assert_eq!(within(&digest, 100.0).len(), keys.len());
        assert_ne!(within(&"cd".repeat(32), 10.0), ten);
    }
}
