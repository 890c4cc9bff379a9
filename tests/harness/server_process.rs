//! The built `skep server` as a process of its own, with controllers, scheduler and an embedded store.

use std::ffi::OsString;
use std::fs::{File, read_to_string};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use skep_test_servers::free_address;
use xtask::binaries::{self, Profile};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Killed on drop; the data folder is its caller's.
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
    data: PathBuf,
}

impl ServerProcess {
    /// Starts a server and waits until it is ready. `arguments` are added to the command line.
    pub async fn start(data: &Path, arguments: &[&str]) -> Result<ServerProcess> {
        ServerProcess::start_with(data, arguments, Vec::new()).await
    }

    /// As [`ServerProcess::start`], with variables added to its environment.
    pub async fn start_with(
        data: &Path,
        arguments: &[&str],
        environment: Vec<(&'static str, OsString)>,
    ) -> Result<ServerProcess> {
        let address = free_address()?;
        let log = File::options().create(true).append(true).open(data.join("log"))?;
        let child = Command::new(binaries::built(Profile::Dev)?.skep)
            .arg("server")
            .args(["--listen", &address.to_string()])
            .arg("--data-dir")
            .arg(data)
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start skep server")?;
        let mut server = ServerProcess { child, address, data: data.to_owned() };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            server.check_alive()?;
            if let Ok(client) = server.client().await
                && client.request_text(http::Request::get("/readyz").body(Vec::new())?).await.is_ok()
            {
                return Ok(server);
            }
            ensure!(Instant::now() < deadline, "not ready within {START_TIMEOUT:?}: {}", server.log());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An administrator's client.
    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = Kubeconfig::read_from(self.data.join("admin.kubeconfig"))?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // An answer is what the server said, not what a later attempt got.
        config.default_retry = false;
        Ok(kube::Client::try_from(config)?)
    }

    /// An error with the end of the log if the process has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended: {status}: {}", self.log()),
        }
    }

    /// Bytes of resident memory.
    pub fn resident(&self) -> Result<u64> {
        let status = read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }

    /// Without warning, as a power cut.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The end of what the server logged.
    fn log(&self) -> String {
        let log = read_to_string(self.data.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
