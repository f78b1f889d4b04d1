//! What became of a component that was pushed: how far it has come, and what it may use.

use std::io::{self, Write};

use serde_json::Value;

use super::status::{list, text};

/// Of the plugin `status` the version `digest`: its state, what it imports, and what each route
/// that binds the plugin grants.
pub(super) fn print(out: &mut impl Write, status: &Value, digest: &str) -> io::Result<()> {
    let mut versions = status["versions"].as_array().into_iter().flatten();
    let version = versions
        .find(|version| text(version, "digest") == digest)
        .unwrap_or(status);
    let routes: Vec<&str> = list(status, "routes").collect();
    let state = text(version, "state");
    let serving = match (state, routes.as_slice()) {
        ("live", []) => "no route binds it yet".to_owned(),
        ("live", routes) => format!("serving {}", routes.join(", ")),
        _ if text(status, "state") == "live" => format!("{} serves on", text(status, "label")),
        _ => "no version serves yet".to_owned(),
    };
    writeln!(out, "{} is {state}: {serving}", text(version, "label"))?;
    // What it imports is read when it is verified.
    if version["version"].is_null() {
        return writeln!(out, "imports  known once it is verified");
    }
    let imports: Vec<&str> = list(version, "imports").collect();
    writeln!(out, "imports  {}", or_none(&imports))?;
    for granted in status["granted"].as_array().into_iter().flatten() {
        let route = text(granted, "route");
        writeln!(
            out,
            "granted  by {route}: {}",
            granted_by(granted, &imports)
        )?;
    }
    Ok(())
}

/// What a route grants of `imports`, whom it lets the plugin ask by HTTP, and what it lacks.
fn granted_by(granted: &Value, imports: &[&str]) -> String {
    let grants: Vec<&str> = list(granted, "grants").collect();
    let (has, lacks): (Vec<&str>, Vec<&str>) =
        imports.iter().partition(|import| grants.contains(import));
    let mut said = or_none(&has);
    if has.contains(&"http") {
        let hosts: Vec<&str> = list(granted, "http").collect();
        said.push_str(&format!("; http to {}", hosts.join(", ")));
    }
    if !lacks.is_empty() {
        said.push_str(&format!("; not granted: {}", lacks.join(", ")));
    }
    said
}

fn or_none(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(version: Value) -> String {
        let status = json!({
            "label": "guard@1.0.0+ab12cd", "state": "live", "routes": ["chat", "slow"],
            "versions": [version],
            "granted": [
                {"route": "chat", "grants": ["log", "config", "http", "kv"],
                    "http": ["api.example.com", "10.0.0.0/8:8080"]},
                {"route": "slow", "grants": ["log", "config"], "http": []},
            ],
        });
        let mut out = Vec::new();
        print(&mut out, &status, "ff").unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn imports_are_shown_with_what_each_route_grants_of_them() {
        let version = json!({
            "digest": "ff", "label": "guard@1.1.0+ff0000", "state": "verified", "version": "1.1.0",
            "imports": ["log", "http"],
        });
        let expected = "\
guard@1.1.0+ff0000 is verified: guard@1.0.0+ab12cd serves on
imports  log, http
granted  by chat: log, http; http to api.example.com, 10.0.0.0/8:8080
granted  by slow: log; not granted: http
";
        assert_eq!(printed(version), expected);
    }

    #[test]
    fn what_was_not_read_yet_is_not_called_nothing() {
        let version = json!({"digest": "ff", "label": "guard@?+ff0000", "state": "staged", "version": null, "imports": []});
        assert!(printed(version).ends_with("\nimports  known once it is verified\n"));
        let version = json!({
            "digest": "ff", "label": "guard@1.1.0+ff0000", "state": "live", "version": "1.1.0",
            "imports": [],
        });
        let expected = "\
guard@1.1.0+ff0000 is live: serving chat, slow
imports  none
granted  by chat: none
granted  by slow: none
";
        assert_eq!(printed(version), expected);
    }
}
