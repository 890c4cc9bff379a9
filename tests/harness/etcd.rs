//! A real etcd on loopback, killed on drop, and a pipe to it that can be blocked like a broken network.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const START_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Etcd {
    child: Child,
    client: SocketAddr,
    _data: TempDir,
}

impl Etcd {
    pub async fn start() -> Result<Etcd> {
        let data = tempfile::tempdir()?;
        let (client, peer) = (free_address()?, free_address()?);
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start etcd (Debian: apt-get install etcd-server)")?;
        let etcd = Etcd { child, client, _data: data };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(client).await.is_err() {
            ensure!(Instant::now() < deadline, "etcd does not listen within {START_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(etcd)
    }

    pub fn address(&self) -> SocketAddr {
        self.client
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Forwards connections to an address until it is blocked; then nothing passes, and nothing is closed.
pub struct Pipe {
    address: SocketAddr,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Pipe {
    pub async fn start(to: SocketAddr) -> Result<Pipe> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, to, is_open.clone()));
            }
        });
        Ok(Pipe { address, open, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn block(&self) {
        self.open.send_replace(false);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(mut client: TcpStream, to: SocketAddr, mut open: watch::Receiver<bool>) {
    let blocked = async {
        let _ = open.wait_for(|open| !open).await;
    };
    let piped = async {
        let mut server = TcpStream::connect(to).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    let ended = tokio::select! {
        _ = piped => true,
        () = blocked => false,
    };
    if !ended {
        // The connections stay, silent, for as long as the test runs.
        std::future::pending::<()>().await;
    }
    drop(client);
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
