//! The server under load, and etcd where it is the store; both end when this is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binaries::{self, Profile};
use crate::cluster::Store;
use crate::cluster::process::{tail, usage};

const ADDRESS: &str = "127.0.0.1:16443";
const ETCD: &str = "http://127.0.0.1:12379";
const ETCD_PEERS: &str = "http://127.0.0.1:12380";
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Release builds of the server and of the load.
pub(super) struct Programs {
    skep: PathBuf,
    pub(super) load: PathBuf,
    /// Where examples are.
    pub(super) examples: PathBuf,
}

impl Programs {
    /// `also`: more to build, as words of cargo.
    pub(super) fn build(also: &[&str]) -> Result<Programs> {
        crate::build_ebpf::run()?;
        let words = ["--package=skep", "--package=skep-apiserver", "--bin=skep", "--example=load"];
        let release = binaries::cargo_build(Profile::Release, &[&words, also].concat())?;
        let examples = release.join("examples");
        Ok(Programs { skep: release.join("skep"), load: examples.join("load"), examples })
    }
}

pub(super) struct Server {
    skep: PathBuf,
    load: PathBuf,
    args: Vec<String>,
    folder: PathBuf,
    store: Store,
    server: Option<Running>,
    /// Dropped after the server.
    _etcd: Option<Running>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<Running> {
    let file = fs::File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    Ok(Running(command.spawn().with_context(|| format!("run {command:?}"))?))
}

impl Server {
    /// With nothing in its store; `args` are more arguments of the server.
    pub(super) fn start(programs: &Programs, store: Store, folder: &Path, args: &[&str]) -> Result<Server> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let etcd = if store == Store::Etcd { Some(start_etcd(folder)?) } else { None };
        let (skep, load, folder) = (programs.skep.clone(), programs.load.clone(), folder.to_owned());
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut server = Server { skep, load, args, folder, store, server: None, _etcd: etcd };
        server.restart()?;
        // The last file that a first start makes; the load needs the keys in it.
        let made = server.folder.join("admin.kubeconfig");
        wait("make its keys", &server.log(), || made.exists())?;
        Ok(server)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.skep);
        command.args(["server", "--listen", ADDRESS, "--data-dir"]).arg(&self.folder).args(&self.args);
        if self.store == Store::Etcd {
            command.arg(format!("--store=etcd={ETCD}"));
        }
        self.server = Some(spawn(command.env("RUST_LOG", "warn"), &self.log())?);
        Ok(())
    }

    /// Resident memory in KiB.
    pub(super) fn resident(&self) -> Result<u64> {
        Ok(self.usage()?.0)
    }

    /// Resident memory in KiB, and the processor time used so far in seconds.
    pub(super) fn usage(&self) -> Result<(u64, f64)> {
        let pid = self.server.as_ref().context("the server does not run")?.0.id();
        usage(pid).context("the server has ended")
    }

    /// Runs the load and returns what it measured.
    pub(super) fn load(&self, command: &str, words: &[&str]) -> Result<Value> {
        load(&self.load, ADDRESS, &self.folder.join("pki"), command, words)
            .with_context(|| format!("the server: {}", tail(&self.log(), 5)))
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        kill_process(Pid::from_child(&server.0), Signal::TERM).context("end the server")?;
        wait("end", &self.log(), || matches!(server.0.try_wait(), Ok(Some(_))))
    }
}

/// Polls until the condition holds, up to a timeout.
fn wait(what: &str, log: &Path, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !is_so() {
        if Instant::now() > deadline {
            bail!("the server does not {what} within {START_TIMEOUT:?}; its log ends with\n{}", tail(log, 5));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn start_etcd(folder: &Path) -> Result<Running> {
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
    command.args(["--listen-peer-urls", ETCD_PEERS, "--initial-advertise-peer-urls", ETCD_PEERS]);
    command.arg(format!("--initial-cluster=default={ETCD_PEERS}"));
    let log = folder.join("etcd.log");
    let etcd = spawn(&mut command, &log)?;
    let address = ETCD.trim_start_matches("http://");
    wait("listen", &log, || std::net::TcpStream::connect(address).is_ok())?;
    Ok(etcd)
}

/// Runs the load on a server with its folder of keys.
pub(super) fn load(
    program: &Path,
    address: &str,
    pki: &Path,
    command: &str,
    words: &[&str],
) -> Result<Value> {
    let mut load = Command::new(program);
    load.arg(address).arg(pki).arg(command).args(words).stdin(Stdio::null());
    let output = load.output().with_context(|| format!("run {}", program.display()))?;
    if !output.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command} printed no JSON"))
}
