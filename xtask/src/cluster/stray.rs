//! Packets to pods and Services that would leave the machine: counted, and dropped before its uplink.
//!
//! The machine's own namespace forwards for the nodes and has a default route, so a packet for an address that the cluster
//! does not handle goes to the machine's gateway. No part of a cluster may cause one.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::layout::Layout;

const COUNTER: &str = "strays";

/// Counts from now on; a count that runs goes on.
pub fn watch(layout: &Layout) -> Result<()> {
    if packets(layout)?.is_some() {
        return Ok(());
    }
    let (bridge, pods, services) = (layout.bridge(), layout.pod_cidr(), layout.service_cidr());
    nft(&[&format!(
        "table ip {table} {{\n\
         counter {COUNTER} {{ }}\n\
         chain forward {{\ntype filter hook forward priority filter - 10;\n\
         iifname \"{bridge}\" oifname != \"{bridge}\" ip daddr {{ {pods}, {services} }} counter name {COUNTER} drop\n}}\n\
         chain output {{\ntype filter hook output priority filter - 10;\n\
         oifname != \"{bridge}\" ip daddr {pods} counter name {COUNTER} drop\n}}\n}}\n",
        table = layout.name,
    )])?;
    Ok(())
}

/// How many there were; `None` while nothing counts.
pub fn packets(layout: &Layout) -> Result<Option<u64>> {
    if !nft(&["list", "tables", "ip"])?.lines().any(|line| line == format!("table ip {}", layout.name)) {
        return Ok(None);
    }
    let shown = nft(&["list", "counter", "ip", &layout.name, COUNTER])?;
    let count = shown.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).map(Some).with_context(|| format!("no counter in {shown}"))
}

/// Ends the count; true if there was one.
pub(super) fn unwatch(layout: &Layout) -> Result<bool> {
    let counts = packets(layout)?.is_some();
    if counts {
        nft(&["delete", "table", "ip", &layout.name])?;
    }
    Ok(counts)
}

fn nft(words: &[&str]) -> Result<String> {
    let output =
        Command::new("nft").args(words).output().context("run nft (Debian: apt-get install nftables)")?;
    if !output.status.success() {
        bail!("nft {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
