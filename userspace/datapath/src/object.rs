//! The embedded BPF object: maps pinned by name, programs through the verifier.

use std::path::{Path, PathBuf};

use aya::programs::{CgroupSockAddr, Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use skep_abi::ABI_VERSION;

use crate::error::DatapathError;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_BPF_OBJECT"));

/// Maps that outlive the process.
const PINNED: [&str; 16] = [
    "AFFINITY",
    "BACKENDS",
    "CLASSES_EVEN",
    "CLASSES_ODD",
    "CLUSTER",
    "CONFIG",
    "CONNTRACK",
    "DROPS",
    "FLOWS",
    "FRAGMENTS",
    "MAGLEV",
    "PODS",
    "RANGES",
    "SERVICES",
    "SOCKETS",
    "VERDICTS",
];

/// A program and how many instructions the verifier looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub program: String,
    pub instructions: u32,
}

/// The folder of everything that this ABI pins.
pub(crate) fn pins(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{ABI_VERSION}"))
}

pub(crate) fn load(bpffs: &Path) -> Result<Ebpf, DatapathError> {
    let folder = pins(bpffs).join("maps");
    std::fs::create_dir_all(folder.join("verdicts")).map_err(DatapathError::file("create", &folder))?;
    on_bpffs(&folder)?;
    let mut loader = EbpfLoader::new();
    for name in PINNED {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut ebpf = loader.load(OBJECT)?;
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => continue,
        };
        let name: String = name.into();
        loaded.map_err(|source| DatapathError::Program {
            name: leak_known(&name),
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

/// The programs by name, for errors that carry a static name.
pub(crate) const CLASSIFIERS: [&str; 4] =
    ["tc_pod_egress", "tc_pod_ingress", "tc_node_ingress", "tc_node_egress"];
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

fn leak_known(name: &str) -> &'static str {
    CLASSIFIERS.iter().chain(&SOCKET_HOOKS).find(|known| **known == name).copied().unwrap_or("(unknown)")
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

impl crate::Datapath {
    /// What the verifier of this kernel saw of each program.
    pub fn verified(&self) -> Result<Vec<Verified>, DatapathError> {
        let mut all = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let info = program.info().map_err(|source| DatapathError::Program {
                name: leak_known(name),
                operation: "read the information of",
                source,
            })?;
            all.push(Verified {
                program: name.to_owned(),
                instructions: info.verified_instruction_count().unwrap_or(0),
            });
        }
        all.sort_by(|a, b| a.program.cmp(&b.program));
        Ok(all)
    }

    /// One run of a classifier over a packet by BPF_PROG_TEST_RUN, `repeat` times: action, packet, nanoseconds a run.
    pub fn test_run(
        &mut self,
        program: &str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(u32, Vec<u8>, u64), DatapathError> {
        use aya::programs::{TestRun, TestRunOptions};
        let name = leak_known(program);
        let failed = |source| DatapathError::Program { name, operation: "test run", source };
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        };
        let result = classifier(&mut self.ebpf, name)?.test_run(options).map_err(failed)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out, result.duration.as_nanos() as u64))
    }
}
