//! Two versions side by side, as tables.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use super::status::{state, text};

/// What the administration API says of a version on trial, or of one that went live lately.
pub(super) fn print(out: &mut impl Write, watch: &Value) -> io::Result<()> {
    let (mode, digest) = (text(watch, "mode"), text(watch, "digest"));
    let digest = digest.get(..6).unwrap_or_default();
    let seconds = &watch["seconds"];
    let named = json_state(watch);
    match mode {
        "live" => writeln!(out, "{digest} went live {seconds} s ago and is watched:")?,
        _ => writeln!(out, "{digest} is on trial ({named}) for {seconds} s:")?,
    }
    let mut table = Table::new();
    table.set_header([
        "",
        "requests",
        "failed",
        "%",
        "out of time",
        "p50 µs",
        "p95 µs",
        "p99 µs",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let before = if mode == "live" {
        "the one before"
    } else {
        "live"
    };
    table.add_row(row(before, &watch["live"]));
    table.add_row(row(digest, &watch["candidate"]));
    writeln!(out, "{table}")?;
    match &watch["limits"] {
        Value::Null => writeln!(out, "nothing is rolled back by itself")?,
        limits => {
            let percent = |key: &str| 100.0 * limits[key].as_f64().unwrap_or_default();
            writeln!(
                out,
                "rolled back by itself after {} requests with more than {} % failed, {} % out of \
                 time, or {} times the p95",
                limits["min_requests"],
                percent("max_failure_rate"),
                percent("max_deadline_rate"),
                limits["max_latency_ratio"],
            )?;
        }
    }
    match &watch["shadow"] {
        Value::Null => Ok(()),
        shadow => print_shadow(out, shadow),
    }
}

fn print_shadow(out: &mut impl Write, shadow: &Value) -> io::Result<()> {
    let differ = &shadow["differ"];
    writeln!(
        out,
        "{} compared: {} the same, {} with another verdict, {} with another prompt, {} with another \
         answer, {} failed; {} not compared",
        shadow["compared"],
        shadow["same"],
        differ["verdict"],
        differ["prompt"],
        differ["answer"],
        differ["failed"],
        shadow["skipped"],
    )?;
    for sample in shadow["samples"].as_array().into_iter().flatten() {
        let (id, kind) = (text(sample, "request_id"), text(sample, "kind"));
        match (&sample["detail"], &sample["bytes"]) {
            (Value::Array(words), _) => {
                let word = |place: usize| words.get(place).and_then(Value::as_str);
                let (live, other) = (word(0).unwrap_or_default(), word(1).unwrap_or_default());
                writeln!(out, "    {id}: {kind}: {live}, then {other}")?;
            }
            (_, bytes) => {
                let at = &sample["at_byte"];
                writeln!(
                    out,
                    "    {id}: {kind}: at byte {at} of {} and {}",
                    bytes[0], bytes[1]
                )?;
            }
        }
    }
    Ok(())
}

fn row(name: &str, tally: &Value) -> [String; 8] {
    let share = 100.0 * tally["failure_rate"].as_f64().unwrap_or_default();
    [
        name.to_owned(),
        tally["requests"].to_string(),
        tally["failures"].to_string(),
        format!("{share:.1}"),
        tally["deadlines"].to_string(),
        tally["p50_us"].to_string(),
        tally["p95_us"].to_string(),
        tally["p99_us"].to_string(),
    ]
}

/// `shadow`, or `canary 10 %`.
fn json_state(watch: &Value) -> String {
    let mode = serde_json::json!({ "state": watch["mode"], "percent": watch["percent"] });
    state(&mode)
}
