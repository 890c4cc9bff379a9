//! The embedded BPF object: maps pinned by name, programs through the verifier.

use std::fmt;
use std::path::{Path, PathBuf};

use aya::programs::{
    CgroupSockAddr, Program, ProgramError, ProgramFd, SchedClassifier, TestRun, TestRunOptions,
    TestRunResult, Xdp,
};
use aya::{Ebpf, EbpfLoader};
use skep_abi::{ABI_VERSION, MAPS};

use crate::error::DatapathError;
use crate::verdicts;
use crate::xdp::XdpHook;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_BPF_OBJECT"));

/// A program and how many instructions the verifier looked at; none if the kernel does not take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub program: String,
    pub instructions: Option<u32>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instructions {
            Some(instructions) => write!(f, "{}: {instructions} instructions verified", self.program),
            None => write!(f, "{}: not taken by the kernel", self.program),
        }
    }
}

/// The folder of everything that this ABI pins.
pub(crate) fn pins(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{ABI_VERSION}"))
}

/// `pace`: the link on which packets wait for their rate, or 0.
pub(crate) fn load(bpffs: &Path, pace: u32) -> Result<Ebpf, DatapathError> {
    let folder = pins(bpffs).join("maps");
    std::fs::create_dir_all(folder.join("verdicts")).map_err(DatapathError::file("create", &folder))?;
    on_bpffs(&folder)?;
    verdicts::make(&folder.join("VERDICTS"))?;
    let mut loader = EbpfLoader::new();
    loader.override_global("PACE", &pace, true);
    for (name, _) in MAPS {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut ebpf = loader.load(OBJECT)?;
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            // Before 5.18 there is no XDP for frames of several buffers, so none in the driver.
            Program::Xdp(program) => {
                if let Err(error) = program.load() {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(name, error, "the kernel does not take the XDP program");
                }
                continue;
            }
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
pub(crate) const CLASSIFIERS: [&str; 6] =
    ["tc_pod_egress", "tc_pod_ingress", "tc_node_ingress", "tc_node_egress", "tc_host_egress", "tc_delay"];
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

impl crate::Datapath {
    /// What the verifier of this kernel saw of each program. Linux before 5.16 does not tell numbers: they are 0.
    pub fn verified(&self) -> Result<Vec<Verified>, DatapathError> {
        let mut all = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let instructions = match program.info() {
                Ok(info) => Some(info.verified_instruction_count().unwrap_or(0)),
                Err(ProgramError::NotLoaded) => None,
                Err(source) => {
                    let (name, operation) = (leak_known(name), "read the information of");
                    return Err(DatapathError::Program { name, operation, source });
                }
            };
            all.push(Verified { program: name.to_owned(), instructions });
        }
        all.sort_by(|a, b| a.program.cmp(&b.program));
        Ok(all)
    }

    /// A loaded program, for what measures it by calling it.
    pub fn program_fd(&self, program: &str) -> Result<&ProgramFd, DatapathError> {
        let name = leak_known(program);
        let program = self.ebpf.program(name).ok_or(DatapathError::Missing { what: "program", name })?;
        program.fd().map_err(|source| DatapathError::Program { name, operation: "find", source })
    }

    /// Runs a program over a packet by BPF_PROG_TEST_RUN, `repeat` times: action, packet, nanoseconds a run. The packet
    /// of a run is what the run before made of it. To XDP it comes from the uplink.
    pub fn test_run(
        &mut self,
        program: &str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(u32, Vec<u8>, u64), DatapathError> {
        let name = leak_known(program);
        let failed = |source| DatapathError::Program { name, operation: "test run", source };
        let mut out = vec![0; packet.len() + 256];
        let hook = XdpHook::ALL.into_iter().find(|hook| hook.program() == name);
        let result = if let Some(hook) = hook {
            let uplink = self.maps.config.get(&0, 0).map_err(DatapathError::map("CONFIG", "read"))?.uplink;
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            let words = [0, packet.len() as u32, 0, uplink, 0, 0];
            let context = words.map(u32::to_ne_bytes).concat();
            run(xdp_program(&mut self.ebpf, hook)?, packet, Some(&context), &mut out, repeat)
        } else {
            run(classifier(&mut self.ebpf, name)?, packet, None, &mut out, repeat)
        };
        let result = result.map_err(failed)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out, result.duration.as_nanos() as u64))
    }
}

fn run<P>(
    program: &P,
    packet: &[u8],
    context: Option<&[u8]>,
    out: &mut [u8],
    repeat: u32,
) -> Result<TestRunResult, ProgramError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    program.test_run(TestRunOptions {
        data_in: Some(packet),
        data_out: Some(out),
        ctx_in: context,
        repeat,
        ..TestRunOptions::default()
    })
}
