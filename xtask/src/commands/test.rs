//! `cargo xtask test`: every check that a change must pass.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, Result, bail};

use super::lint::{self, cargo};
use crate::binaries::Profile;
use crate::cluster::layout::Layout;
use crate::cluster::{seize, stray};
use crate::deps::{self, Need};
use crate::progress::Step;
use crate::{binaries, build_ebpf, old_kernel};

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on to nextest, such as the name of a test
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    deps::require_root("test")?;
    let layout = Layout::test(&crate::workspace());
    let _turn = turn(&layout)?;
    deps::ensure(&[Need::Build, Need::Run, Need::Etcd, Need::Net, Need::Dns, Need::Gateway, Need::Test])?;
    deps::kubectl(&layout.state.join("tools"))?;
    for version in deps::KUBECTLS {
        deps::pinned_kubectl(version)?;
    }
    deps::python_client()?;
    old_kernel::fetch()?;
    let step = Step::new("BPF programs");
    build_ebpf::run()?;
    step.done("built");
    let step = Step::new("format, clippy");
    lint::run(&lint::Arguments::default())?;
    step.done("clean");
    binaries::build(Profile::Dev)?;
    // Remove what an interrupted run of this or another source tree left.
    seize(&layout)?;
    let words: Vec<&str> = arguments.nextest.iter().map(String::as_str).collect();
    let tested = cargo(&[&["nextest", "run"], words.as_slice()].concat());
    let strays = stray::packets(&layout);
    seize(&layout)?;
    tested?;
    match strays? {
        Some(packets) if packets > 0 => {
            bail!("{packets} packets to pods or Services would have left this machine by its default route")
        }
        _ => Ok(()),
    }
}

/// Names of test clusters are global on a machine, so runs of two source trees exclude each other. The lock is an abstract
/// socket (unix(7)): it ends with this process, however that ends.
fn turn(layout: &Layout) -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("{}-turn", layout.name))?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!("another `cargo xtask test` runs on this machine; wait for its end")
        }
        bound => bound.context("take the turn of tests"),
    }
}
