//! `holdfast openapi`: the REST API as an OpenAPI document. `holdfast calls`: every call of the daemon, from the tables that
//! it answers by, so that a test of all of them misses none.

use serde_json::{Value, json};

use crate::api;
use crate::app::paths_beside_calls;
use crate::client::output::print;
use crate::protocol::{backup_calls, reader_calls};

/// Who may make a call.
fn access(anyone: bool) -> &'static str {
    if anyone { "anyone" } else { "known" }
}

fn rows() -> Vec<Value> {
    let row = |kind: &str, method: &str, path: String, anyone: bool| json!({ "kind": kind, "method": method, "path": path, "access": access(anyone) });
    let mut rows = Vec::new();
    for (method, path, anyone) in api::calls() {
        rows.push(row(
            "rest",
            method.as_str(),
            format!("/api2/json/{path}"),
            anyone,
        ));
    }
    let (upgrades, health) = paths_beside_calls();
    rows.extend(
        upgrades
            .iter()
            .map(|path| row("upgrade", "GET", format!("/api2/json/{path}"), false)),
    );
    rows.extend(
        health
            .iter()
            .map(|path| row("health", "GET", format!("/{path}"), true)),
    );
    for (kind, calls) in [("backup", backup_calls()), ("reader", reader_calls())] {
        rows.extend(
            calls
                .iter()
                .map(|(method, name)| row(kind, method.as_str(), format!("/{name}"), false)),
        );
    }
    rows
}

/// Prints the document.
pub(super) fn print_openapi() -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(&api::document())?)
}

/// Prints the calls.
pub(super) fn print_calls() -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(&rows())?)
}
