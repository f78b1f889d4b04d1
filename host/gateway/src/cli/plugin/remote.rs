//! The commands that talk to a running server's administration API.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use comfy_table::Table;
use serde_json::Value;
use ureq::{
    Body,
    http::{Response, StatusCode},
};

use super::ledger;
use crate::config::Secret;

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

/// What to push.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The name that routes bind.
    name: String,
    /// The component.
    file: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server's own answer.
    #[arg(long)]
    json: bool,
}

impl PushArgs {
    /// Sends the component and prints what became of it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = self.file.display();
        let component = std::fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let path = format!("/admin/v1/plugins/{}", self.name);
        let status = self.server.call("PUT", &path, Some(component))?;
        let routes: Vec<&str> = list(&status, "routes").collect();
        let serving = match routes.is_empty() {
            true => "no route binds it yet".to_owned(),
            false => format!("serving {}", routes.join(", ")),
        };
        writeln!(
            io::stdout(),
            "{} is {}: {serving}",
            text(&status, "label"),
            text(&status, "state")
        )?;
        Ok(())
    }
}

impl StatusArgs {
    /// Prints plugins and routes as tables.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut status = self.server.call("GET", "/admin/v1/plugins", None)?;
        let routes = self.server.call("GET", "/admin/v1/routes", None)?;
        let mut out = io::stdout().lock();
        if self.json {
            status["routes"] = routes["routes"].clone();
            writeln!(out, "{status:#}")?;
            return Ok(());
        }
        writeln!(out, "{}\n{}", plugin_table(&status), route_table(&routes))?;
        if let Some(table) = ledger::table(&status) {
            writeln!(out, "{table}")?;
        }
        Ok(())
    }
}

impl ServerArgs {
    pub(super) fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Value> {
        let (url, mut response) = self.send(method, path, body)?;
        let status = response.status();
        let answer = response.body_mut().read_json();
        let answer: Value =
            answer.with_context(|| format!("{url} answered {status} without JSON"))?;
        if !status.is_success() {
            return Err(refused(status, &answer));
        }
        Ok(answer)
    }

    /// What lies at `path`, whatever it is.
    pub(super) fn bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let (url, mut response) = self.send("GET", path, None)?;
        let status = response.status();
        if !status.is_success() {
            let answer = response.body_mut().read_json().unwrap_or_default();
            return Err(refused(status, &answer));
        }
        let body = response.body_mut().with_config().limit(MAX_COMPONENT_BYTES);
        body.read_to_vec()
            .with_context(|| format!("{url} did not answer in whole"))
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<(String, Response<Body>)> {
        let token = self
            .token
            .as_ref()
            .context("no administration token: say --token or GAPURA_ADMIN_TOKEN")?;
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build()
            .into();
        let url = format!("{}{path}", self.server.trim_end_matches('/'));
        let authorization = format!("Bearer {}", token.expose());
        let sent = match (method, body) {
            ("PUT", Some(body)) => agent
                .put(&url)
                .header("authorization", authorization)
                .content_type("application/wasm")
                .send(&body[..]),
            _ => agent
                .get(&url)
                .header("authorization", authorization)
                .call(),
        };
        let response = sent.with_context(|| format!("cannot reach {url}"))?;
        Ok((url, response))
    }
}

fn refused(status: StatusCode, answer: &Value) -> anyhow::Error {
    let reason = answer["error"]["message"].as_str();
    anyhow::anyhow!("{status}: {}", reason.unwrap_or("no reason given"))
}

fn plugin_table(status: &Value) -> Table {
    let mut table = Table::new();
    table.set_header([
        "plugin", "version", "state", "source", "stages", "routes", "refused",
    ]);
    for plugin in status["plugins"].as_array().into_iter().flatten() {
        table.add_row([
            text(plugin, "name").to_owned(),
            format!(
                "{}+{}",
                text(plugin, "version"),
                text(plugin, "digest").get(..6).unwrap_or_default()
            ),
            text(plugin, "state").to_owned(),
            text(plugin, "source").to_owned(),
            list(plugin, "stages").collect::<Vec<_>>().join(" "),
            list(plugin, "routes").collect::<Vec<_>>().join(" "),
            text(&plugin["refused"], "reason").to_owned(),
        ]);
    }
    for refused in status["refused"].as_array().into_iter().flatten() {
        let reason = text(&refused["refused"], "reason");
        table.add_row([text(refused, "name"), "", "refused", "", "", "", reason]);
    }
    table
}

fn route_table(routes: &Value) -> Table {
    let mut table = Table::new();
    table.set_header(["route", "aliases", "chain"]);
    for route in routes["routes"].as_array().into_iter().flatten() {
        table.add_row([
            text(route, "name").to_owned(),
            list(route, "aliases").collect::<Vec<_>>().join(" "),
            text(route, "chain").replace(',', "\n"),
        ]);
    }
    table
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    value[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
