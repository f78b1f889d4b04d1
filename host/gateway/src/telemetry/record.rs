//! One guard per request. It collects what is known of the request while it runs and writes
//! metrics and the log line once, when it is dropped, however the request ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gapura_engine::Usage;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::ledger::Tally;
use super::metrics::{Metrics, PROVIDER};
use super::server_timing::ServerTiming;
use crate::error::ApiError;

/// What is known of a request. Dropping it writes its metrics and its log line.
#[derive(Debug)]
pub struct RequestRecord {
    metrics: Arc<Metrics>,
    /// Keeps a server that drains from closing.
    _under_way: TaskTrackerToken,
    started: Instant,
    endpoint: &'static str,
    request_id: String,
    route: String,
    chain: String,
    tenant: Option<String>,
    stream: bool,
    status: u16,
    /// The code, for the log.
    error: Option<String>,
    /// The code, as metrics have it.
    error_label: Option<&'static str>,
    finish: Option<&'static str>,
    first_token: Option<Duration>,
    tokenization: Duration,
    detokenization: Duration,
    prompt_tokens: u32,
    completion_tokens: u32,
    /// Of the answers that are complete.
    usages: Vec<Usage>,
    is_timed: bool,
    /// What the plugins of each chain cost that the request came to.
    tallies: Vec<Arc<Tally>>,
}

impl RequestRecord {
    /// A request that has just arrived. `endpoint` is OpenTelemetry's operation name: `chat`,
    /// `text_completion`, `tokenize`. Until something else is said it was abandoned by its
    /// client (status 499).
    pub fn new(
        metrics: Arc<Metrics>,
        under_way: TaskTrackerToken,
        endpoint: &'static str,
        request_id: &str,
    ) -> Self {
        Self {
            metrics,
            _under_way: under_way,
            started: Instant::now(),
            endpoint,
            request_id: request_id.to_owned(),
            route: String::new(),
            chain: String::new(),
            tenant: None,
            stream: false,
            status: 499,
            error: None,
            error_label: None,
            finish: None,
            first_token: None,
            tokenization: Duration::ZERO,
            detokenization: Duration::ZERO,
            prompt_tokens: 0,
            completion_tokens: 0,
            usages: Vec::new(),
            is_timed: false,
            tallies: Vec::new(),
        }
    }

    /// The route and the chain version that the request is pinned to.
    pub fn routed(&mut self, route: &str, chain: &str) {
        route.clone_into(&mut self.route);
        chain.clone_into(&mut self.chain);
    }

    /// Who asks, and whether for a stream.
    pub fn asked_by(&mut self, tenant: Option<&str>, stream: bool) {
        self.tenant = tenant.map(str::to_owned);
        self.stream = stream;
    }

    /// What plugins cost is wanted for this request, whether or not the ledger is kept.
    pub fn time(&mut self) {
        self.is_timed = true;
    }

    /// Whether [`time`](Self::time) was called.
    pub(crate) fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// The plugins of a chain that the request has come to.
    pub(crate) fn spends(&mut self, tally: Arc<Tally>) {
        self.tallies.push(tally);
    }

    /// What is known so far of where the time went, as `Server-Timing` says it; `None` where it is
    /// not wanted. Of several answers the slowest counts.
    pub(crate) fn server_timing(&self) -> Option<String> {
        if !self.is_timed {
            return None;
        }
        let mut timing = ServerTiming::default();
        let most = |of: fn(&Usage) -> Duration| self.usages.iter().map(of).max();
        if let Some(queue) = most(|usage| usage.queue_time) {
            timing.add("queue", "", queue);
        }
        if !self.tokenization.is_zero() {
            timing.add("tokenize", "", self.tokenization);
        }
        for cost in self.tallies.iter().flat_map(|tally| tally.costs()) {
            let desc = format!("{} {}", cost.plugin.label(), cost.stage);
            timing.add("plugin", &desc, cost.took);
        }
        if let Some(prefill) = most(|usage| usage.prefill_time) {
            timing.add("prefill", "", prefill);
        }
        if let Some(decode) = most(|usage| usage.decode_time) {
            timing.add("decode", "", decode);
        }
        if !self.detokenization.is_zero() {
            timing.add("detokenize", "", self.detokenization);
        }
        timing.add("total", "", self.elapsed());
        Some(timing.finish())
    }

