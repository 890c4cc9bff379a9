//! The parts of a node below its agent, without a server: they start, and are removed without a trace.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use xtask::cluster::layout::Layout;
use xtask::cluster::{Binaries, Cluster, containerd, leftovers, tear_down};
use xtask::image;

struct Down(Layout);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = tear_down(&self.0);
    }
}

/// Records the source tree that started the cluster, as the server's start does.
fn claim_for(layout: &Layout) -> Result<()> {
    fs::create_dir_all(layout.run())?;
    Ok(fs::write(layout.run().join("owner"), layout.state.display().to_string())?)
}

#[test]
fn what_a_dead_cluster_of_another_source_tree_left_is_taken_away() -> Result<()> {
    let (theirs, ours) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let dead = Layout::named("skepdead", theirs.path(), 90);
    claim_for(&dead)?;
    xtask::cluster::host::mount_bpf(&dead.node(1).bpffs())?;
    fs::write(theirs.path().join("join.json"), "{}")?;
    tear_down(&Layout::named("skepdead", ours.path(), 90))?;
    ensure!(leftovers(&dead)?.is_empty(), "left: {:?}", leftovers(&dead)?);
    Ok(())
}

#[test]
fn a_node_with_a_running_container_is_torn_down_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let layout = Layout::named("skepmach", folder.path(), 88);
    let _down = Down(layout.clone());
    let binaries = Binaries { skep: PathBuf::from("skep"), plugins: folder.path().to_owned() };
    let cluster = Cluster::new(layout.clone(), binaries, PathBuf::from("kubectl"));
    xtask::cluster::host::make_bridge(&layout)?;
    let node = layout.node(1);
    cluster.start_runtime(&node)?;
    let archive = folder.path().join("pause.tar");
    image::pause(&archive)?;
    let archive = archive.display().to_string();
    let ctr = |args: &[&str]| -> Result<()> {
        let output = containerd::ctr(&node.containerd_socket(), args)?;
        ensure!(output.status.success(), "ctr {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    ctr(&["images", "import", &archive])?;
    let cgroup = format!("/{}/a-pod", node.cgroup);
    let runc = node.run.join("runc").display().to_string();
    ctr(&["run", "--detach", "--runc-root", &runc, "--cgroup", &cgroup, image::PAUSE, "a-container"])?;
    cluster.start_runtime(&node)?;
    let there = leftovers(&layout)?;
    ensure!(there.iter().any(|what| what.contains("sleep 2147483647")), "no container in {there:?}");
    ensure!(there.iter().any(|what| what.contains("containerd-shim-runc-v2")), "no shim in {there:?}");
    // Another source tree leaves it alone while it runs.
    claim_for(&layout)?;
    let folder = tempfile::tempdir()?;
    ensure!(tear_down(&Layout::named("skepmach", folder.path(), 88)).is_err(), "a running cluster was ended");
    tear_down(&layout)?;
    ensure!(leftovers(&layout)?.is_empty(), "left: {:?}", leftovers(&layout)?);
    ensure!(tear_down(&layout)?.is_empty(), "a second time there was still something to remove");
    Ok(())
}
