//! What plugins cost: a table of all, and the account of one by stage. A terminal of 100 columns
//! holds both while names are short.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table};
use gapura_plugin_runtime::Stage;
use serde_json::Value;

use super::status::text;

/// A row for each version on each route that the administration API's answer `status` has an
/// account of. `None` where nothing has run yet.
pub(super) fn table(status: &Value) -> Option<Table> {
    let mut table = Table::new();
    table.set_header([
        "plugin", "route", "requests", "failed", "p50 µs", "p99 µs", "MiB", "held B", "tokens",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for plugin in status["plugins"].as_array().into_iter().flatten() {
        for account in plugin["ledger"].as_array().into_iter().flatten() {
            table.add_row(row(text(plugin, "name"), account));
        }
    }
    (!table.is_empty()).then_some(table)
}

fn row(plugin: &str, account: &Value) -> [String; 9] {
    let tokens = number(&account["prompt_tokens"]) + number(&account["completion_tokens"]);
    [
        format!("{plugin}\n{}", version(account)),
        text(account, "route").to_owned(),
        number(&account["requests"]).to_string(),
        number(&account["failed"]).to_string(),
        micros(&account["request"]["p50_us"]),
        micros(&account["request"]["p99_us"]),
        mib(account),
        number(&account["held_bytes"]).to_string(),
        tokens.to_string(),
    ]
}

/// All that the accounts of the plugin `status` say, those of the newest version first.
pub(super) fn print(out: &mut impl Write, status: &Value) -> io::Result<()> {
    let versions = status["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let accounts = status["ledger"].as_array().into_iter().flatten();
    let mut accounts: Vec<&Value> = accounts.collect();
    accounts.sort_by_key(|account| {
        let mut places = versions.iter();
        places
            .position(|version| version["digest"] == account["digest"])
            .unwrap_or(usize::MAX)
    });
    for account in accounts {
        print_account(out, account)?;
    }
    Ok(())
}

fn print_account(out: &mut impl Write, account: &Value) -> io::Result<()> {
    let of = |key: &str| number(&account[key]);
    let request = &account["request"];
    writeln!(
        out,
        "{} on {}: {} requests, {} failed, {} out of time; p50 {} µs, p99 {} µs",
        version(account),
        text(account, "route"),
        of("requests"),
        of("failed"),
        of("deadlines"),
        micros(&request["p50_us"]),
        micros(&request["p99_us"]),
    )?;
    writeln!(
        out,
        "at most {} MiB of memory, {} bytes held back; {} questions to the model, {} tokens in, {} out",
        mib(account),
        of("held_bytes"),
        of("questions"),
        of("prompt_tokens"),
        of("completion_tokens"),
    )?;
    let mut table = Table::new();
    table.set_header(["stage", "calls", "refused", "p50 µs", "p99 µs", "failures"]);
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for stage in Stage::ALL.map(Stage::as_str) {
        let calls = &account["stages"][stage];
        if calls.is_object() {
            table.add_row([
                stage.to_owned(),
                number(&calls["calls"]).to_string(),
                number(&calls["refusals"]).to_string(),
                micros(&calls["call"]["p50_us"]),
                micros(&calls["call"]["p99_us"]),
                by_kind(&calls["failures"]),
            ]);
        }
    }
    if table.is_empty() {
        return Ok(());
    }
    writeln!(out, "{table}")
}

/// Such as `deadline 2, trap 1`.
fn by_kind(failures: &Value) -> String {
    let failures = failures.as_object().into_iter().flatten();
    let counts: Vec<_> = failures
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    counts.join(", ")
}

/// The author's version and the first digits of the digest.
fn version(account: &Value) -> String {
    let digest = text(account, "digest").get(..6).unwrap_or_default();
    format!("{}+{digest}", text(account, "version"))
}

fn mib(account: &Value) -> String {
    let mib = number(&account["memory_bytes"]) as f64 / f64::from(1 << 20);
    format!("{mib:.1}")
}

fn micros(value: &Value) -> String {
    format!("{:.1}", value.as_f64().unwrap_or_default())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NEW: &str = "ab12cd00";
    const OLD: &str = "ef012300";

    fn status() -> Value {
        let account = |digest: &str, requests: u64| {
            json!({
                "version": "0.1.0", "digest": digest, "route": "support", "requests": requests,
                "failed": 3, "deadlines": 2, "request": {"p50_us": 1390.3, "p99_us": 155_600.0},
                "memory_bytes": 16 << 20, "held_bytes": 65_536, "questions": 4,
                "prompt_tokens": 1200, "completion_tokens": 34,
                "stages": {
                    "respond": {"calls": 70, "refusals": 0, "failures": {},
                        "call": {"p50_us": 2.25, "p99_us": 9.0}},
                    "validate": {"calls": 5, "refusals": 1, "failures": {"deadline": 2, "trap": 1},
                        "call": {"p50_us": 130.0, "p99_us": 155_500.0}},
                },
            })
        };
        json!({
            "name": "pii-redact",
            "versions": [{"digest": NEW}, {"digest": OLD}],
            "ledger": [account(OLD, 90_000), account(NEW, 5)],
        })
    }

    #[test]
    fn one_plugin_is_told_by_version_and_stage() {
        let mut out = Vec::new();
        print(&mut out, &status()).unwrap();
        let text = String::from_utf8(out).unwrap();
        let newest = "\
0.1.0+ab12cd on support: 5 requests, 3 failed, 2 out of time; p50 1390.3 µs, p99 155600.0 µs
at most 16.0 MiB of memory, 65536 bytes held back; 4 questions to the model, 1200 tokens in, 34 out
+----------+-------+---------+--------+----------+--------------------+
| stage    | calls | refused | p50 µs |   p99 µs | failures           |
+=====================================================================+
| validate |     5 |       1 |  130.0 | 155500.0 | deadline 2, trap 1 |
|----------+-------+---------+--------+----------+--------------------|
| respond  |    70 |       0 |    2.2 |      9.0 |                    |
+----------+-------+---------+--------+----------+--------------------+
0.1.0+ef0123 on support: 90000 requests";
        assert!(text.starts_with(newest), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn all_plugins_are_one_table_of_100_columns() {
        let shown = table(&json!({ "plugins": [status()] }))
            .unwrap()
            .to_string();
        let rows: Vec<&str> = shown.lines().skip(3).collect();
        let expected = [
            "| pii-redact   | support |    90000 |      3 | 1390.3 | 155600.0 | 16.0 |  65536 |   1234 |",
            "| 0.1.0+ef0123 |         |          |        |        |          |      |        |        |",
        ];
        assert_eq!(rows[..2], expected);
        assert!(shown.lines().all(|line| line.chars().count() <= 100));
        assert!(table(&json!({ "plugins": [{"name": "new", "ledger": []}] })).is_none());
    }
}
