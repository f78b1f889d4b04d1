//! HTTP requests of plugins beside a request: within their binding's grant, counted, and given up
//! with the request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gapura_plugin_runtime::{Http, HttpCaller, HttpError, HttpRequest, HttpResponse, Sending};
use tracing::debug;

use crate::outbound::{AllowList, Outbound, prepare};
use crate::telemetry::Metrics;

/// The network, for the plugins of one route.
pub(super) struct Fetcher {
    pub(super) outbound: Arc<Outbound>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) route: Arc<str>,
    /// Of each binding of the route's chain.
    pub(super) allowed: Arc<[AllowList]>,
}

impl Http for Fetcher {
    fn send<'a>(&'a self, caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a> {
        // From the call on, so that whoever gives up after `within` does not do so before.
        let started = Instant::now();
        Box::pin(async move {
            let mut record = Record {
                fetcher: self,
                caller,
                started,
                method: request.method.as_str(),
                host: String::new(),
                result: None,
            };
            let response = self.fetch(&mut record, request).await;
            record.result = Some(match &response {
                Ok(response) => Ok((response.status, response.body.len())),
                Err(error) => Err(outcome(error)),
            });
            response
        })
    }
}

impl Fetcher {
    async fn fetch(
        &self,
        record: &mut Record<'_>,
        request: HttpRequest,
    ) -> Result<HttpResponse, HttpError> {
        let prepared = prepare(request)?;
        record.host = prepared.target.authority();
        let caller = record.caller;
        let Some(allowed) = self.allowed.get(caller.binding) else {
            return Err(HttpError::Denied(format!(
                "{} is not among the hosts that the route allows",
                record.host
            )));
        };
        let response =
            self.outbound
                .send(&self.route, allowed, prepared, caller.max_response_bytes);
        response.await
    }
}

fn outcome(error: &HttpError) -> &'static str {
    match error {
        HttpError::Denied(_) => "denied",
        HttpError::InvalidRequest(_) => "invalid",
        HttpError::Budget(_) => "budget",
        HttpError::Timeout => "timeout",
        HttpError::TooLarge(_) => "too_large",
        HttpError::Connect(_) => "connect",
        HttpError::Tls(_) => "tls",
        HttpError::Protocol(_) => "protocol",
    }
}

/// Counts a request once and puts it into the log, also one that is given up. Not its path, query,
/// headers or body: services take secrets in each of them.
struct Record<'a> {
    fetcher: &'a Fetcher,
    caller: HttpCaller<'a>,
    started: Instant,
    method: &'static str,
    host: String,
    /// Status and bytes of the body, or which error; `None` until there is either.
    result: Option<Result<(u16, usize), &'static str>>,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let plugin = self.caller.plugin;
        let took: Duration = self.started.elapsed();
        let (outcome, response) = match self.result {
            Some(Ok(response)) => ("answered", Some(response)),
            Some(Err(outcome)) => (outcome, None),
            // The guest's call and the request have limits too and may be the first to give up.
            None if took < self.caller.within => ("given_up", None),
            None => ("timeout", None),
        };
        let (name, version) = (plugin.name.as_str(), plugin.version.as_str());
        self.fetcher.metrics.plugin_http((name, version), outcome);
        debug!(
            plugin = name,
            version,
            route = &*self.fetcher.route,
            request_id = self.caller.request_id,
            method = self.method,
            host = self.host,
            outcome,
            status = response.map(|(status, _)| status),
            response_bytes = response.map(|(_, bytes)| bytes),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "a plugin's HTTP request"
        );
    }
}
