//! `gapura plugin replay`: plays a recorded request with another version of a plugin and says what
//! comes out otherwise.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;
use gapura_plugin_runtime::Plugin;
use serde_json::{Value, json};

use super::{
    project::{Component, component},
    server::ServerArgs,
    test::print_difference,
};
use crate::{
    builtin::BUILTINS,
    cases::{CaseRunner, Difference, Measure, Outcome},
    config::Digest,
    recording::{Binding, Record},
};

/// Which request, and with what.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The request's `x-request-id`.
    request_id: String,
    /// The other version: a component, or a plugin's folder, which is built first.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The plugin of the chain that it stands in for. Default: the one with the file's name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A component of the chain that the server does not keep any more; once for each.
    #[arg(long = "component", value_name = "NAME=FILE", value_parser = named_file)]
    components: Vec<(String, PathBuf)>,
    #[command(flatten)]
    server: ServerArgs,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Both ways of a request.
struct Replay {
    record: Record,
    old: (Plugin, Outcome),
    new: (Plugin, Outcome),
}

impl ReplayArgs {
    /// 0 where both versions make the same of the request, 1 where they do not, 2 where that cannot
    /// be found out.
    pub(crate) fn run(self) -> ExitCode {
        let compared = self.play().and_then(|replay| {
            let differences = replay.differences();
            let mut out = io::stdout().lock();
            match self.json {
                true => writeln!(out, "{:#}", replay.json(&differences))?,
                false => replay.print(&mut out, &differences)?,
            }
            Ok(differences.is_empty())
        });
        match compared {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {error:#}");
                ExitCode::from(2)
            }
        }
    }

