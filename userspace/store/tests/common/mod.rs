//! Shared by the tests of the stores: an etcd process, and the events of a watch.

use std::future::Future;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skep_store::etcd::{EtcdOptions, EtcdStore};
use skep_store::{Event, StoreError, Watch, WatchItem};

/// An etcd on loopback; stopped on drop.
pub(crate) struct Etcd {
    child: Option<Child>,
    client: String,
    peer: String,
    data: tempfile::TempDir,
}

impl Etcd {
    pub(crate) async fn start() -> (Etcd, EtcdStore) {
        let address = |port| format!("http://127.0.0.1:{port}");
        let data = tempfile::tempdir().unwrap();
        let mut etcd = Etcd { child: None, client: address(free_port()), peer: address(free_port()), data };
        etcd.run();
        let endpoints = [etcd.client.clone()];
        let store = until_ok(|| EtcdStore::connect(&endpoints, EtcdOptions::default())).await;
        (etcd, store)
    }

    /// Starts it; after `stop` with the same data.
    pub(crate) fn run(&mut self) {
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.data.path())
            .args(["--listen-client-urls", &self.client, "--advertise-client-urls", &self.client])
            .args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer])
            .args(["--initial-cluster", &format!("default={}", self.peer)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (package etcd-server)");
        self.child = Some(child);
    }

    pub(crate) fn stop(&mut self) {
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Repeats a call until etcd answers. There is no other signal that it is ready.
pub(crate) async fn until_ok<T, F: Future<Output = Result<T, StoreError>>>(ask: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "etcd does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next events; skips progress.
pub(crate) async fn next_events(watch: &mut Watch) -> Vec<Event> {
    loop {
        let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("in time");
        match item.expect("the watch goes on").expect("no error") {
            WatchItem::Events(events) => return events,
            WatchItem::Progress(_) => {}
        }
    }
}
