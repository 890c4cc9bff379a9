//! Where the parts of a development cluster are: names, addresses, folders. PURE.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The maximum number of nodes of a cluster on one machine.
pub const MAX_NODES: u8 = 64;

/// One cluster on this machine. Clusters with different names and networks can run at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Prefix of every link, namespace and cgroup; at most 8 characters.
    pub name: String,
    /// The folder of what outlives a restart of the cluster's processes: stores, images, certificates, logs.
    pub state: PathBuf,
    /// Second byte of the network of nodes, below 96; with 128 more, of the network of pods.
    number: u8,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLayout {
    /// The Node object's name.
    pub name: String,
    pub netns: String,
    /// The bridge's end of the node's uplink; the node's own end is `UPLINK`.
    pub port: String,
    pub addr: Ipv4Addr,
    /// containerd's images and snapshots, the agent's pods and logs.
    pub state: PathBuf,
    /// Sockets, pins, mounts: what a reboot removes.
    pub run: PathBuf,
    /// Below the root of each cgroup hierarchy.
    pub cgroup: String,
}

/// The default cluster number.
pub const USUAL: u8 = 86;

/// The node's interface to the others.
pub const UPLINK: &str = "eth0";

impl Layout {
    /// The cluster of `cargo xtask up`; every number but the default has a folder of its own.
    pub fn development(workspace: &Path, number: u8) -> Layout {
        let name = if number == USUAL { "skep".to_owned() } else { format!("skep{number}") };
        let state = workspace.join("target").join(&name);
        Layout::named(&name, &state, number)
    }

    /// The cluster of tests; it does not touch a development cluster.
    pub fn test(workspace: &Path) -> Layout {
        Layout::named("skeptest", &workspace.join("target/skep-test"), 87)
    }

    /// A cluster with nodes in 10.`number`.0.0/24.
    pub fn named(name: &str, state: &Path, number: u8) -> Layout {
        Layout { name: name.to_owned(), state: state.to_owned(), number }
    }

    /// Sockets are here, since a path below the workspace may exceed a socket's address.
    pub fn run(&self) -> PathBuf {
        Path::new("/run").join(&self.name)
    }

    pub fn bridge(&self) -> String {
        format!("{}0", self.name)
    }

    /// The machine's own address on the bridge, and the nodes' way out.
    pub fn gateway_addr(&self) -> Ipv4Addr {
        self.addr(1)
    }

    pub fn server_addr(&self) -> Ipv4Addr {
        self.addr(2)
    }

    /// The server's namespace. Its only route is to the nodes' network.
    pub fn server_netns(&self) -> String {
        format!("{}-server", self.name)
    }

    pub fn server_netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.server_netns())
    }

    /// The bridge's end of the server's link.
    pub fn server_port(&self) -> String {
        format!("{}-s", self.name)
    }

    pub fn server_url(&self) -> String {
        format!("https://{}:6443", self.server_addr())
    }

    pub fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", self.number | 128)
    }

    pub fn service_cidr(&self) -> &'static str {
        "10.96.0.0/12"
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub fn pids(&self) -> PathBuf {
        self.run().join("pids")
    }

    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// The node with number `index`, counted from 1.
    pub fn node(&self, index: u8) -> NodeLayout {
        let name = format!("node-{index}");
        NodeLayout {
            netns: format!("{}-{name}", self.name),
            port: format!("{}-n{index}", self.name),
            addr: self.addr(10 + index),
            state: self.state.join(&name),
            run: self.run().join(&name),
            cgroup: format!("{}/{name}", self.name),
            name,
        }
    }

    fn addr(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, host)
    }
}

impl NodeLayout {
    pub fn containerd_socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// The node's own BPF file system: unmounting it takes every pin away.
    pub fn bpffs(&self) -> PathBuf {
        self.run.join("bpf")
    }

    pub fn cni_socket(&self) -> PathBuf {
        self.run.join("cni.sock")
    }

    pub fn agent_root(&self) -> PathBuf {
        self.state.join("agent")
    }

    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel() {
        for layout in [Layout::development(Path::new("/w"), 95), Layout::test(Path::new("/w"))] {
            assert!(layout.bridge().len() <= 15);
            assert!(layout.node(MAX_NODES).port.len() <= 15);
        }
    }

    #[test]
    fn socket_paths_fit_the_kernel() {
        let deep = PathBuf::from(format!("/{}", "x".repeat(200)));
        let node = Layout::test(&deep).node(MAX_NODES);
        // containerd appends `.ttrpc`; sun_path holds 107 bytes.
        assert!(node.containerd_socket().as_os_str().len() + 6 <= 107);
    }

    #[test]
    fn two_clusters_share_nothing() {
        let (a, b) = (Layout::development(Path::new("/w"), USUAL), Layout::test(Path::new("/w")));
        assert_ne!(a.state, b.state);
        assert_ne!(a.run(), b.run());
        assert_ne!(a.bridge(), b.bridge());
        assert_ne!(a.server_addr(), b.server_addr());
        assert_ne!(a.pod_cidr(), b.pod_cidr());
        assert_ne!((a.server_netns(), a.server_port()), (b.server_netns(), b.server_port()));
        let (a, b) = (a.node(1), b.node(1));
        assert_ne!((a.netns, a.port, a.cgroup), (b.netns, b.port, b.cgroup));
    }
}
