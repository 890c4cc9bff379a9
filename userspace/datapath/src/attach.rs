//! Programs on their hooks.
//!
//! In: the node's and the pods' interfaces, the cgroup. Out: pinned links, which a new process updates in place, so that no
//! packet passes without a program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{CgroupAttachMode, LinkOrder, TcAttachType, tc};
use aya::util::KernelVersion;

use crate::cgroup_link;
use crate::config::{Options, XdpMode};
use crate::error::DatapathError;
use crate::interface::interface_name;
use crate::node_links::Uplink;
use crate::object::{RELEASE_HOOK, SOCKET_HOOKS, classifier, release_hook, socket_hook};
use crate::overlay::Overlay;
use crate::pins;
use crate::side_link::SideLink;
use crate::xdp;
use crate::xdp_hook::XdpHook;

/// Priority and handle of the clsact fallback's filter, by which a new process replaces it in place.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: u32 = 1;

/// The hooks that have programs.
pub(crate) struct Attachments {
    /// Has the pins of links.
    folder: PathBuf,
    /// Host-side interfaces of pods that have their programs.
    pods: BTreeSet<u32>,
    /// Whether the kernel has TCX links (Linux 6.6); clsact filters are the fallback.
    tcx: bool,
    /// Uplinks that have their programs, by index, and where `xdp_node` runs there.
    uplinks: BTreeMap<u32, Option<XdpHook>>,
}

