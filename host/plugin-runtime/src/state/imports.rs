//! The contract's imports, as one instance sees them. Every call counts against the limit of its
//! guest call; what is not granted was refused with the chain.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::{Abort, GuestState};
use crate::bindings::{
    self, clock, config, http, kv, log, metrics, model, random, tokenizer, types,
};
use crate::http::{HTTP_REQUEST_BYTES, HttpCaller, HttpError, HttpRequest, HttpResponse};
use crate::kv::Store;
use crate::model::{Asker, ModelError};
use crate::plugin::PluginId;
use crate::services::Told;

/// Longest log line in bytes, as the contract says.
const LOG_LINE_BYTES: usize = 4 << 10;
/// Most random bytes of one call, as the contract says.
const RANDOM_BYTES: u32 = 4 << 10;

impl types::Host for GuestState {}

impl log::Host for GuestState {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        self.count_host_call()?;
        let message = one_line(&message);
        if level == log::Level::Error {
            self.last_error = Some(message.clone());
        }
        if self.lines_left_of_call == 0 || self.lines_left == 0 {
            self.lines_dropped += 1;
            return Ok(());
        }
        self.lines_left_of_call -= 1;
        self.lines_left -= 1;
        let PluginId {
            name: plugin,
            version,
            ..
        } = &self.profile.id;
        let (route, request_id) = (&*self.profile.route, &*self.request_id);
        match level {
            log::Level::Debug => debug!(plugin, version, route, request_id, "{message}"),
            log::Level::Info => info!(plugin, version, route, request_id, "{message}"),
            log::Level::Warn => warn!(plugin, version, route, request_id, "{message}"),
            log::Level::Error => error!(plugin, version, route, request_id, "{message}"),
        }
        Ok(())
    }
}

impl config::Host for GuestState {
    fn get(&mut self) -> wasmtime::Result<String> {
        self.count_host_call()?;
        Ok(self.profile.settings.to_string())
    }
}

impl tokenizer::Host for GuestState {
    fn count(&mut self, text: String) -> wasmtime::Result<u32> {
        self.count_host_call()?;
        let count = self.request().services.tokens.count(&text);
        self.told(Told::Tokens(count));
        Ok(count)
    }
}

impl metrics::Host for GuestState {
    fn add(&mut self, name: String, by: u64) -> wasmtime::Result<()> {
        self.count_host_call()?;
        let (plugin, route) = (&self.profile.id, &self.profile.route);
        self.request().services.values.add(plugin, route, &name, by);
        Ok(())
    }

    fn observe(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.count_host_call()?;
        let (plugin, route) = (&self.profile.id, &self.profile.route);
        let values = &self.request().services.values;
        values.observe(plugin, route, &name, value);
        Ok(())
    }
}

impl kv::Host for GuestState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.count_host_call()?;
        let now_ns = self.monotonic_ns();
        let value = self.kv().get(&key, now_ns);
        self.told(Told::Value {
            key: &key,
            value: value.as_deref(),
        });
        Ok(value)
    }

    fn set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<(), kv::KvError>> {
        self.count_host_call()?;
        let until_ns = ttl_ms.map(|ttl_ms| {
            let now_ns = self.monotonic_ns();
            now_ns.saturating_add(ttl_ms.saturating_mul(1_000_000))
        });
        let limit_bytes = self.profile.limits.kv_bytes;
        let set = self.kv().set(key, value, until_ns, limit_bytes);
        Ok(set.map_err(kv::KvError::TooLarge))
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<bool> {
        self.count_host_call()?;
        let now_ns = self.monotonic_ns();
        Ok(self.kv().delete(&key, now_ns))
    }
}

impl clock::Host for GuestState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.count_host_call()?;
        let now_ms = self.request().services.clock.now_ms();
        self.told(Told::NowMs(now_ms));
        Ok(now_ms)
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        self.count_host_call()?;
        Ok(self.monotonic_ns())
    }
}

impl random::Host for GuestState {
    fn bytes(&mut self, count: u32) -> wasmtime::Result<Vec<u8>> {
        self.count_host_call()?;
        if count > RANDOM_BYTES {
            let (wanted, limit) = (count, RANDOM_BYTES);
            return Err(Abort::RandomBytes { wanted, limit }.into());
        }
        let mut bytes = vec![0; count as usize];
        self.request().services.random.fill(&mut bytes)?;
        self.told(Told::Random(&bytes));
        Ok(bytes)
    }

