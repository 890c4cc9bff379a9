//! A pipe to a server that can be blocked like a broken network.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
