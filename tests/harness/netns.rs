//! Network namespaces with names, removed on drop.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};

/// A named network namespace below /run/netns.
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes it, with `lo` up; one that an earlier run left behind is replaced.
    pub fn new(name: &str) -> Result<NetNs> {
        let _ = ip(&["netns", "del", name]);
        ip(&["netns", "add", name])?;
        let netns = NetNs { name: name.to_owned() };
        netns.run(skip_duplicate_detection)??;
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// `ip` inside the namespace.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], args].concat())
    }

    /// A command that will run inside; `ip netns exec` would hide cgroups and bpffs behind a fresh /sys.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread that lives in the namespace, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                enter(&path)?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Has addresses of new links be usable at once. Until the kernel has found no duplicate of a link-local address, which takes a second or
/// two, it asks for no neighbour when it forwards (RFC 4862, 5.4).
fn skip_duplicate_detection() -> Result<()> {
    const SYSCTL: &str = "/proc/sys/net/ipv6/conf/default/accept_dad";
    match std::fs::write(SYSCTL, "0") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(SYSCTL),
        _ => Ok(()),
    }
}

/// Moves this thread into the namespace at the path, for good.
pub fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(file.as_fd(), kind).context("enter the namespace")
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// A veth pair between two namespaces, both ends up, with an address each.
pub fn connect(a: (&NetNs, &str, &str), b: (&NetNs, &str, &str)) -> Result<()> {
    link(a.0, a.1, b.0, b.1)?;
    for (netns, interface, address) in [a, b] {
        netns.ip(&["addr", "add", address, "dev", interface, "nodad"])?;
    }
    Ok(())
}

/// A veth pair between two namespaces, both ends up.
pub fn link(a: &NetNs, a_name: &str, b: &NetNs, b_name: &str) -> Result<()> {
    ip(&["-n", a.name(), "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", b.name()])?;
    a.ip(&["link", "set", a_name, "up"])?;
    b.ip(&["link", "set", b_name, "up"])
}

/// The host's `ip`.
pub fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A process that is ended and reaped on drop.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