    fn play(&self) -> anyhow::Result<Replay> {
        let new = component(&self.plugin)?;
        let record = self.record()?;
        let place = self.place(&record, &new)?;
        let name = &record.plugins[place].name;
        let runner = CaseRunner::new(Measure::Fuel)?;
        let load = |binding: &Binding| {
            let wasm = self.component_of(binding)?;
            let loaded = runner.load(&binding.name, &wasm);
            loaded.with_context(|| format!("{} does not load", label(binding)))
        };
        let plugins = record.plugins.iter().map(load);
        let mut plugins = plugins.collect::<anyhow::Result<Vec<Plugin>>>()?;
        let other = runner
            .load(name, &new.read()?)
            .with_context(|| format!("{} does not load", new.path.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = |plugins: &[Plugin]| {
            let plugin = plugins[place].clone();
            let outcome = runtime
                .block_on(runner.replay(&record, plugins, name))
                .with_context(|| format!("{} cannot be played", plugin.label()))?;
            anyhow::Ok((plugin, outcome))
        };
        let old = run(&plugins)?;
        plugins[place] = other;
        let new = run(&plugins)?;
        Ok(Replay { record, old, new })
    }

    fn record(&self) -> anyhow::Result<Record> {
        let path = format!("/admin/v1/records/{}", self.request_id);
        let record = self.server.get(&path)?;
        let record: Record =
            serde_json::from_value(record).context("the server's record is not one of ours")?;
        if !record.is_whole {
            bail!(
                "the record of {} is not whole: there was more than a record may hold",
                self.request_id
            );
        }
        Ok(record)
    }

    /// Where in the chain the plugin is that `new` stands in for.
    fn place(&self, record: &Record, new: &Component) -> anyhow::Result<usize> {
        let name = self.name.as_ref().unwrap_or(&new.name);
        let mut names = record.plugins.iter().map(|binding| binding.name.as_str());
        let place = names.position(|of_chain| of_chain == name);
        place.with_context(|| {
            let chain: Vec<&str> = record.plugins.iter().map(|of| of.name.as_str()).collect();
            let chain = chain.join(", ");
            format!("the chain has no plugin `{name}`: say --name with one of {chain}")
        })
    }

    /// From a file that was named, from this binary, or from the server.
    fn component_of(&self, binding: &Binding) -> anyhow::Result<Vec<u8>> {
        let is_meant = |wasm: &[u8]| Digest::of(wasm).to_hex() == binding.digest;
        let mut named = self.components.iter();
        if let Some((_, file)) = named.find(|(name, _)| *name == binding.name) {
            let shown = file.display();
            let wasm = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
            if !is_meant(&wasm) {
                bail!("{shown} is not the component of {}", label(binding));
            }
            return Ok(wasm);
        }
        if let Some(builtin) = BUILTINS.iter().find(|of| is_meant(of.bytes)) {
            return Ok(builtin.bytes.to_vec());
        }
        let path = format!("/admin/v1/artefacts/{}", binding.digest);
        let wasm = self.server.bytes(&path).with_context(|| {
            let (label, name) = (label(binding), &binding.name);
            format!("cannot have the component of {label}: say --component {name}=FILE")
        })?;
        if !is_meant(&wasm) {
            bail!(
                "the server's component of {} is another one",
                label(binding)
            );
        }
        Ok(wasm)
    }
}

impl Replay {
    fn differences(&self) -> Vec<Difference> {
        self.new.1.found.differences_from(&self.old.1.found)
    }

    /// What the version that was recorded decided then and does not decide now, if so.
    fn strays(&self) -> Option<String> {
        let was = self.record.outcome.verdict.as_str();
        let found = &self.old.1.found;
        let is = match found.text("failed") {
            Some(failed) if failed.starts_with("validate") => "fail".to_owned(),
            _ => found.text("verdict")?,
        };
        (was != is && !was.is_empty()).then(|| {
            let why = match self.record.is_redacted {
                true => "the record is redacted",
                false => "it depends on more than a record holds",
            };
            format!(
                "{} decided `{was}` then and `{is}` now: {why}",
                self.old.0.label()
            )
        })
    }

    /// By stage: calls, fuel and bytes of memory of the old version and of the new one.
    fn costs(&self) -> Vec<(&'static str, [[u64; 3]; 2])> {
        let of_stage = |outcome: &Outcome, stage| {
            let mut uses = outcome.uses.iter();
            let used = uses.find(|of| of.stage == stage);
            used.map_or([0; 3], |of| [of.calls, of.fuel, of.memory_bytes])
        };
        let stages = gapura_plugin_runtime::Stage::ALL.into_iter();
        let both = stages.map(|stage| {
            let used = [&self.old.1, &self.new.1].map(|outcome| of_stage(outcome, stage));
            (stage.as_str(), used)
        });
        both.filter(|(_, used)| *used != [[0; 3]; 2]).collect()
    }

    fn json(&self, differences: &[Difference]) -> Value {
        let used = |[calls, fuel, memory_bytes]: [u64; 3]| json!({"calls": calls, "fuel": fuel, "memory_bytes": memory_bytes});
        let costs = self.costs().into_iter().map(|(stage, [old, new])| {
            (
                stage.to_owned(),
                json!({"old": used(old), "new": used(new)}),
            )
        });
        let differences: Vec<_> = differences
            .iter()
            .map(|of| json!({"key": of.key, "old": of.wanted, "new": of.found}))
            .collect();
        let failure = |outcome: &Outcome| outcome.failure.as_ref().map(ToString::to_string);
        json!({
            "request_id": self.record.request_id,
            "route": self.record.route,
            "is_redacted": self.record.is_redacted,
            "old": self.old.0.label(),
            "new": self.new.0.label(),
            "result": if differences.is_empty() { "same" } else { "different" },
            "differences": differences,
            "cost": costs.collect::<serde_json::Map<_, _>>(),
            "failure": { "old": failure(&self.old.1), "new": failure(&self.new.1) },
            "note": self.strays(),
        })
    }

    fn print(&self, out: &mut impl Write, differences: &[Difference]) -> io::Result<()> {
        let (record, [old, new]) = (&self.record, [&self.old.0, &self.new.0].map(Plugin::label));
        writeln!(
            out,
            "{} on {}: {old}, then {new}",
            record.request_id, record.route
        )?;
        match differences {
            [] => writeln!(out, "    the same verdict, prompt and answer")?,
            some => some.iter().try_for_each(|of| print_difference(out, of))?,
        }
        for (stage, [[_, old, before], [_, new, after]]) in self.costs() {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let change = match old {
                0 => String::new(),
                old => format!(" ({:+.1} %)", (new as f64 / old as f64 - 1.0) * 100.0),
            };
            let (before, after) = (mib(before), mib(after));
            writeln!(
                out,
                "    {stage:<9} fuel {old}, then {new}{change}; MiB {before:.1}, then {after:.1}"
            )?;
        }
        for (plugin, outcome) in [&self.old, &self.new] {
            if let Some(failure) = &outcome.failure {
                writeln!(out, "    {} failed: {}", plugin.label(), failure.message)?;
            }
        }
        match self.strays() {
            Some(note) => writeln!(out, "    note: {note}"),
            None => Ok(()),
        }
    }
}

fn label(binding: &Binding) -> String {
    let digest = binding.digest.get(..6).unwrap_or_default();
    format!("{}@{}+{digest}", binding.name, binding.version)
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), file.into()))
        }
        _ => Err("say NAME=FILE, such as guard=guard.wasm".to_owned()),
    }
}
