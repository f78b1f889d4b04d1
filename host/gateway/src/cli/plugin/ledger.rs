//! What plugins cost, as a table.

use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use super::remote::text;

/// A row for each version on each route that the administration API's answer `status` has an
/// account of. `None` where nothing has run yet.
pub(super) fn table(status: &Value) -> Option<Table> {
    let mut table = Table::new();
    table.set_header([
        "plugin", "version", "route", "requests", "failed", "calls", "p50 µs", "p99 µs", "MiB",
        "held B",
    ]);
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for plugin in status["plugins"].as_array().into_iter().flatten() {
        for account in plugin["ledger"].as_array().into_iter().flatten() {
            table.add_row(row(text(plugin, "name"), account));
        }
    }
    (!table.is_empty()).then_some(table)
}

fn row(plugin: &str, account: &Value) -> [String; 10] {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let micros = |value: &Value| format!("{:.1}", value.as_f64().unwrap_or_default());
    let digest = text(account, "digest").get(..6).unwrap_or_default();
    let stages = account["stages"].as_object().into_iter().flatten();
    let calls: u64 = stages.map(|(_, stage)| number(&stage["calls"])).sum();
    let mib = number(&account["memory_bytes"]) as f64 / f64::from(1 << 20);
    [
        plugin.to_owned(),
        format!("{}+{digest}", text(account, "version")),
        text(account, "route").to_owned(),
        number(&account["requests"]).to_string(),
        number(&account["failed"]).to_string(),
        calls.to_string(),
        micros(&account["request"]["p50_us"]),
        micros(&account["request"]["p99_us"]),
        format!("{mib:.1}"),
        number(&account["held_bytes"]).to_string(),
    ]
}
