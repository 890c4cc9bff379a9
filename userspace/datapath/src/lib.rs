//! The node's datapath: loads and attaches the BPF programs, writes their maps, makes the pods' interfaces.
//!
//! In: [`skep_netplan::Write`]s and pods' links. Out: the kernel's state. Nothing is decided here. Everything that must
//! outlive the process is pinned below `<bpffs>/v<ABI_VERSION>`. A new process adopts the pins, and one of another ABI
//! version adopts the maps that both versions have in common, so no packet waits.

mod adopt;
mod announce;
mod apply;
mod attach;
mod batch;
mod config;
mod conntrack;
mod counters;
mod delay;
mod error;
mod flow_table;
mod flows;
mod grow;
mod inspect;
mod interface;
mod local_address;
mod maps;
mod netlink;
mod object;
mod observe;
mod overlay;
mod pace;
mod pins;
mod pod_link;
mod program_log;
mod route;
mod side_link;
mod source_ports;
mod stale_sockets;
mod syscall;
#[cfg(test)]
mod test_bpffs;
mod verdicts;
mod xdp;
mod xdp_hook;

use std::path::{Path, PathBuf};

pub use announce::Announcer;
pub use apply::ApplyError;
pub use config::{Options, ProgramLogLevel, SocketLb, Trial, UnknownXdpMode, XdpMode};
pub use conntrack::Collected;
pub use counters::{Counters, DropCount, EventCount};
pub use error::DatapathError;
pub use flows::{Flows, Observation};
pub use inspect::{At, Verified};
pub use local_address::set_local_addresses;
pub use pod_link::{PodInterface, PodLink};
pub use program_log::ProgramLog;
pub use xdp_hook::XdpHook;

use attach::Attachments;
use flow_table::FlowTable;
use maps::Maps;
use netlink::link_mtu;
use object::{Constants, Helpers, service_nets};
use overlay::Overlay;
use side_link::SideLink;

/// The attached programs and their maps. They keep running in the kernel when this is dropped.
pub struct Datapath {
    /// The folder of the pins.
    bpffs: PathBuf,
    ebpf: aya::Ebpf,
    maps: Maps,
    attachments: Attachments,
    overlay: Overlay,
    /// The largest packet between pods, in bytes.
    pod_mtu: u32,
    /// See [`Datapath::paces`].
    paces: bool,
}

impl Datapath {
    /// Loads the programs and attaches them, or adopts the maps of an earlier process and replaces its programs.
    pub async fn open(options: Options) -> Result<Datapath, DatapathError> {
        Datapath::open_trial(options, Trial::default()).await
    }

    /// As [`Datapath::open`] with other programs, for benchmarks.
    pub async fn open_trial(options: Options, trial: Trial) -> Result<Datapath, DatapathError> {
        adopt::adopt(&options.bpffs)?;
        let pace = blocking(pace::set_up).await?;
        let near_index = |link: &Option<SideLink>| link.as_ref().map_or(0, |link| link.near);
        let constants = Constants {
            pace: near_index(&pace),
            first_port: source_ports::reserve()?,
            flows: FlowTable::of(&pins::maps(&options.bpffs), options.conntrack_max)?,
            helpers: Helpers::of_kernel(),
            socket_lb: options.socket_lb,
            service_nets: service_nets(&options.service_cidrs),
            has_exemptions: !options.masquerade_exemptions.is_empty(),
            program_log: options.program_log,
            omitted: trial.omitted,
        };
        let mut ebpf = object::load(trial.object.as_deref(), &options.bpffs, constants)?;
        let mut maps = Maps::take(&mut ebpf, &options.bpffs)?;
        maps.set_exemptions(&options.masquerade_exemptions)?;
        let (enabled, addrs) = (options.overlay, options.node_addrs.clone());
        let uplink_mtu = link_mtu(&options.uplink)?;
        let overlay = blocking(move || overlay::set_up(enabled, &addrs, uplink_mtu)).await?;
        let delay = blocking(move || delay::set_up(uplink_mtu)).await?;
        maps.configure(&options, &overlay, near_index(&delay))?;
        let mut attachments = Attachments::new(&options.bpffs)?;
        let paces = pace.is_some();
        let side_links: Vec<SideLink> = delay.into_iter().chain(pace).collect();
        attachments.attach_node(&mut ebpf, &options, &overlay, &side_links)?;
        attachments.adopt_pods(&mut ebpf)?;
        for addr in &options.node_addrs {
            pod_link::enable_forwarding(addr)?;
        }
        pod_link::accept_own_addresses()?;
        let pod_mtu = uplink_mtu.saturating_sub(overlay.overhead());
        Ok(Datapath { bpffs: options.bpffs, ebpf, maps, attachments, overlay, pod_mtu, paces })
    }

    /// The largest packet that a pod can send to any other pod, in bytes: the uplink's MTU less the overlay's headers.
    pub fn pod_mtu(&self) -> u32 {
        self.pod_mtu
    }

    /// Whether packets that pods send above their bandwidth wait for their time; otherwise they are dropped.
    pub fn paces(&self) -> bool {
        self.paces
    }

    /// Removes every pin below `bpffs`, which detaches programs that links attach; idempotent. clsact filters, which Linux
    /// before 6.6 has in place of TCX, remain until their interface is deleted.
    pub fn remove(bpffs: &Path) -> Result<(), DatapathError> {
        pins::remove_folder(bpffs)
    }

    /// Where on the uplink `xdp_node` runs; `None`: it does not run.
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

    /// The pod's interface; an error unless it is as [`Datapath::add_pod`] made it and the programs are attached.
    pub async fn check_pod(&self, link: PodLink) -> Result<PodInterface, DatapathError> {
        let interface = blocking(move || pod_link::check(&link)).await?;
        if !self.attachments.has_pod(interface.ifindex) {
            return Err(DatapathError::NotAttached { ifindex: interface.ifindex });
        }
        Ok(interface)
    }

    /// Deletes the host side, and with it the pod's; idempotent.
    pub async fn delete_pod(&mut self, host_ifname: &str) -> Result<(), DatapathError> {
        let name = host_ifname.to_owned();
        if let Some(ifindex) = blocking(move || pod_link::delete(&name)).await? {
            self.attachments.forget_pod(ifindex)?;
        }
        Ok(())
    }
}

/// Runs `work` on a thread that may block: netlink calls take microseconds, and only a thread of its own may enter another
/// namespace.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DatapathError> + Send + 'static,
) -> Result<T, DatapathError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| DatapathError::Aborted)?
}
