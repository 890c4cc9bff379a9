//! `skep hold-sockets`: keeps sockets of an agent while the agent is replaced. The agent starts it.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use skep_holder::{Holder, Purpose};

#[derive(clap::Args)]
pub(crate) struct HoldSockets {
    /// Where agents give and take them
    #[arg(long)]
    socket: PathBuf,
}

pub(crate) fn run(arguments: &HoldSockets) -> Result<()> {
    let socket = &arguments.socket;
    skep_holder::listen(socket).with_context(|| format!("listen on {}", socket.display()))?.hold();
    Ok(())
}

/// The holder that listens beside the agent's CNI socket.
pub(super) fn holder(cni_socket: &Path, purpose: Purpose) -> Holder {
    Holder::new(cni_socket.with_file_name("held.sock"), purpose, Box::new(start))
}

/// Starts this program as the holder, in a process group of its own: a signal to the agent's group does not end it.
fn start(socket: &Path) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("skep").arg("hold-sockets").arg("--socket").arg(socket).process_group(0).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // Reaped when it ends; it usually outlives the agent.
    std::thread::Builder::new().name("holder".to_owned()).spawn(move || child.wait())?;
    Ok(())
}
