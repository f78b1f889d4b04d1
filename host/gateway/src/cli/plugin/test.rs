//! `gapura plugin test`: runs a plugin's golden cases.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::Args;
use gapura_plugin_runtime::Plugin;
use serde_json::json;

use super::project::{CaseArgs, Component, Found};
use crate::cases::{self, Case, CaseRunner, Difference, Measure, Outcome};

/// Which cases to run, and what to do where they do not hold.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    cases: CaseArgs,
    /// Write what came of each case into its file, as what is expected from now on.
    #[arg(long)]
    update: bool,
    /// One JSON object for each case.
    #[arg(long)]
    json: bool,
}

/// How a case went.
enum Verdict {
    Passed,
    Updated,
    /// Nothing is expected yet.
    New,
    Failed(Vec<Difference>),
    TooMuchFuel {
        used: u64,
        limit: u64,
    },
}

impl TestArgs {
    /// Runs the cases; an error if one does not hold.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let component = self.cases.component()?;
        let wasm = component.read()?;
        let found = self.found(&component, &wasm)?;
        let runner = CaseRunner::new(Measure::Fuel)?;
        let plugin = runner
            .load(&component.name, &wasm)
            .with_context(|| format!("{} does not load", component.path.display()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut out = io::stdout().lock();
        let (count, mut num_failed) = (found.len(), 0);
        for (case, path) in found {
            let outcome = runtime
                .block_on(runner.run(&plugin, &case))
                .with_context(|| case.name.clone())?;
            let verdict = self.judge(&case, path, &outcome)?;
            num_failed += usize::from(!verdict.is_good());
            match self.json {
                true => writeln!(out, "{}", verdict.json(&case, &outcome))?,
                false => verdict.print(&mut out, &case, &outcome, &plugin)?,
            }
        }
        match (num_failed, count) {
            (0, _) if self.json => Ok(()),
            (0, 1) => Ok(writeln!(out, "1 case passed")?),
            (0, _) => Ok(writeln!(out, "{count} cases passed")?),
            _ => bail!("{num_failed} of {count} cases failed"),
        }
    }

    fn found(&self, component: &Component, wasm: &[u8]) -> anyhow::Result<Vec<Found>> {
        let found = self.cases.read(component, wasm)?;
        if found.is_empty() {
            let none = self.cases.none_found(component);
            bail!("{none}: a case is a TOML file with a `[request]`, as a client would send it");
        }
        self.cases.chosen(found)
    }

    fn judge(
        &self,
        case: &Case,
        path: Option<PathBuf>,
        outcome: &Outcome,
    ) -> anyhow::Result<Verdict> {
        let differences = match &case.expect {
            Some(expect) => outcome.found.differences(expect),
            None => Vec::new(),
        };
        let is_due = case.expect.is_none() || !differences.is_empty();
        if is_due && self.update {
            let Some(path) = path else {
                bail!("{}: what a component carries cannot be updated", case.name);
            };
            let shown = path.display();
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
            fs::write(&path, cases::updated(&text, &outcome.found))
                .with_context(|| format!("cannot write {shown}"))?;
            return Ok(Verdict::Updated);
        }
        let used = outcome.uses.iter().map(|of| of.fuel).sum();
        Ok(match case.max_fuel {
            Some(limit) if used > limit => Verdict::TooMuchFuel { used, limit },
            _ if case.expect.is_none() => Verdict::New,
            _ if differences.is_empty() => Verdict::Passed,
            _ => Verdict::Failed(differences),
        })
    }
}

impl Verdict {
    fn is_good(&self) -> bool {
        matches!(self, Self::Passed | Self::Updated)
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Updated => "updated",
            Self::New => "new",
            Self::Failed(_) | Self::TooMuchFuel { .. } => "FAILED",
        }
    }

    fn json(&self, case: &Case, outcome: &Outcome) -> serde_json::Value {
        let stages: serde_json::Map<_, _> = outcome
            .uses
            .iter()
            .map(|of| {
                let use_of =
                    json!({"calls": of.calls, "fuel": of.fuel, "memory_bytes": of.memory_bytes});
                (of.stage.as_str().to_owned(), use_of)
            })
            .collect();
        let differences = match self {
            Self::Failed(differences) => differences.as_slice(),
            _ => &[],
        };
        let differences: Vec<_> = differences
            .iter()
            .map(|of| json!({"key": of.key, "expected": of.wanted, "found": of.found}))
            .collect();
        json!({"case": case.name, "result": self.word(), "stages": stages, "differences": differences})
    }

    fn print(
        &self,
        out: &mut impl Write,
        case: &Case,
        outcome: &Outcome,
        plugin: &Plugin,
    ) -> io::Result<()> {
        let uses = outcome.uses.iter().map(|of| {
            let mib = of.memory_bytes as f64 / f64::from(1 << 20);
            format!("{} {} fuel, {mib:.1} MiB", of.stage, of.fuel)
        });
        let uses = uses.collect::<Vec<_>>().join("; ");
        writeln!(out, "{:<8}{:<28} {uses}", self.word(), case.name)?;
        match self {
            Self::Passed | Self::Updated => {}
            Self::New => {
                writeln!(
                    out,
                    "    nothing is expected yet; `--update` writes down what came of it"
                )?;
            }
            Self::TooMuchFuel { used, limit } => {
                writeln!(out, "    {used} fuel, the case allows {limit}")?;
            }
            Self::Failed(differences) => {
                for difference in differences {
                    print_difference(out, difference)?;
                }
            }
        }
        match &outcome.failure {
            Some(failure) => writeln!(out, "    {} failed: {}", plugin.name(), failure.message),
            None => Ok(()),
        }
    }
}

/// Line by line, the expected ones first.
pub(super) fn print_difference(out: &mut impl Write, difference: &Difference) -> io::Result<()> {
    writeln!(out, "    {}", difference.key)?;
    for (sign, text) in [('-', &difference.wanted), ('+', &difference.found)] {
        match text {
            None => writeln!(out, "      {sign} (nothing)")?,
            Some(text) => {
                for line in text.split('\n') {
                    writeln!(out, "      {sign} {line}")?;
                }
            }
        }
    }
    Ok(())
}
