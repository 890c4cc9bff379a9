//! The benchmark of the gateway still runs: a quick run measures all that it names.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Measure, and who is measured by it.
const EXPECTED: [(&str, &[&str]); 9] = [
    ("requests", &["skep", "nginx", "haproxy"]),
    ("p99", &["skep", "nginx", "haproxy"]),
    ("handshakes", &["skep", "nginx", "haproxy"]),
    ("http_2", &["skep", "nginx", "haproxy"]),
    ("requests_ratio", &["skep"]),
    ("many_routes_ratio", &["skep"]),
    ("memory", &["skep"]),
    ("write_to_route", &["skep"]),
    ("requests_while_changed", &["skep"]),
];

#[test]
fn a_quick_run_measures_everything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewaybench"));
    let output = command.args(["run", "--quick", "--folder"]).arg(folder.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the benchmark failed: {said}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.path().join("gateway.json"))?)?;
    for (measure, subjects) in EXPECTED {
        for subject in subjects {
            let row = rows.iter().find(|row| row["measure"] == measure && row["subject"] == *subject);
            let row = row.with_context(|| format!("no {measure} of {subject}"))?;
            ensure!(row["median"].as_f64().is_some_and(|median| median > 0.0), "nothing measured: {row}");
        }
    }
    for measure in ["failed_while_changed", "broken_while_changed"] {
        let row = rows.iter().find(|row| row["measure"] == measure).context("no failures")?;
        ensure!(row["median"] == 0.0, "requests failed while routes changed: {row}");
    }
    ensure!(folder.path().join("gateway.svg").exists(), "no plot");
    Ok(())
}
