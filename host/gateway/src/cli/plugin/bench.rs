//! `gapura plugin bench`: what a plugin's calls cost, against a budget.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use gapura_plugin_runtime::Plugin;
use serde_json::json;

use super::project::{CaseArgs, Component};
use crate::cases::{CallTimes, Case, CaseRunner, Measure, Outcome};

/// Requests before any is timed.
const WARM_UP: usize = 50;

/// Measured where a plugin brings no case: ten messages, about 1 KB, and 100 deltas.
const TYPICAL: &str = include_str!("typical.toml");

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    cases: CaseArgs,
    /// How many times each case runs.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Microseconds that all calls of a request may take, those of its deltas apart.
    #[arg(long, value_name = "US", default_value_t = 200.0)]
    budget: f64,
    /// Microseconds that one delta may take.
    #[arg(long, value_name = "US", default_value_t = 3.0)]
    delta_budget: f64,
    /// Later requests that an instance may serve, as a route's `reuse` allows: then most calls find
    /// their instance warm.
    #[arg(long, value_name = "N", default_value_t = 0)]
    reuse: u32,
    /// One JSON object for each case.
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    /// Measures; an error if a median is beyond its budget.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let component = self.cases.component()?;
        let wasm = component.read()?;
        let found = self.found(&component, &wasm)?;
        let load = |measure| -> anyhow::Result<(CaseRunner, Plugin)> {
            let runner = CaseRunner::new(measure)?;
            let plugin = runner
                .load(&component.name, &wasm)
                .with_context(|| format!("{} does not load", component.path.display()))?;
            Ok((runner, plugin))
        };
        let (counting, counted) = load(Measure::Fuel)?;
        let (timing, timed) = load(Measure::Time)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut num_over = 0;
        for case in &found {
            let (outcome, times) = runtime.block_on(async {
                let outcome = counting.run(&counted, case).await?;
                timing.time(&timed, case, self.reuse, WARM_UP).await?;
                let requests = self.requests as usize;
                let times = timing.time(&timed, case, self.reuse, requests).await?;
                anyhow::Ok((outcome, times))
            })?;
            num_over += usize::from(!self.report(case, &outcome, &times)?);
        }
        match num_over {
            0 => Ok(()),
            _ => bail!("{num_over} of {} cases are beyond the budget", found.len()),
        }
    }

    fn found(&self, component: &Component, wasm: &[u8]) -> anyhow::Result<Vec<Case>> {
        let mut found = self.cases.read(component, wasm)?;
        if found.is_empty() {
            found.push((Case::parse("typical", TYPICAL)?, None));
        }
        let chosen = self.cases.chosen(found)?;
        Ok(chosen.into_iter().map(|(case, _)| case).collect())
    }

    /// Prints a case's costs. True if they are within the budget.
    fn report(&self, case: &Case, outcome: &Outcome, times: &CallTimes) -> io::Result<bool> {
        let push = times.calls.iter().find(|(function, _)| *function == "push");
        let request_is_fine = micros(times.request.p50) <= self.budget;
        let delta_is_fine = push.is_none_or(|(_, of)| micros(of.p50) <= self.delta_budget);
        let memory_bytes = outcome
            .uses
            .iter()
            .map(|of| of.memory_bytes)
            .max()
            .unwrap_or(0);
        let fuel: u64 = outcome.uses.iter().map(|of| of.fuel).sum();
        let mut out = io::stdout().lock();
        if self.json {
            let calls: serde_json::Map<_, _> = times
                .calls
                .iter()
                .chain([&("request", times.request)])
                .map(|(name, of)| {
                    let entry = json!({
                        "count": of.count, "p50_us": micros(of.p50), "p99_us": micros(of.p99),
                    });
                    ((*name).to_owned(), entry)
                })
                .collect();
            let report = json!({
                "case": case.name, "calls": calls, "fuel": fuel, "memory_bytes": memory_bytes,
                "within_budget": request_is_fine && delta_is_fine,
            });
            writeln!(out, "{report}")?;
            return Ok(request_is_fine && delta_is_fine);
        }
        writeln!(
            out,
            "{:<16}{:>9}{:>12}{:>12}",
            case.name, "calls", "p50 us", "p99 us"
        )?;
        for (name, of) in times
            .calls
            .iter()
            .chain([&("whole request", times.request)])
        {
            let (p50, p99) = (micros(of.p50), micros(of.p99));
            writeln!(out, "  {name:<14}{:>9}{p50:>12.2}{p99:>12.2}", of.count)?;
        }
        let mib = memory_bytes as f64 / f64::from(1 << 20);
        writeln!(out, "  {fuel} fuel, {mib:.1} MiB")?;
        let verdict = |is_fine| if is_fine { "within" } else { "BEYOND" };
        let request = verdict(request_is_fine);
        writeln!(
            out,
            "  {request} {} us for a request, without its deltas",
            self.budget
        )?;
        if push.is_some() {
            writeln!(
                out,
                "  {} {} us for a delta",
                verdict(delta_is_fine),
                self.delta_budget
            )?;
        }
        Ok(request_is_fine && delta_is_fine)
    }
}

/// To the nanosecond.
fn micros(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}
