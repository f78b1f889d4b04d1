//! `gapura plugin status`: plugins, routes, versions and what they cost, as tables.

use std::io::{self, Write as _};

use clap::Args;
use comfy_table::Table;
use serde_json::Value;

use super::{ledger, server::ServerArgs, trial};

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
            ledger::print(&mut out, &status)?;
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

pub(super) fn version_table(status: &Value) -> Table {
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
pub(super) fn versioned(value: &Value) -> String {
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

pub(super) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    value[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Seconds since 1970 as `2026-01-31 23:59:59`, in UTC.
pub(super) fn utc(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    match time::UtcDateTime::from_unix_timestamp(seconds) {
        Ok(at) => {
            let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
            format!("{date} {hour:02}:{minute:02}:{second:02}")
        }
        Err(_) => String::new(),
    }
}
