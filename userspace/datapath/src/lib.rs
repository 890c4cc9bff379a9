//! The node's datapath: loads and attaches the BPF programs, writes their maps, makes the pods' interfaces.
//!
//! In: [`skep_netplan::Write`]s and pods' links. Out: the kernel doing it. Nothing is decided here. Everything that
//! must outlive the process is pinned below `<bpffs>/v<ABI_VERSION>`; a new process adopts it, also one of another version
//! what that has in common with it, so packets never wait.

mod adopt;
mod announce;
mod apply;
mod attach;
mod batch;
mod config;
mod conntrack;
mod delay;
mod error;
mod flows;
mod inspect;
mod interface;
mod maps;
mod netlink;
mod object;
mod observe;
mod overlay;
mod pace;
mod pins;
mod pod_link;
mod route;
mod side_link;
mod stale_sockets;
mod syscall;
mod verdicts;
mod xdp;
mod xdp_hook;

use std::path::Path;

pub use announce::Announcer;
pub use apply::ApplyError;
pub use config::{Options, UnknownXdpMode, XdpMode};
pub use conntrack::Collected;
pub use error::DatapathError;
pub use flows::{DropCount, Flows};
pub use inspect::Verified;
pub use pod_link::{PodInterface, PodLink};
pub use xdp_hook::XdpHook;

use attach::Attachments;
use maps::Maps;
use netlink::link_mtu;
use overlay::Overlay;
use side_link::SideLink;

/// The attached programs and their maps. Dropping it leaves everything running in the kernel.
pub struct Datapath {
    ebpf: aya::Ebpf,
    maps: Maps,
    attachments: Attachments,
    overlay: Overlay,
    /// The largest packet between pods, in bytes.
    mtu: u32,
    paces: bool,
}

impl Datapath {
    /// Loads the programs and attaches them, or adopts the maps of an earlier process and replaces its programs.
    pub async fn open(options: Options) -> Result<Datapath, DatapathError> {
        adopt::adopt(&options.bpffs)?;
        let pace = blocking(pace::set_up).await?;
        let near = |link: &Option<SideLink>| link.as_ref().map_or(0, |link| link.near);
        let mut ebpf = object::load(&options.bpffs, near(&pace))?;
        let mut maps = Maps::take(&mut ebpf, &options.bpffs)?;
        let (wanted, addrs) = (options.overlay, options.node_addrs.clone());
        let uplink_mtu = link_mtu(&options.uplink)?;
        let overlay = blocking(move || overlay::set_up(wanted, &addrs, uplink_mtu)).await?;
        let delay = blocking(move || delay::set_up(uplink_mtu)).await?;
        maps.configure(&options, &overlay, near(&delay))?;
        let mut attachments = Attachments::new(&options.bpffs)?;
        let paces = pace.is_some();
        let side_links: Vec<SideLink> = delay.into_iter().chain(pace).collect();
        attachments.attach_node(&mut ebpf, &options, &overlay, &side_links)?;
        attachments.adopt_pods(&mut ebpf)?;
        for addr in &options.node_addrs {
            pod_link::enable_forwarding(addr)?;
        }
        pod_link::accept_own_addresses()?;
        let mtu = uplink_mtu.saturating_sub(overlay.overhead());
        Ok(Datapath { ebpf, maps, attachments, overlay, mtu, paces })
    }

    /// What a pod may send to any other pod in one packet, in bytes: the uplink's MTU without what the overlay puts around.
    pub fn pod_mtu(&self) -> u32 {
        self.mtu
    }

    /// Whether what pods send over their bandwidth waits; it is dropped otherwise.
    pub fn paces(&self) -> bool {
        self.paces
    }

    /// Removes every pin below `bpffs`, which detaches what is attached by links; what is gone already is no error. Filters of
    /// clsact, where the kernel has no TCX (before 6.6), stay until their interface goes.
    pub fn remove(bpffs: &Path) -> Result<(), DatapathError> {
        pins::remove_folder(bpffs)
    }

    /// Where on the uplink `xdp_node` runs, if it does.
    pub fn xdp(&self) -> Option<XdpHook> {
        self.attachments.xdp
    }

    /// Attaches the pod programs to the host side of a pod's interface; idempotent.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.attachments.attach_pod(&mut self.ebpf, ifindex)
    }

    /// Makes the pod's interface pair, addresses, routes and neighbours; idempotent.
    pub async fn add_pod(&self, link: PodLink) -> Result<PodInterface, DatapathError> {
        blocking(move || pod_link::add(&link)).await
    }

    /// Whether the pod's interface is as [`Datapath::add_pod`] left it and the programs are attached.
    pub async fn check_pod(&self, link: PodLink) -> Result<PodInterface, DatapathError> {
        let interface = blocking(move || pod_link::check(&link)).await?;
        if !self.attachments.has_pod(interface.ifindex) {
            return Err(DatapathError::NotAttached { ifindex: interface.ifindex });
        }
        Ok(interface)
    }

    /// Removes the host side, and with it the pod's; succeeds if it is gone already.
    pub async fn delete_pod(&mut self, host_ifname: &str) -> Result<(), DatapathError> {
        let name = host_ifname.to_owned();
        if let Some(ifindex) = blocking(move || pod_link::delete(&name)).await? {
            self.attachments.forget_pod(ifindex)?;
        }
        Ok(())
    }
}

/// Netlink calls block their thread for microseconds; namespaces are entered on threads of their own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DatapathError> + Send + 'static,
) -> Result<T, DatapathError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| DatapathError::Aborted)?
}
