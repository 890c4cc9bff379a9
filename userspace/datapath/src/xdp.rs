//! XDP on an uplink, by a pinned link that a new process updates in place.
//!
//! XDP is a shortcut: `tc_node_ingress` handles the same flows. So under [`XdpMode::Auto`] the node runs without XDP if it
//! cannot be attached, and logs it; under a mode that names a hook this is an error.

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use futures::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use crate::config::XdpMode;
use crate::error::DatapathError;
use crate::node_links::Uplink;
use crate::object::xdp_program;
use crate::syscall::{bpf, bpf_fd};
use crate::xdp_hook::XdpHook;
use crate::{netlink, pins};

/// include/uapi/linux/bpf.h
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Attaches the program at a hook that `mode` allows and detaches it from the others. `folder` has the pins of links.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    uplink: &Uplink,
    mode: XdpMode,
    folder: &Path,
) -> Result<Option<XdpHook>, DatapathError> {
    let allowed: &[XdpHook] = match mode {
        XdpMode::Auto if is_veth(uplink.index)? => &[],
        XdpMode::Auto => &[XdpHook::Driver, XdpHook::Generic],
        XdpMode::Driver => &[XdpHook::Driver],
        XdpMode::Generic => &[XdpHook::Generic],
        XdpMode::Off => &[],
    };
    for hook in XdpHook::ALL.into_iter().filter(|hook| !allowed.contains(hook)) {
        detach(&folder.join(hook.pin(uplink.index)))?;
    }
    if allowed.is_empty() {
        return Ok(None);
    }
    for hook in allowed {
        if adopt(xdp_program(ebpf, *hook)?, &folder.join(hook.pin(uplink.index))) {
            return Ok(Some(*hook));
        }
    }
    let mut failure = None;
    for hook in allowed {
        let path = folder.join(hook.pin(uplink.index));
        detach(&path)?;
        match attach_at(ebpf, &uplink.name, *hook, &path) {
            Ok(()) => return Ok(Some(*hook)),
            Err(error) => failure = Some(error),
        }
    }
    match (mode, failure) {
        (XdpMode::Auto, Some(error)) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                uplink = uplink.name,
                error,
                "attach XDP to the uplink failed; TC handles its flows"
            );
            Ok(None)
        }
        (_, Some(error)) => Err(error),
        (_, None) => Ok(None),
    }
}

/// Updates the pinned link to this process's program; false: there is no link, or its interface is gone.
fn adopt(program: &mut Xdp, path: &Path) -> bool {
    let pinned = PinnedLink::from_pin(path).ok().map(FdLink::from);
    let link = pinned.and_then(|link| XdpLink::try_from(link).ok());
    link.is_some_and(|link| program.attach_to_link(link).is_ok())
}

/// Attaches the program at the hook and pins its link.
fn attach_at(ebpf: &mut Ebpf, uplink: &str, hook: XdpHook, path: &Path) -> Result<(), DatapathError> {
    let name = hook.program();
    let failed = |source| DatapathError::Program { name, operation: "attach", source };
    let program = xdp_program(ebpf, hook)?;
    let id = program.attach(uplink, hook.flag()).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| DatapathError::Link { name, source })?;
    pins::pin_link(link, path)
}

/// Detaches the pinned link's program and removes the pin; idempotent. Without the explicit detach the kernel frees a link
/// some time after its last pin, and until then accepts no program at another hook.
pub(crate) fn detach(path: &Path) -> Result<(), DatapathError> {
    let failed = DatapathError::file("detach", path);
    match open(path).and_then(|link| bpf(BPF_LINK_DETACH, &(link.as_raw_fd() as u64))) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        _ => pins::remove(path),
    }
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    bpf_fd(BPF_OBJ_GET, &[path.as_ptr() as u64, 0])
}

fn is_veth(index: u32) -> Result<bool, DatapathError> {
    let operation = format!("look up interface {index}");
    let link = netlink::run(None, move |handle| async move {
        let mut links = handle.link().get().match_index(index).execute();
        links.try_next().await.map_err(DatapathError::netlink(operation))
    })?;
    let attributes = link.map(|link| link.attributes).unwrap_or_default();
    Ok(attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    }))
}