    /// Adds to the time that tokenizing the prompt took.
    pub fn tokenized(&mut self, took: Duration) {
        self.tokenization += took;
    }

    /// Adds to the time that turning tokens into text took.
    pub fn detokenized(&mut self, took: Duration) {
        self.detokenization += took;
    }

    /// The engine works on prompts of so many tokens.
    pub fn prompted(&mut self, tokens: u32) {
        self.prompt_tokens = tokens;
    }

    /// So many tokens have come of all answers together: also known of a request that is cut.
    pub fn generated(&mut self, tokens: u32) {
        if self.first_token.is_none() && tokens > 0 {
            self.first_token = Some(self.started.elapsed());
        }
        self.completion_tokens = tokens;
    }

    /// One answer is complete. Called once for each of the request's `n` answers.
    pub fn answered(&mut self, usage: Usage, finish: &'static str) {
        self.usages.push(usage);
        self.finish = Some(finish);
    }

    /// The request ended as it should, or with an error.
    pub fn ended(&mut self, end: Result<(), &ApiError>) {
        self.status = end.map_or_else(|error| error.status().as_u16(), |()| 200);
        let error = end.err();
        self.error = error.and_then(ApiError::code).map(str::to_owned);
        self.error_label = error.and_then(ApiError::code_label);
    }

    /// Seconds since the request arrived.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn write_metrics(&self, duration: Duration) {
        let metrics = &self.metrics;
        let labels = [self.endpoint, PROVIDER];
        let status = self.status.to_string();
        let is_success = self.status < 400;
        metrics.http_request(self.endpoint, &self.route, self.status);
        let error_type = if is_success {
            ""
        } else {
            self.error_label.unwrap_or(&status)
        };
        metrics
            .request_duration
            .with_label_values(&[labels[0], labels[1], error_type])
            .observe(duration.as_secs_f64());
        for usage in &self.usages {
            metrics.queue.observe(usage.queue_time.as_secs_f64());
            metrics.prefill.observe(usage.prefill_time.as_secs_f64());
            metrics.decode.observe(usage.decode_time.as_secs_f64());
            let intervals = usage.completion_tokens.saturating_sub(1);
            let decode = usage.decode_time.as_secs_f64();
            if is_success && intervals > 0 && decode > 0.0 {
                metrics
                    .tokens_per_second
                    .observe(f64::from(intervals) / decode);
                metrics
                    .time_per_output_token
                    .with_label_values(&labels)
                    .observe(decode / f64::from(intervals));
            }
        }
        if self.prompt_tokens > 0 {
            for (kind, count) in [
                ("input", self.prompt_tokens),
                ("output", self.completion_tokens),
            ] {
                metrics
                    .token_usage
                    .with_label_values(&[labels[0], labels[1], kind])
                    .observe(f64::from(count));
            }
        }
        if self.tokenization > Duration::ZERO {
            metrics
                .tokenization
                .observe(self.tokenization.as_secs_f64());
        }
        if self.detokenization > Duration::ZERO {
            metrics
                .detokenization
                .observe(self.detokenization.as_secs_f64());
        }
        if is_success && !self.usages.is_empty() {
            metrics.inference_duration.observe(duration.as_secs_f64());
            if let Some(first) = self.first_token {
                metrics
                    .time_to_first_token
                    .with_label_values(&labels)
                    .observe(first.as_secs_f64());
            }
        }
    }

    fn write_log(&self, duration: Duration) {
        let queue = self
            .usages
            .first()
            .map_or(Duration::ZERO, |usage| usage.queue_time);
        tracing::info!(
            request_id = self.request_id,
            endpoint = self.endpoint,
            route = self.route,
            chain = self.chain,
            tenant = self.tenant.as_deref().unwrap_or_default(),
            stream = self.stream,
            status = self.status,
            error = self.error.as_deref().unwrap_or_default(),
            finish = self.finish.unwrap_or_default(),
            prompt_tokens = self.prompt_tokens,
            completion_tokens = self.completion_tokens,
            queue_ms = millis(queue),
            first_token_ms = millis(self.first_token.unwrap_or_default()),
            duration_ms = millis(duration),
            "request"
        );
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        self.write_metrics(duration);
        self.write_log(duration);
    }
}

/// With three digits after the point.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
