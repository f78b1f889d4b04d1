//! The commands that talk to a running server's administration API.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use comfy_table::Table;
use serde_json::{Value, json};
use ureq::{
    Body,
    http::{Response, StatusCode},
};

use super::{ledger, location::Location, trial};
use crate::{
    cli::ConfigArgs,
    config::{Digest, Secret},
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

/// What to push.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The name that routes bind.
    name: String,
    /// The component: a file, or a reference such as oci://registry.example.com/persona:1.2.0. Its
    /// signature, FILE.sig or what was published with it, goes along if there is one.
    #[arg(value_name = "FILE|REFERENCE")]
    location: Location,
    /// Its `[registries]` say how registries are reached.
    #[command(flatten)]
    config: ConfigArgs,
    /// How far it is to come.
    #[arg(long, value_enum, default_value_t = UntilArg::Live)]
    until: UntilArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// How far a pushed component is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UntilArg {
    /// Kept, and nothing more.
    Staged,
    /// Compiled, linked and tried with its golden cases.
    Verified,
    /// Serving.
    Live,
}

/// Which version of which plugin.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// The plugin.
    name: String,
    /// The first digits of the version's digest, 6 at least. Without them: the version on trial,
    /// else the newest that waits.
    digest: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which version, and its share.
#[derive(Debug, Args)]
pub(crate) struct CanaryArgs {
    /// The plugin.
    name: String,
    /// Requests of a hundred that the version answers.
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// The first digits of the version's digest, 6 at least. Without them: the version on trial,
    /// else the newest that waits.
    digest: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which plugin goes back.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The plugin.
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Whose history.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Only changes of this plugin.
    name: Option<String>,
    /// Most changes that are shown.
    #[arg(long, default_value_t = 50)]
    last: usize,
    #[command(flatten)]
    server: ServerArgs,
    /// One JSON object for each change, the newest first.
    #[arg(long)]
    json: bool,
}

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// One plugin, with all its versions.
    name: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    /// The server's own answer.
    #[arg(long)]
    json: bool,
}

impl PushArgs {
    /// Sends the component and prints what became of it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (component, signature) = self.location.read_signed(&self.config)?;
        let until = match self.until {
            UntilArg::Staged => "staged",
            UntilArg::Verified => "verified",
            UntilArg::Live => "live",
        };
        let path = format!("/admin/v1/plugins/{}?until={until}", self.name);
        let digest = Digest::of(&component).to_hex();
        let signature = signature.as_deref().map(Signature::parse).transpose();
        let signature = signature.with_context(|| format!("the signature of {}", self.location))?;
        let status = self.server.put(&path, &component, signature.as_ref())?;
        print_version(&status, &digest)
    }
}

impl VersionArgs {
    /// `verify`, `shadow` or `activate`, and what became of it.
    pub(crate) fn run(self, action: &str) -> anyhow::Result<()> {
        let body = json!({ "digest": self.digest });
        make_move(&self.server, &self.name, action, &body)
    }
}

impl CanaryArgs {
    /// Gives the version its share.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let body = json!({ "digest": self.digest, "percent": self.percent });
        make_move(&self.server, &self.name, "canary", &body)
    }
}

impl RollbackArgs {
    /// Goes back and prints where to.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        make_move(&self.server, &self.name, "rollback", &json!({}))
    }
}

impl HistoryArgs {
    /// Prints the changes, the newest first.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let history = self.server.get("/admin/v1/history")?;
        let subject = self.name.map(|name| format!("plugin {name}"));
        let changes = history["history"].as_array().into_iter().flatten();
        let changes = changes
            .filter(|change| {
                subject
                    .as_deref()
                    .is_none_or(|wanted| text(change, "subject") == wanted)
            })
            .take(self.last);
        let mut out = io::stdout().lock();
        if self.json {
            for change in changes {
                writeln!(out, "{change}")?;
            }
            return Ok(());
        }
        let mut table = Table::new();
        table.set_header(["", "time", "who", "what", "version", "outcome", "reason"]);
        for change in changes {
            table.add_row([
                change["sequence"].to_string(),
                utc(change["at"].as_u64().unwrap_or_default()),
                text(change, "origin").to_owned(),
                text(change, "subject").to_owned(),
                versioned(change),
                text(change, "outcome").to_owned(),
                text(change, "reason").to_owned(),
            ]);
        }
        writeln!(out, "{table}")?;
        Ok(())
    }
}

/// Asks for a move and prints how the versions stand after it.
fn make_move(server: &ServerArgs, name: &str, action: &str, body: &Value) -> anyhow::Result<()> {
    let status = server.post(&format!("/admin/v1/plugins/{name}/{action}"), body)?;
    writeln!(io::stdout(), "{}", version_table(&status))?;
    Ok(())
}

/// How far the version `digest` has come, and what serves.
fn print_version(status: &Value, digest: &str) -> anyhow::Result<()> {
    let mut versions = status["versions"].as_array().into_iter().flatten();
    let version = versions
        .find(|version| text(version, "digest") == digest)
        .unwrap_or(status);
    let routes: Vec<&str> = list(status, "routes").collect();
    let routes = match routes.is_empty() {
        true => "no route binds it yet".to_owned(),
        false => routes.join(", "),
    };
    let state = text(version, "state");
    let serving = match state {
        "live" if list(status, "routes").next().is_some() => format!("serving {routes}"),
        "live" => routes,
        _ => format!("{} serves on", text(status, "label")),
    };
    writeln!(
        io::stdout(),
        "{} is {state}: {serving}",
        text(version, "label")
    )?;
    Ok(())
}

