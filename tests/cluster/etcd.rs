//! The same cluster over etcd: the same results, and etcdctl shows the objects.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::cluster::layout::Layout;
use xtask::cluster::{Options, Store, leftovers, seize, tear_down};
use xtask::commands::up::node_ports;
use xtask::example::{self, total};

use crate::fixture::{cluster, start};

struct Down(Layout);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = tear_down(&self.0);
    }
}

#[test]
fn a_cluster_over_etcd_does_the_same_and_etcdctl_shows_its_objects() -> Result<()> {
    let layout = Layout::named("skepetcd", &xtask::workspace().join("target/skep-etcd"), 89);
    seize(&layout)?;
    let _down = Down(layout.clone());
    let cluster = cluster(layout.clone())?;
    let options = Options { nodes: 2, store: Store::Etcd, node_grace: 20 };
    start(&cluster, &options)?;
    example::deploy(&cluster.kubectl)?;
    let proof = example::prove(&cluster.kubectl, &node_ports(&cluster, 2))?;
    ensure!(total(&proof.cluster_ip) == 300 && proof.cluster_ip.len() == 3);
    ensure!(total(&proof.node_port) == 300 && proof.node_port.len() == 3);
    ensure!(proof.tried == 3 && proof.let_in == 0, "{} of {} were let in", proof.let_in, proof.tried);
    // The store listens on loopback of the server's namespace.
    let keys = Command::new("nsenter")
        .arg(format!("--net={}", layout.server_netns_path().display()))
        .args(["--", "etcdctl"])
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &cluster.etcd_url(), "get", "/", "--prefix", "--keys-only"])
        .output()
        .context("run etcdctl (Debian: apt-get install etcd-client)")?;
    let keys = String::from_utf8_lossy(&keys.stdout).into_owned();
    for key in [
        "deployments/example/web",
        "services/example/web",
        "/registry/pods/example/web-",
        "networkpolicies/example/web",
    ] {
        ensure!(keys.contains(key), "no {key} among\n{keys}");
    }
    tear_down(&layout)?;
    let left = leftovers(&layout)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}
