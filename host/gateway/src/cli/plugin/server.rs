//! The administration API of a running server, as its client sees it.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use ureq::{
    Body,
    http::{Response, StatusCode},
};

use crate::{
    config::Secret,
    signing::{self, Signature},
};

/// A component may take this long to compile on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Larger components are fetched from nowhere.
const MAX_COMPONENT_BYTES: u64 = 256 << 20;

/// Which server, and as whom.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server's address.
    #[arg(
        long,
        value_name = "URL",
        env = "GAPURA_SERVER",
        default_value = "http://127.0.0.1:8000"
    )]
    server: String,
    /// The administration token.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "GAPURA_ADMIN_TOKEN",
        hide_env_values = true,
        value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text))
    )]
    token: Option<Secret>,
}

impl ServerArgs {
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.agent().get(self.url(path));
        self.answer(path, request.header("authorization", self.bearer()?).call())
    }

    pub(super) fn put(
        &self,
        path: &str,
        component: &[u8],
        signature: Option<&Signature>,
    ) -> anyhow::Result<Value> {
        let request = self.agent().put(self.url(path));
        let mut request = request.header("authorization", self.bearer()?);
        if let Some(signature) = signature {
            request = request.header(signing::HEADER, signature.to_string());
        }
        self.answer(
            path,
            request.content_type("application/wasm").send(component),
        )
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.agent().post(self.url(path));
        let request = request.header("authorization", self.bearer()?);
        self.answer(path, request.send_json(body))
    }

    /// What lies at `path`, whatever it is.
    pub(super) fn bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let (url, request) = (self.url(path), self.agent().get(self.url(path)));
        let sent = request.header("authorization", self.bearer()?).call();
        let mut response = sent.with_context(|| format!("cannot reach {url}"))?;
        let status = response.status();
        if !status.is_success() {
            let answer = response.body_mut().read_json().unwrap_or_default();
            return Err(refused(status, &answer));
        }
        let body = response.body_mut().with_config().limit(MAX_COMPONENT_BYTES);
        body.read_to_vec()
            .with_context(|| format!("{url} did not answer in whole"))
    }

    fn agent(&self) -> ureq::Agent {
        ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.trim_end_matches('/'))
    }

    fn bearer(&self) -> anyhow::Result<String> {
        let token = self
            .token
            .as_ref()
            .context("no administration token: say --token or GAPURA_ADMIN_TOKEN")?;
        Ok(format!("Bearer {}", token.expose()))
    }

    fn answer(
        &self,
        path: &str,
        sent: Result<Response<Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let url = self.url(path);
        let mut response = sent.with_context(|| format!("cannot reach {url}"))?;
        let status = response.status();
        let answer = response.body_mut().read_json();
        let answer: Value =
            answer.with_context(|| format!("{url} answered {status} without JSON"))?;
        if !status.is_success() {
            return Err(refused(status, &answer));
        }
        Ok(answer)
    }
}

fn refused(status: StatusCode, answer: &Value) -> anyhow::Error {
    let reason = answer["error"]["message"].as_str();
    anyhow::anyhow!("{status}: {}", reason.unwrap_or("no reason given"))
}
