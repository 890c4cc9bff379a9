//! Programs that the kernel has verified already.
//!
//! In: the object, its constants, the pinned maps. Out: the programs pinned in a folder that is named by all of that. A later
//! process of the same build adopts them all or none: the verifier would take most of its start.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::{
    CgroupSock, CgroupSockAddr, CgroupSockAddrAttachType, CgroupSockAttachType, Program, ProgramError,
    SchedClassifier, Xdp,
};
use aya::{Ebpf, pin::PinError};
use aya_obj::programs::xdp::XdpAttachType;
use skep_abi::MAPS;

use crate::error::DatapathError;
use crate::pins;

/// See the module.
pub(crate) struct ProgramPins {
    /// Exists only when it has every program that this kernel loads.
    folder: PathBuf,
    /// Becomes the folder when it is complete.
    incomplete: PathBuf,
}

impl ProgramPins {
    /// To be called once the maps are pinned: the programs hold them by their identifiers in the kernel, which no other map gets
    /// while a program has them. Removes the pins of all other programs; those that links attach stay until the links have others.
    pub(crate) fn of(
        bpffs: &Path,
        object: &[u8],
        globals: &[(&str, Vec<u8>)],
    ) -> Result<Self, DatapathError> {
        let mut hasher = DefaultHasher::new();
        (env!("CARGO_PKG_VERSION"), object, globals).hash(&mut hasher);
        for (name, _) in MAPS {
            let map = MapData::from_pin(pins::maps(bpffs).join(name));
            let info = map.and_then(|map| map.info());
            info.map_err(DatapathError::map(name, "open"))?.id().hash(&mut hasher);
        }
        let all = pins::folder(bpffs).join("programs");
        let folder = all.join(format!("{:016x}", hasher.finish()));
        fs::create_dir_all(&all).map_err(DatapathError::file("create", &all))?;
        for other in fs::read_dir(&all).map_err(DatapathError::file("list", &all))?.flatten() {
            if other.path() != folder {
                pins::remove_folder(&other.path())?;
            }
        }
        Ok(ProgramPins { folder, incomplete: all.join("incomplete") })
    }

    /// Makes the pinned programs those of the object; `false`: they are to be loaded, and nothing has changed.
    pub(crate) fn adopt(&self, ebpf: &mut Ebpf) -> bool {
        if !self.folder.is_dir() {
            return false;
        }
        let mut adopted = Vec::new();
        for (name, program) in ebpf.programs() {
            match pinned(program, name, &self.folder.join(name)) {
                Ok(found) => adopted.extend(found.map(|found| (name.to_owned(), found))),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(program = name, error, "open pinned program failed");
                    return false;
                }
            }
        }
        for (name, found) in adopted {
            if let Some(program) = ebpf.program_mut(&name) {
                *program = found;
            }
        }
        true
    }

    /// Pins the loaded programs. Without the pins the next process has them verified again.
    pub(crate) fn keep(&self, ebpf: &mut Ebpf) {
        if let Err(error) = self.pin_all(ebpf) {
            let source = std::error::Error::source(&error);
            tracing::warn!(%error, ?source, "pin programs failed");
        }
    }

    fn pin_all(&self, ebpf: &mut Ebpf) -> Result<(), DatapathError> {
        let Self { folder, incomplete } = self;
        pins::remove_folder(folder)?;
        pins::remove_folder(incomplete)?;
        fs::create_dir(incomplete).map_err(DatapathError::file("create", incomplete))?;
        for (name, program) in ebpf.programs_mut() {
            if program.fd().is_ok() {
                let path = incomplete.join(name);
                pin(program, &path).map_err(|source| DatapathError::Pin { path, source })?;
            }
        }
        fs::rename(incomplete, folder).map_err(DatapathError::file("rename", incomplete))
    }
}

fn pin(program: &mut Program, path: &Path) -> Result<(), PinError> {
    match program {
        Program::SchedClassifier(program) => program.pin(path),
        Program::CgroupSockAddr(program) => program.pin(path),
        Program::CgroupSock(program) => program.pin(path),
        Program::Xdp(program) => program.pin(path),
        _ => Ok(()),
    }
}

/// The pinned program of the same kind; `None`: one for XDP that the kernel did not load with the others, and would not now.
fn pinned(program: &Program, name: &str, path: &Path) -> Result<Option<Program>, ProgramError> {
    let found = match program {
        Program::SchedClassifier(_) => SchedClassifier::from_pin(path).map(Program::SchedClassifier),
        Program::CgroupSockAddr(_) => match address_hook(name) {
            Some(hook) => CgroupSockAddr::from_pin(path, hook).map(Program::CgroupSockAddr),
            None => return Ok(None),
        },
        Program::CgroupSock(_) => {
            CgroupSock::from_pin(path, CgroupSockAttachType::SockRelease).map(Program::CgroupSock)
        }
        Program::Xdp(_) => Xdp::from_pin(path, XdpAttachType::Interface).map(Program::Xdp),
        _ => return Ok(None),
    };
    match (found, program) {
        (Err(ProgramError::SyscallError(error)), Program::Xdp(_))
            if error.io_error.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        (found, _) => found.map(Some),
    }
}

fn address_hook(name: &str) -> Option<CgroupSockAddrAttachType> {
    Some(match name {
        "cgroup_connect4" => CgroupSockAddrAttachType::Connect4,
        "cgroup_connect6" => CgroupSockAddrAttachType::Connect6,
        "cgroup_sendmsg4" => CgroupSockAddrAttachType::UDPSendMsg4,
        "cgroup_sendmsg6" => CgroupSockAddrAttachType::UDPSendMsg6,
        "cgroup_recvmsg4" => CgroupSockAddrAttachType::UDPRecvMsg4,
        "cgroup_recvmsg6" => CgroupSockAddrAttachType::UDPRecvMsg6,
        "cgroup_getpeer4" => CgroupSockAddrAttachType::GetPeerName4,
        "cgroup_getpeer6" => CgroupSockAddrAttachType::GetPeerName6,
        _ => return None,
    })
}
