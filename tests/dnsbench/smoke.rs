//! The benchmark of DNS still runs: a quick run measures all that it names.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Measure, and who is measured by it.
const EXPECTED: [(&str, &[&str]); 6] = [
    ("p50", &["skep", "dnsmasq"]),
    ("p99", &["skep", "dnsmasq"]),
    ("most", &["skep", "dnsmasq"]),
    ("rss", &["skep", "dnsmasq"]),
    ("index_memory", &["skep"]),
    ("write_to_answer", &["skep"]),
];

#[test]
fn a_quick_run_measures_everything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_dnsbench"));
    let output = command.args(["run", "--quick", "--folder"]).arg(folder.path()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the benchmark failed: {said}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.path().join("dns.json"))?)?;
    for (measure, subjects) in EXPECTED {
        for subject in subjects {
            let row = rows.iter().find(|row| row["measure"] == measure && row["subject"] == *subject);
            let row = row.with_context(|| format!("no {measure} of {subject}"))?;
            ensure!(row["median"].as_f64().is_some_and(|median| median > 0.0), "nothing measured: {row}");
        }
    }
    ensure!(folder.path().join("dns.svg").exists(), "no plot");
    Ok(())
}
