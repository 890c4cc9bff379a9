//! A real etcd on loopback.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::free_address;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Killed when dropped, and its data removed.
pub struct Etcd {
    child: Option<Child>,
    client: SocketAddr,
    peer: SocketAddr,
    folder: TempDir,
}

impl Etcd {
    /// With nothing in it; it listens.
    pub fn start() -> Result<Etcd> {
        let (client, peer) = (free_address()?, free_address()?);
        let mut etcd = Etcd { child: None, client, peer, folder: tempfile::tempdir()? };
        etcd.run()?;
        Ok(etcd)
    }

    /// Starts it, after [`Etcd::stop`] with the same data, and waits until it listens.
    pub fn run(&mut self) -> Result<()> {
        let (client, peer) = (self.url(), format!("http://{}", self.peer));
        let log = File::create(self.folder.path().join("log"))?;
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("run etcd (Debian: apt-get install etcd-server)")?;
        let child = self.child.insert(child);
        let begun = Instant::now();
        while TcpStream::connect(self.client).is_err() {
            let ended = child.try_wait()?;
            if ended.is_some() || begun.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(self.folder.path().join("log"))?;
                let end = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
                let state =
                    ended.map_or_else(|| "runs and does not listen".to_owned(), |end| end.to_string());
                bail!("etcd at {} {state}; the last lines of its log, newest first:\n{end}", self.client);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn address(&self) -> SocketAddr {
        self.client
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Kills it; the data stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}
