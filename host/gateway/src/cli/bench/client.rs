//! One streamed chat request, with the time of every piece.

use std::{
    io::{BufRead as _, BufReader},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::config::Secret;

/// The OpenAI clients' own limit.
const TIMEOUT: Duration = Duration::from_secs(600);

/// A server, and what is needed to ask it.
pub(crate) struct Client {
    agent: ureq::Agent,
    server: String,
    authorization: Option<String>,
}

/// What one answer took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// Until the first piece of text.
    pub first: Duration,
    /// Between pieces.
    pub gaps: Vec<Duration>,
    /// Until the end.
    pub whole: Duration,
    /// As the server counts them.
    pub prompt_tokens: u64,
    /// As the server counts them.
    pub completion_tokens: u64,
}

impl Client {
    /// Nothing is sent yet.
    pub(crate) fn new(server: &str, key: Option<&Secret>) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        Self {
            agent,
            server: server.trim_end_matches('/').to_owned(),
            authorization: key.map(|key| format!("Bearer {}", key.expose())),
        }
    }

    /// The first model that the server lists.
    pub(crate) fn first_model(&self) -> anyhow::Result<String> {
        let url = format!("{}/v1/models", self.server);
        let mut request = self.agent.get(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request
            .call()
            .with_context(|| format!("cannot reach {url}"))?;
        let models: Value = response.body_mut().read_json()?;
        if let Some(error) = models["error"]["message"].as_str() {
            bail!("{error}");
        }
        models["data"][0]["id"]
            .as_str()
            .map(str::to_owned)
            .context("the server lists no model")
    }

    /// Asks and reads the stream to its end.
    pub(crate) fn ask(&self, model: &str, prompt: &str, max_tokens: u32) -> anyhow::Result<Answer> {
        let body = json!({
            "model": model,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": max_tokens,
            "ignore_eos": true,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let url = format!("{}/v1/chat/completions", self.server);
        let mut request = self.agent.post(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let started = Instant::now();
        let mut response = request
            .send_json(&body)
            .with_context(|| format!("cannot reach {url}"))?;
        if !response.status().is_success() {
            let status = response.status();
            let text = response.body_mut().read_to_string().unwrap_or_default();
            bail!("{status}: {text}");
        }
        let mut stream = Stream {
            started,
            last: None,
            answer: Answer::default(),
        };
        let mut is_done = false;
        // To the very end, so that the connection serves the next request.
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.context("the stream broke off")?;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                stream.answer.whole = started.elapsed();
                is_done = true;
                continue;
            }
            stream.take(&serde_json::from_str(data).context("an event is not JSON")?)?;
        }
        if !is_done {
            bail!("the stream ended without [DONE]");
        }
        Ok(stream.answer)
    }
}

/// A stream that is being read.
struct Stream {
    started: Instant,
    last: Option<Instant>,
    answer: Answer,
}

impl Stream {
    fn take(&mut self, event: &Value) -> anyhow::Result<()> {
        if let Some(message) = event["error"]["message"].as_str() {
            bail!("the stream ended with an error: {message}");
        }
        if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
            self.answer.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
            self.answer.completion_tokens = usage["completion_tokens"].as_u64().unwrap_or(0);
        }
        let text = event["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        if text.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        match self.last.replace(now) {
            None => self.answer.first = now - self.started,
            Some(last) => self.answer.gaps.push(now - last),
        }
        Ok(())
    }
}