impl StatusArgs {
    /// Prints plugins and routes as tables, or the versions of one plugin.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if let Some(name) = &self.name {
            let status = self.server.get(&format!("/admin/v1/plugins/{name}"))?;
            if self.json {
                writeln!(out, "{status:#}")?;
                return Ok(());
            }
            writeln!(out, "{}", version_table(&status))?;
            for watch in [&status["trial"], &status["probation"]] {
                if watch.is_object() {
                    trial::print(&mut out, watch)?;
                }
            }
            return Ok(());
        }
        let mut status = self.server.get("/admin/v1/plugins")?;
        let routes = self.server.get("/admin/v1/routes")?;
        if self.json {
            status["routes"] = routes["routes"].clone();
            writeln!(out, "{status:#}")?;
            return Ok(());
        }
        writeln!(out, "{}\n{}", plugin_table(&status), route_table(&routes))?;
        if status["sources"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
        {
            writeln!(out, "{}", source_table(&status))?;
        }
        if let Some(table) = ledger::table(&status) {
            writeln!(out, "{table}")?;
        }
        Ok(())
    }
}

impl ServerArgs {
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.agent().get(self.url(path));
        self.answer(path, request.header("authorization", self.bearer()?).call())
    }

    fn put(
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

    fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
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

fn plugin_table(status: &Value) -> Table {
    let mut table = Table::new();
    table.set_header([
        "plugin",
        "version",
        "state",
        "source",
        "stages",
        "routes",
        "beside it",
        "refused",
    ]);
    for plugin in status["plugins"].as_array().into_iter().flatten() {
        let versions = plugin["versions"].as_array().into_iter().flatten();
        let waiting = versions
            .filter(|version| !matches!(text(version, "state"), "live" | "retired"))
            .map(|version| format!("{} {}", versioned(version), state(version)));
        table.add_row([
            text(plugin, "name").to_owned(),
            versioned(plugin),
            text(plugin, "state").to_owned(),
            text(plugin, "source").to_owned(),
            list(plugin, "stages").collect::<Vec<_>>().join(" "),
            list(plugin, "routes").collect::<Vec<_>>().join(" "),
            waiting.collect::<Vec<_>>().join("\n"),
            text(&plugin["refused"], "reason").to_owned(),
        ]);
    }
    table
}

fn version_table(status: &Value) -> Table {
    let mut table = Table::new();
    table.set_header([
        "version",
        "state",
        "source",
        "since",
        "cases",
        "signed by",
        "reason",
    ]);
    for version in status["versions"].as_array().into_iter().flatten() {
        let back = match version["is_previous"].as_bool() {
            Some(true) => " (rollback goes here)",
            _ => "",
        };
        table.add_row([
            text(version, "label").to_owned(),
            format!("{}{back}", state(version)),
            text(version, "source").to_owned(),
            utc(version["since"].as_u64().unwrap_or_default()),
            version["cases"]
                .as_u64()
                .map_or_else(String::new, |cases| cases.to_string()),
            list(version, "signed_by").collect::<Vec<_>>().join("\n"),
            text(version, "reason").to_owned(),
        ]);
    }
    table
}

/// The state, with the share of a canary.
pub(super) fn state(version: &Value) -> String {
    match version["percent"].as_u64() {
        Some(percent) => format!("{} {percent} %", text(version, "state")),
        None => text(version, "state").to_owned(),
    }
}

/// The author's version and the first digits of the digest.
fn versioned(value: &Value) -> String {
    let digest = text(value, "digest");
    match (value["version"].as_str(), digest.get(..6)) {
        (Some(version), Some(digest)) => format!("{version}+{digest}"),
        (None, Some(digest)) => digest.to_owned(),
        (version, None) => version.unwrap_or_default().to_owned(),
    }
}

fn route_table(routes: &Value) -> Table {
    let mut table = Table::new();
    table.set_header(["route", "aliases", "chain", "on trial"]);
    for route in routes["routes"].as_array().into_iter().flatten() {
        table.add_row([
            text(route, "name").to_owned(),
            list(route, "aliases").collect::<Vec<_>>().join(" "),
            text(route, "chain").replace(',', "\n"),
            match &route["trial"] {
                Value::Null => String::new(),
                trial => format!(
                    "{}: {}",
                    state(trial),
                    text(trial, "chain").replace(',', "\n")
                ),
            },
        ]);
    }
    table
}

fn source_table(status: &Value) -> Table {
    let mut table = Table::new();
    table.set_header(["plugin", "as", "reference", "state", "reason", "next try"]);
    for source in status["sources"].as_array().into_iter().flatten() {
        table.add_row([
            text(source, "name").to_owned(),
            source["canary"]
                .as_u64()
                .map_or_else(|| "live".to_owned(), |share| format!("canary {share} %")),
            text(source, "reference").to_owned(),
            text(source, "state").to_owned(),
            text(source, "reason").to_owned(),
            source["next_try_s"]
                .as_u64()
                .map_or_else(String::new, |seconds| format!("in {seconds} s")),
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

/// Seconds since 1970 as `2026-01-31 23:59:59`, in UTC.
fn utc(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    match time::UtcDateTime::from_unix_timestamp(seconds) {
        Ok(at) => {
            let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
            format!("{date} {hour:02}:{minute:02}:{second:02}")
        }
        Err(_) => String::new(),
    }
}
