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
mod big_tcp;
mod cgroup_link;
mod config;
mod conntrack;
mod convert;
mod counters;
mod delay;
mod error;
mod flow_table;
mod flows;
mod grow;
mod in_force;
mod inspect;
mod interface;
mod local_address;
mod maps;
mod netlink;
mod node_links;
mod object;
mod observe;
mod overlay;
mod pace;
mod pins;
mod pod_link;
mod program_log;
mod program_pins;
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

use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use announce::Announcer;
pub use apply::ApplyError;
pub use config::{Options, ProgramLogLevel, SocketLb, Trial, UnknownXdpMode, Uplinks, XdpMode};
pub use conntrack::Collected;
pub use counters::{Counters, DropCount, EventCount};
pub use error::DatapathError;
pub use flows::{Flows, Observation};
pub use in_force::ServicesInForce;
pub use inspect::{At, Verified};
pub use local_address::set_local_addresses;
pub use node_links::{LinkWatcher, NodeLinks, Uplink};
pub use pod_link::{PodInterface, PodLink};
pub use program_log::ProgramLog;
pub use skep_abi::logic::lifetime::{Group as FlowGroup, Timeouts};
pub use xdp_hook::XdpHook;

use attach::Attachments;
use flow_table::FlowTable;
use maps::Maps;
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
    wanted_uplinks: Uplinks,
    node_addrs: Vec<IpAddr>,
    xdp: XdpMode,
    links: NodeLinks,
    timeouts: Timeouts,
    /// The largest packet between pods, in bytes.
    pod_mtu: u32,
    /// See [`Datapath::paces`].
    paces: bool,
    big_tcp: bool,
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
            timeouts: options.timeouts,
            pod_new_flows: options.pod_new_flows,
            service_nets: service_nets(&options.service_cidrs),
            has_exemptions: !options.masquerade_exemptions.is_empty(),
            program_log: options.program_log,
            omitted: trial.omitted,
        };
        let mut ebpf = object::load(trial.object.as_deref(), &options.bpffs, constants)?;
        let mut maps = Maps::take(&mut ebpf, &options.bpffs)?;
        maps.set_exemptions(&options.masquerade_exemptions)?;
        let (enabled, addrs) = (options.overlay, options.node_addrs.clone());
        let (wanted, given) = (options.uplinks.clone(), options.node_addrs.clone());
        let links = blocking(move || node_links::read(wanted, given)).await?;
        check_named(&options.uplinks, &links)?;
        let uplink_mtu = links.mtu();
        let overlay = blocking(move || overlay::set_up(enabled, &addrs, uplink_mtu)).await?;
        let delay = blocking(move || delay::set_up(uplink_mtu)).await?;
        maps.configure(&overlay, near_index(&delay))?;
        maps.set_links(&links)?;
        let mut attachments = Attachments::new(&options.bpffs)?;
        let paces = pace.is_some();
        let side_links: Vec<SideLink> = delay.into_iter().chain(pace).collect();
        attachments.attach_node(&mut ebpf, &options, &overlay, &side_links)?;
        attachments.set_uplinks(&mut ebpf, &links.uplinks, options.xdp)?;
        raise_sizes(options.big_tcp, &links);
        attachments.adopt_pods(&mut ebpf)?;
        for addr in &options.node_addrs {
            pod_link::enable_forwarding(addr)?;
        }
        pod_link::accept_own_addresses()?;
        let pod_mtu = uplink_mtu.saturating_sub(overlay.overhead());
        Ok(Datapath {
            bpffs: options.bpffs,
            ebpf,
            maps,
            attachments,
            overlay,
            wanted_uplinks: options.uplinks,
            node_addrs: options.node_addrs,
            xdp: options.xdp,
            links,
            timeouts: options.timeouts,
            pod_mtu,
            paces,
            big_tcp: options.big_tcp,
        })
    }

    /// The node's links, as the programs know them.
    pub fn links(&self) -> &NodeLinks {
        &self.links
    }

    /// Watches for links other than [`Datapath::links`]. To be called in a runtime, in the network namespace of the node.
    pub fn watch_links(&self) -> Result<LinkWatcher, DatapathError> {
        LinkWatcher::new(self.wanted_uplinks.clone(), self.node_addrs.clone(), self.links.clone())
    }

    /// Has the programs on these uplinks and no others, and these addresses as the node's; idempotent. Pods keep the MTU that they
    /// have.
    pub fn set_links(&mut self, links: NodeLinks) -> Result<(), DatapathError> {
        self.maps.set_links(&links)?;
        self.attachments.set_uplinks(&mut self.ebpf, &links.uplinks, self.xdp)?;
        raise_sizes(self.big_tcp, &links);
        self.links = links;
        Ok(())
    }

    /// The largest packet that a pod can send to any other pod, in bytes: the least MTU of
    /// the uplinks, less the overlay's headers.
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

    /// Where on the uplinks `xdp_node` runs, on the first of them where it does; `None`: it does not run.
    pub fn xdp(&self) -> Option<XdpHook> {
        self.attachments.xdp()
    }

    /// Attaches the pod programs to the host side of a pod's interface; idempotent.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.attachments.attach_pod(&mut self.ebpf, ifindex)
    }

    /// Makes the pod's interface pair, addresses, routes and neighbours; idempotent.
    pub async fn add_pod(&self, link: PodLink) -> Result<PodInterface, DatapathError> {
        let big_tcp = self.big_tcp;
        blocking(move || pod_link::add(&link, big_tcp)).await
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

/// Has the uplinks take large packets, if that is wanted. Those that do not are slower, and nothing else.
fn raise_sizes(wanted: bool, links: &NodeLinks) {
    for uplink in links.uplinks.iter().filter(|_| wanted) {
        if let Err(error) = big_tcp::raise(None, &uplink.name) {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(uplink = uplink.name, error, "raise packet sizes failed");
        }
    }
}

/// A name that no interface has is often a mistake; one of several may come later.
fn check_named(wanted: &Uplinks, links: &NodeLinks) -> Result<(), DatapathError> {
    match wanted {
        Uplinks::Named(names) if links.uplinks.is_empty() => {
            Err(DatapathError::NoInterface { name: names.join(",") })
        }
        Uplinks::Routed if links.uplinks.is_empty() => {
            tracing::warn!(
                "no interface has a default route or an address of the node: there is no uplink yet"
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Runs `work` on a thread that may block: netlink calls take microseconds, and only a thread of its own may enter another
/// namespace.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DatapathError> + Send + 'static,
) -> Result<T, DatapathError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| DatapathError::Aborted)?
}
