//! Where a process of the benchmark runs: a core, which is one for all of them unless said otherwise, a network namespace,
//! a cgroup.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Before everything else on the machine: others then take little of what is measured.
const NICE: i32 = -20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) netns: PathBuf,
    /// Processes in it are those whose sockets are translated.
    pub(crate) cgroup: Option<PathBuf>,
}

impl Placement {
    /// A command that will run in this place.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns.display())).arg("--").arg(own()?).arg("place");
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg("--").arg(program);
        Ok(command)
    }
}

pub(crate) fn own() -> Result<PathBuf> {
    std::env::current_exe().context("find this program")
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Goes to the core and into the cgroup, and becomes the command.
pub(crate) fn enter(arguments: Arguments) -> Result<()> {
    let Arguments { cgroup, command } = arguments;
    pin()?;
    come_first()?;
    if let Some(cgroup) = cgroup {
        let file = cgroup.join("cgroup.procs");
        std::fs::write(&file, "0").with_context(|| format!("write {}", file.display()))?;
    }
    let (program, words) = command.split_first().context("no command")?;
    Err(Command::new(program).args(words).exec()).with_context(|| format!("run {}", program.display()))
}

/// Gives the calling thread, and what it starts, the highest priority.
pub(crate) fn come_first() -> Result<()> {
    setpriority_process(None, NICE).context("raise the priority")
}

/// A core of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    First,
    Last,
}

/// Puts the calling thread on the machine's last core.
pub(crate) fn pin() -> Result<()> {
    pin_to(Core::Last)
}

pub(crate) fn pin_to(core: Core) -> Result<()> {
    set_affinity(None, core)
}

/// Gives a kernel's thread a core, and the highest priority there.
pub(crate) fn place_thread(thread: Pid, core: Core) -> Result<()> {
    set_affinity(Some(thread), core)?;
    setpriority_process(Some(thread), NICE).context("raise a thread's priority")
}

fn set_affinity(thread: Option<Pid>, core: Core) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(if core == Core::First { 0 } else { cores - 1 });
    sched_setaffinity(thread, &set).with_context(|| format!("go to the {core:?} core"))
}
