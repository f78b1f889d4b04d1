//! Which chain answers a request. A [`RouteTable`] is immutable; the
//! [`Controller`](crate::controller::Controller) swaps whole tables.

use std::{collections::HashMap, sync::Arc};

use axum::http::HeaderValue;
use gapura_plugin_runtime::Chain;

use crate::config::{RouteConfig, SamplingDefaults, SamplingLimits};
use crate::outbound::AllowList;

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
        }
    }
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
