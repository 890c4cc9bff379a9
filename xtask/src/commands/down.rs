//! `cargo xtask down`: removes the cluster and verifies that nothing is left.

use anyhow::{Result, bail};

use crate::cluster::layout::Layout;
use crate::cluster::{leftovers, tear_down};
use crate::deps;

pub fn run(layout: &Layout) -> Result<()> {
    deps::require_root("down")?;
    let removed = tear_down(layout)?;
    for what in &removed {
        println!("removed {what}");
    }
    let left = leftovers(layout)?;
    if !left.is_empty() {
        bail!("still there:\n  {}", left.join("\n  "));
    }
    println!(
        "{}",
        if removed.is_empty() { "There was no cluster." } else { "Nothing of the cluster is left." }
    );
    Ok(())
}
