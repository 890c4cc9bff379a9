//! PURE code names nothing that does I/O, reads a clock or the environment, starts tasks or draws random numbers.

use super::finding::Finding;
use super::package::Package;
use super::rules::Rule;
use super::table::Table;
use super::tree::Resolved;
use super::uses;

/// Paths, and all below them, that PURE code does not name.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "aya",
    "hyper",
    "kube::Client",
    "kube::Api",
    "libc",
    "rustix",
    "std::fs",
    "std::io::stdin",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "rand::rng",
    "rand::random",
    "rand::thread_rng",
];

/// What is a marker only, and so allowed.
const MARKERS: &[&str] = &["aya::Pod"];

pub(super) fn check(table: &Table, package: &Package) -> Vec<Finding> {
    let mut findings = Vec::new();
    for tree in &package.production {
        for file in
            tree.files.iter().filter(|file| !file.for_tests && table.is_pure(&package.folder, &file.path))
        {
            for path in uses::all(file) {
                let Resolved::External(full) = tree.resolve(&path.module, &path.segments) else { continue };
                let full = full.join("::");
                if is_impure(&full) {
                    let problem = format!("PURE code names {full}");
                    findings.push(Finding::new(Rule::Pure, file.path.clone(), path.line, problem));
                }
            }
        }
    }
    findings
}

fn is_impure(path: &str) -> bool {
    if MARKERS.contains(&path) {
        return false;
    }
    IMPURE
        .iter()
        .any(|impure| path.strip_prefix(impure).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")))
}
