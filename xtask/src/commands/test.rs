//! `cargo xtask test`: everything that is checked before a change is good.

use anyhow::Result;

use super::lint::{self, cargo};
use crate::cluster::layout::Layout;
use crate::cluster::tear_down;
use crate::deps::{self, Need};
use crate::progress::Step;
use crate::{binaries, build_ebpf};

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on to nextest, such as the name of a test
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    deps::require_root("test")?;
    deps::ensure(&[Need::Build, Need::Run, Need::Etcd, Need::Test])?;
    deps::kubectl(&Layout::test(&crate::workspace()).state.join("tools"))?;
    let step = Step::new("BPF programs");
    build_ebpf::run()?;
    step.done("built");
    let step = Step::new("format, clippy");
    lint::run()?;
    step.done("clean");
    binaries::build()?;
    let layout = Layout::test(&crate::workspace());
    // What an interrupted run left would only confuse this one.
    tear_down(&layout)?;
    let words: Vec<&str> = arguments.nextest.iter().map(String::as_str).collect();
    let tested = cargo(&[&["nextest", "run", "--no-fail-fast"], words.as_slice()].concat());
    tear_down(&layout)?;
    tested
}
