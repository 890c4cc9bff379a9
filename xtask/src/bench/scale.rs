//! `cargo xtask bench scale`: a node of a large cluster; `tests/netbench/scale` is it.

use anyhow::Result;

use super::net;
use crate::deps::{self, Need};

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on, such as --quick or --rounds 5; see --help behind --
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    netbench: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    deps::require_root("bench scale")?;
    deps::ensure(&[Need::Build, Need::Net])?;
    net::start("scale", &arguments.netbench)
}
