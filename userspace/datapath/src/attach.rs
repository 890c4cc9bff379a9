//! Programs on their hooks.
//!
//! In: the node's and the pods' interfaces, the cgroup. Out: pinned links, which a new process updates in place, so that no
//! packet passes without a program.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{CgroupAttachMode, LinkOrder, TcAttachType, tc};
use aya::util::KernelVersion;

use crate::config::Options;
use crate::error::DatapathError;
use crate::interface::interface_name;
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
    /// Where `xdp_node` runs.
    pub(crate) xdp: Option<XdpHook>,
}

impl Attachments {
    pub(crate) fn new(bpffs: &Path) -> Result<Self, DatapathError> {
        let folder = pins::links(bpffs);
        fs::create_dir_all(&folder).map_err(DatapathError::file("create", &folder))?;
        let tcx = KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0));
        Ok(Attachments { folder, pods: BTreeSet::new(), tcx, xdp: None })
    }

    /// Attaches everything but the pods' programs.
    pub(crate) fn attach_node(
        &mut self,
        ebpf: &mut Ebpf,
        options: &Options,
        overlay: &Overlay,
        side_links: &[SideLink],
    ) -> Result<(), DatapathError> {
        let uplink = &options.uplink;
        self.attach_tc(ebpf, "tc_node_ingress", uplink, TcAttachType::Ingress, "uplink-ingress")?;
        self.attach_tc(ebpf, "tc_node_egress", uplink, TcAttachType::Egress, "uplink-egress")?;
        self.attach_tc(ebpf, "tc_host_egress", "lo", TcAttachType::Egress, "loopback-egress")?;
        for link in side_links {
            self.attach_tc(ebpf, "tc_delay", link.far, TcAttachType::Ingress, link.pin)?;
        }
        for (device, pin) in overlay.devices() {
            self.attach_tc(ebpf, "tc_node_ingress", device, TcAttachType::Ingress, pin)?;
        }
        self.xdp = xdp::attach(ebpf, uplink, options.xdp, &self.folder)?;
        let cgroup = File::open(&options.cgroup).map_err(DatapathError::file("open", &options.cgroup))?;
        for name in SOCKET_HOOKS {
            self.attach_socket_hook(ebpf, name, &cgroup)?;
        }
        self.attach_release_hook(ebpf, &cgroup)
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

    /// A socket hook cannot be replaced in place. For a moment both programs are attached, and the second finds nothing to
    /// translate. A link always allows other programs; it takes the mode without flags.
    fn attach_socket_hook(
        &self,
        ebpf: &mut Ebpf,
        name: &'static str,
        cgroup: &File,
    ) -> Result<(), DatapathError> {
        let failed = |source| DatapathError::Program { name, operation: "attach", source };
        let program = socket_hook(ebpf, name)?;
        let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        self.replace_pin(name, FdLink::try_from(link))
    }

    /// As [`Attachments::attach_socket_hook`]; while both programs are attached, the second has nothing to remove.
    fn attach_release_hook(&self, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), DatapathError> {
        let name = RELEASE_HOOK;
        let failed = |source| DatapathError::Program { name, operation: "attach", source };
        let program = release_hook(ebpf)?;
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