impl Attachments {
    pub(crate) fn new(bpffs: &Path) -> Result<Self, DatapathError> {
        let folder = pins::links(bpffs);
        fs::create_dir_all(&folder).map_err(DatapathError::file("create", &folder))?;
        let tcx = KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0));
        Ok(Attachments { folder, pods: BTreeSet::new(), tcx, uplinks: BTreeMap::new() })
    }

    /// Attaches everything but the programs of pods and uplinks.
    pub(crate) fn attach_node(
        &mut self,
        ebpf: &mut Ebpf,
        options: &Options,
        overlay: &Overlay,
        side_links: &[SideLink],
    ) -> Result<(), DatapathError> {
        self.attach_tc(ebpf, "tc_host_egress", "lo", TcAttachType::Egress, "loopback-egress")?;
        for link in side_links {
            self.attach_tc(ebpf, "tc_delay", link.far, TcAttachType::Ingress, link.pin)?;
        }
        for (device, pin) in overlay.devices() {
            self.attach_tc(ebpf, "tc_node_ingress", device, TcAttachType::Ingress, pin)?;
        }
        let cgroup = File::open(&options.cgroup).map_err(DatapathError::file("open", &options.cgroup))?;
        for name in SOCKET_HOOKS {
            self.attach_socket_hook(ebpf, name, &cgroup)?;
        }
        self.attach_release_hook(ebpf, &cgroup)
    }

    /// Where `xdp_node` runs on the first uplink that has it.
    pub(crate) fn xdp(&self) -> Option<XdpHook> {
        self.uplinks.values().flatten().next().copied()
    }

    /// Has the programs on these uplinks and takes them from all others; idempotent. What fails for one uplink does not hold up
    /// the others: the first error is returned after all.
    pub(crate) fn set_uplinks(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: &[Uplink],
        mode: XdpMode,
    ) -> Result<(), DatapathError> {
        self.uplinks.retain(|index, _| wanted.iter().any(|uplink| uplink.index == *index));
        let mut result = Ok(());
        for hook in XdpHook::ALL {
            result = result.and(xdp::detach(&self.folder.join(format!("uplink-xdp-{}", hook.name()))));
        }
        for uplink in wanted {
            if !self.uplinks.contains_key(&uplink.index) {
                let attached = self.attach_uplink(ebpf, uplink, mode);
                result = result.and(attached.map(|hook| {
                    self.uplinks.insert(uplink.index, hook);
                }));
            }
        }
        result.and(self.forget_uplinks(wanted))
    }

    fn attach_uplink(
        &self,
        ebpf: &mut Ebpf,
        uplink: &Uplink,
        mode: XdpMode,
    ) -> Result<Option<XdpHook>, DatapathError> {
        let Uplink { name, index, .. } = uplink;
        let (ingress, egress) = (format!("uplink-{index}-ingress"), format!("uplink-{index}-egress"));
        self.attach_tc(ebpf, "tc_node_ingress", name, TcAttachType::Ingress, &ingress)?;
        self.attach_tc(ebpf, "tc_node_egress", name, TcAttachType::Egress, &egress)?;
        let hook = xdp::attach(ebpf, uplink, mode, &self.folder)?;
        tracing::info!(uplink = name, index, xdp = ?hook, "attached programs to an uplink");
        Ok(hook)
    }

    /// Takes the programs from every uplink that is not among these, and removes what an earlier version pinned for its only one.
    fn forget_uplinks(&self, wanted: &[Uplink]) -> Result<(), DatapathError> {
        let entries = fs::read_dir(&self.folder).map_err(DatapathError::file("list", &self.folder))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| name.starts_with("uplink-")) {
            let index = name.split('-').nth(1).and_then(|index| index.parse::<u32>().ok());
            if wanted.iter().any(|uplink| Some(uplink.index) == index) {
                continue;
            }
            if !self.tcx
                && let Some(interface) = index.and_then(|index| interface_name(index).ok())
            {
                detach_clsact(&interface);
            }
            let path = self.folder.join(&name);
            if self.tcx || name.contains("-xdp-") { xdp::detach(&path)? } else { pins::remove(&path)? }
        }
        Ok(())
    }

    /// Updates the links that an earlier process pinned for pods to this process's programs.
    pub(crate) fn adopt_pods(&mut self, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
        let entries = fs::read_dir(&self.folder).map_err(DatapathError::file("list", &self.folder))?;
        let pods: BTreeSet<u32> = entries
            .flatten()
            .filter_map(|entry| {
                entry.file_name().to_str()?.strip_prefix("pod-")?.split('-').next()?.parse().ok()
            })
            .collect();
        for ifindex in pods {
            match self.attach_pod(ebpf, ifindex) {
                Err(DatapathError::NoInterface { .. }) => self.forget_pod(ifindex)?,
                Err(error) => {
                    // Its earlier programs stay in force; no other pod waits for it.
                    let source = std::error::Error::source(&error);
                    tracing::error!(ifindex, %error, ?source, "replace the programs of a pod failed");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    pub(crate) fn attach_pod(&mut self, ebpf: &mut Ebpf, ifindex: u32) -> Result<(), DatapathError> {
        let name = interface_name(ifindex)?;
        let (egress, ingress) = (format!("pod-{ifindex}-egress"), format!("pod-{ifindex}-ingress"));
        // A packet that the pod sends is ingress on the host side.
        self.attach_tc(ebpf, "tc_pod_egress", &name, TcAttachType::Ingress, &egress)?;
        self.attach_tc(ebpf, "tc_pod_ingress", &name, TcAttachType::Egress, &ingress)?;
        self.pods.insert(ifindex);
        Ok(())
    }

    pub(crate) fn has_pod(&self, ifindex: u32) -> bool {
        self.pods.contains(&ifindex)
    }

    pub(crate) fn forget_pod(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.pods.remove(&ifindex);
        pins::remove(&self.folder.join(format!("pod-{ifindex}-egress")))?;
        pins::remove(&self.folder.join(format!("pod-{ifindex}-ingress")))
    }

    fn attach_tc(
        &self,
        ebpf: &mut Ebpf,
        name: &'static str,
        interface: &str,
        side: TcAttachType,
        pin: &str,
    ) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Program { name, operation: "attach", source };
        let program = classifier(ebpf, name)?;
        let path = self.folder.join(pin);
        if !self.tcx {
            attach_clsact(program, interface, side).map_err(failed)?;
            // A folder in place of the link's pin marks the interface as a pod's for a later process.
            return fs::create_dir_all(&path).map_err(DatapathError::file("create", &path));
        }
        if let Ok(pinned) = PinnedLink::from_pin(&path) {
            let link = SchedClassifierLink::try_from(FdLink::from(pinned));
            if link.is_ok_and(|link| program.attach_to_link(link).is_ok()) {
                return Ok(());
            }
            // The interface that the link was on is gone.
            pins::remove(&path)?;
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, side, order).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|source| DatapathError::Link { name, source })?;
        pins::pin_link(link, &path)
    }

    /// The program of an earlier process is replaced in place. A link always allows other programs; it takes the mode without flags.
    fn attach_socket_hook(
        &self,
        ebpf: &mut Ebpf,
        name: &'static str,
        cgroup: &File,
    ) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Program { name, operation: "attach", source };
        let program = socket_hook(ebpf, name)?;
        if cgroup_link::update(&self.folder.join(name), program.fd().map_err(failed)?.as_fd(), cgroup) {
            return Ok(());
        }
        let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        self.replace_pin(name, FdLink::try_from(link))
    }

    /// As [`Attachments::attach_socket_hook`].
    fn attach_release_hook(&self, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), DatapathError> {
        let name = RELEASE_HOOK;
        let failed = |source| DatapathError::Program { name, operation: "attach", source };
        let program = release_hook(ebpf)?;
        if cgroup_link::update(&self.folder.join(name), program.fd().map_err(failed)?.as_fd(), cgroup) {
            return Ok(());
        }
        let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        self.replace_pin(name, FdLink::try_from(link))
    }

    fn replace_pin(&self, name: &'static str, link: Result<FdLink, LinkError>) -> Result<(), DatapathError> {
        let link = link.map_err(|source| DatapathError::Link { name, source })?;
        let path = self.folder.join(name);
        pins::remove(&path)?;
        pins::pin_link(link, &path)
    }
}

/// Removes our filters of both sides; there may be none.
fn detach_clsact(interface: &str) {
    for side in [TcAttachType::Ingress, TcAttachType::Egress] {
        let handle = TcHandle::from(CLSACT_HANDLE);
        // Dropping the link removes the filter.
        drop(SchedClassifierLink::attached(interface, side, CLSACT_PRIORITY, handle, None));
    }
}

fn attach_clsact(
    program: &mut tc::SchedClassifier,
    interface: &str,
    side: TcAttachType,
) -> Result<(), aya::programs::ProgramError> {
    let handle = TcHandle::from(CLSACT_HANDLE);
    // After a restart the qdisc exists and this fails; any other error shows when the filter is attached.
    let _ = tc::qdisc_add_clsact(interface);
    let replaced = SchedClassifierLink::attached(interface, side, CLSACT_PRIORITY, handle, None)
        .map_err(|e| tc::TcError::IoError(e).into())
        .and_then(|link| program.attach_to_link(link));
    let id = match replaced {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: CLSACT_PRIORITY, handle, ..NlOptions::default() };
            program.attach_with_options(interface, side, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would remove the filter, which must outlive this process.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}