    fn bits(&mut self) -> wasmtime::Result<u64> {
        self.count_host_call()?;
        let mut bytes = [0; 8];
        self.request().services.random.fill(&mut bytes)?;
        self.told(Told::Random(&bytes));
        Ok(u64::from_le_bytes(bytes))
    }
}

impl model::Host for GuestState {
    async fn ask(
        &mut self,
        question: model::Question,
    ) -> wasmtime::Result<Result<model::ModelAnswer, model::ModelError>> {
        self.count_host_call()?;
        let answer = self.answer(question).await;
        self.told(Told::Answer(&answer));
        Ok(answer
            .map(bindings::model_answer)
            .map_err(bindings::model_error))
    }
}

impl http::Host for GuestState {
    async fn send(
        &mut self,
        request: http::Request,
    ) -> wasmtime::Result<Result<http::Response, http::HttpError>> {
        self.count_host_call()?;
        let (request, timeout_ms) = bindings::http_request(request);
        let response = self.respond(request, timeout_ms).await;
        self.told(Told::Response(&response));
        Ok(response
            .map(bindings::http_response)
            .map_err(bindings::http_error))
    }
}

impl GuestState {
    fn told(&self, told: Told<'_>) {
        self.request()
            .services
            .observer
            .told(&self.profile.id, told);
    }

    fn monotonic_ns(&self) -> u64 {
        let now_ns = self.request().services.clock.monotonic_ns();
        self.told(Told::MonotonicNs(now_ns));
        now_ns
    }

    fn kv(&mut self) -> &Store {
        let (profile, request) = (&self.profile, Arc::clone(self.request()));
        self.kv
            .get_or_insert_with(|| request.services.kv.store(&profile.route, &profile.id.name))
    }

    /// Asks within the binding's limits. The guest's time stands still meanwhile.
    async fn answer(
        &mut self,
        question: model::Question,
    ) -> Result<crate::model::ModelAnswer, ModelError> {
        let mut question = bindings::question(question).map_err(ModelError::Invalid)?;
        let request = Arc::clone(self.request());
        let (index, limits) = (self.profile.index, &self.profile.limits);
        let tokens = request.spent.take(index, limits, question.max_tokens)?;
        question.max_tokens = tokens;
        let asker = Asker {
            plugin: &self.profile.id,
            within: Duration::from_millis(limits.model_ms),
        };
        let waiting = self.budget.wait(asker.within);
        let answer = request.services.model.ask(asker, question);
        let answer = tokio::time::timeout(asker.within, answer).await;
        drop(waiting);
        let answer = answer.unwrap_or(Err(ModelError::Deadline))?;
        let unused = tokens.saturating_sub(answer.completion_tokens);
        request.spent.refund(index, unused);
        Ok(answer)
    }

    /// Sends within the binding's limits. The guest's time stands still meanwhile.
    async fn respond(
        &mut self,
        sent: HttpRequest,
        timeout_ms: Option<u32>,
    ) -> Result<HttpResponse, HttpError> {
        if sent.body.len() > HTTP_REQUEST_BYTES {
            return Err(HttpError::TooLarge(HTTP_REQUEST_BYTES as u64));
        }
        let request = Arc::clone(self.request());
        let (index, limits) = (self.profile.index, &self.profile.limits);
        request.sent.take(index, limits)?;
        let most_ms = timeout_ms.map_or(limits.http_ms, |ms| limits.http_ms.min(ms.into()));
        let caller = HttpCaller {
            plugin: &self.profile.id,
            request_id: &self.request_id,
            binding: index,
            within: Duration::from_millis(most_ms),
            max_response_bytes: limits.http_response_bytes,
        };
        let waiting = self.budget.wait(caller.within);
        let response = request.services.http.send(caller, sent);
        let response = tokio::time::timeout(caller.within, response).await;
        drop(waiting);
        response.unwrap_or(Err(HttpError::Timeout))
    }
}

/// The line that a guest's message becomes: cut, and unable to forge another line.
fn one_line(message: &str) -> String {
    let mut end = message.len().min(LOG_LINE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let cut = &message[..end];
    if !cut.contains(char::is_control) {
        return cut.to_owned();
    }
    let mut line = String::with_capacity(cut.len() + 16);
    for c in cut.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_one_line_of_bounded_length() {
        assert_eq!(
            one_line("a\nWARN forged\x1b[2J"),
            "a\\nWARN forged\\u{1b}[2J"
        );
        assert_eq!(one_line(&"é".repeat(4096)).len(), LOG_LINE_BYTES);
        assert_eq!(
            one_line(&format!("x{}", "é".repeat(4096))).len(),
            LOG_LINE_BYTES - 1
        );
    }
}
