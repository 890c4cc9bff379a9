//! What a node stands on, without a server: it comes up, and goes without a trace.

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
        let output = containerd::ctr(&node, args)?;
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
    tear_down(&layout)?;
    ensure!(leftovers(&layout)?.is_empty(), "left: {:?}", leftovers(&layout)?);
    ensure!(tear_down(&layout)?.is_empty(), "a second time there was still something to remove");
    Ok(())
}
