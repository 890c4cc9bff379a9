//! The embedded BPF object.
//!
//! In: the object that `cargo xtask build-ebpf` made. Out: its maps pinned by name, its programs verified and loaded.

use std::path::Path;

use aya::programs::{CgroupSockAddr, Program, SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use skep_abi::MAPS;

use crate::error::DatapathError;
use crate::xdp_hook::XdpHook;
use crate::{grow, pins, verdicts};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_BPF_OBJECT"));

/// Loads the object. `pace` is the index of the pace link's near end, or 0.
pub(crate) fn load(bpffs: &Path, pace: u32) -> Result<Ebpf, DatapathError> {
    let folder = pins::maps(bpffs);
    std::fs::create_dir_all(folder.join("verdicts")).map_err(DatapathError::file("create", &folder))?;
    on_bpffs(&folder)?;
    verdicts::create(&folder.join("VERDICTS"))?;
    grow::cluster(&folder)?;
    let mut loader = EbpfLoader::new();
    loader.override_global("PACE", &pace, true);
    // `bpf_set_retval` is of Linux 5.18; without it a refused connect fails with EPERM.
    let set_retval = KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, 18, 0));
    let set_retval = u32::from(set_retval);
    loader.override_global("SET_RETVAL", &set_retval, true);
    for (name, _) in MAPS {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut ebpf = loader.load(OBJECT)?;
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            // Before Linux 5.18 there is no XDP for multi-buffer frames, so none in the driver.
            Program::Xdp(program) => {
                if let Err(error) = program.load() {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(program = name, error, "load XDP program failed");
                }
                continue;
            }
            _ => continue,
        };
        let name: String = name.into();
        loaded.map_err(|source| DatapathError::Program {
            name: static_name(&name),
            operation: "verify",
            source,
        })?;
    }
    Ok(ebpf)
}

fn on_bpffs(folder: &Path) -> Result<(), DatapathError> {
    let found = rustix::fs::statfs(folder).map_err(|e| DatapathError::file("stat", folder)(e.into()))?;
    if found.f_type as libc::c_long == libc::BPF_FS_MAGIC as libc::c_long {
        return Ok(());
    }
    Err(DatapathError::NoBpffs { path: folder.to_owned() })
}

/// The TC programs by name.
pub(crate) const CLASSIFIERS: [&str; 6] =
    ["tc_pod_egress", "tc_pod_ingress", "tc_node_ingress", "tc_node_egress", "tc_host_egress", "tc_delay"];
/// The socket programs by name.
pub(crate) const SOCKET_HOOKS: [&str; 8] = [
    "cgroup_connect4",
    "cgroup_connect6",
    "cgroup_sendmsg4",
    "cgroup_sendmsg6",
    "cgroup_recvmsg4",
    "cgroup_recvmsg6",
    "cgroup_getpeer4",
    "cgroup_getpeer6",
];

/// The program's name for errors, which carry a static one.
pub(crate) fn static_name(name: &str) -> &'static str {
    CLASSIFIERS
        .iter()
        .chain(&SOCKET_HOOKS)
        .chain(&XdpHook::ALL.map(XdpHook::program))
        .find(|known| **known == name)
        .copied()
        .unwrap_or("(unknown)")
}

pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    program.try_into().map_err(|source| DatapathError::Program { name, operation: "find", source })
}

pub(crate) fn socket_hook<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, DatapathError> {
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    program.try_into().map_err(|source| DatapathError::Program { name, operation: "find", source })
}

pub(crate) fn xdp_program(ebpf: &mut Ebpf, hook: XdpHook) -> Result<&mut Xdp, DatapathError> {
    let name = hook.program();
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    program.try_into().map_err(|source| DatapathError::Program { name, operation: "find", source })
}
