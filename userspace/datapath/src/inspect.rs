//! Inspection of the loaded programs.
//!
//! In: a program's name, a packet. Out: the verifier's figures, and the results of test runs.

use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use aya::programs::{ProgramError, ProgramFd};
use aya::sys::SyscallError;

use crate::Datapath;
use crate::error::DatapathError;
use crate::object::static_name;
use crate::syscall::bpf;
use crate::xdp_hook::XdpHook;

/// A command of bpf(2), and a flag of it.
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// A program and the number of instructions that the verifier processed; `None`: the kernel rejected the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The program's name.
    pub program: String,
    /// Instructions that the verifier processed.
    pub instructions: Option<u32>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instructions {
            Some(instructions) => write!(f, "{}: {instructions} instructions verified", self.program),
            None => write!(f, "{}: rejected by the kernel", self.program),
        }
    }
}

/// Where a classifier runs, by interface indexes; 0: the loopback interface's program, and the node's own packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The interface that the program is on.
    pub interface: u32,
    /// The interface by which the packet came to the node.
    pub came_by: u32,
}

impl At {
    /// The start of `struct __sk_buff`: `ingress_ifindex` and `ifindex` are its tenth and eleventh word.
    fn context(self) -> Vec<u8> {
        let words = [0, 0, 0, 0, 0, 0, 0, 0, 0, self.came_by, self.interface];
        words.map(u32::to_ne_bytes).concat()
    }
}

impl Datapath {
    /// Every program by name, with this kernel's figures. Linux before 5.16 reports no numbers: they are 0.
    pub fn verified(&self) -> Result<Vec<Verified>, DatapathError> {
        let mut all = Vec::new();
        for (name, program) in self.ebpf.programs() {
            let instructions = match program.info() {
                Ok(info) => Some(info.verified_instruction_count().unwrap_or(0)),
                Err(ProgramError::NotLoaded) => None,
                Err(source) => {
                    let (name, operation) = (static_name(name), "read information");
                    return Err(DatapathError::Program { name, operation, source });
                }
            };
            all.push(Verified { program: name.to_owned(), instructions });
        }
        all.sort_by(|a, b| a.program.cmp(&b.program));
        Ok(all)
    }

    /// The descriptor of a loaded program, for a benchmark that calls it.
    pub fn program_fd(&self, program: &str) -> Result<&ProgramFd, DatapathError> {
        let name = static_name(program);
        let program = self.ebpf.program(name).ok_or(DatapathError::Missing { what: "program", name })?;
        program.fd().map_err(|source| DatapathError::Program { name, operation: "find", source })
    }

    /// Runs a program over a packet by BPF_PROG_TEST_RUN, `repeat` times: action, packet, nanoseconds for each run. A run
    /// starts with the packet that the run before it left. For XDP the packet comes from the uplink.
    pub fn test_run(
        &mut self,
        program: &str,
        packet: &[u8],
        repeat: u32,
    ) -> Result<(u32, Vec<u8>, u64), DatapathError> {
        self.test_run_at(program, packet, At::default(), repeat)
    }

    /// As [`Datapath::test_run`], with the interfaces that a classifier finds. The calling thread's network namespace has
    /// them.
    pub fn test_run_at(
        &mut self,
        program: &str,
        packet: &[u8],
        at: At,
        repeat: u32,
    ) -> Result<(u32, Vec<u8>, u64), DatapathError> {
        self.run(program, packet, at, repeat, 0)
    }

    /// One run over a packet that the card has summed up (CHECKSUM_COMPLETE). It fails with EBADMSG if the program leaves a sum
    /// that is not the packet's. For classifiers, on Linux 6.11 and newer.
    pub fn test_run_summed(
        &mut self,
        program: &str,
        packet: &[u8],
        at: At,
    ) -> Result<(u32, Vec<u8>), DatapathError> {
        let (action, out, _) = self.run(program, packet, at, 1, BPF_F_TEST_SKB_CHECKSUM_COMPLETE)?;
        Ok((action, out))
    }

    fn run(
        &self,
        program: &str,
        packet: &[u8],
        at: At,
        repeat: u32,
        flags: u32,
    ) -> Result<(u32, Vec<u8>, u64), DatapathError> {
        let name = static_name(program);
        let mut out = vec![0; packet.len() + 256];
        let is_xdp = XdpHook::ALL.into_iter().any(|hook| hook.program() == name);
        let context = if is_xdp {
            let uplink = self.maps.config.get(&0, 0).map_err(DatapathError::map("CONFIG", "read"))?.uplink;
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            let words = [0, packet.len() as u32, 0, uplink, 0, 0];
            words.map(u32::to_ne_bytes).concat()
        } else {
            at.context()
        };
        let run = TestRun {
            prog_fd: self.program_fd(program)?.as_fd().as_raw_fd() as u32,
            data_size_in: packet.len() as u32,
            data_size_out: Cell::new(out.len() as u32),
            data_in: packet.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat,
            ctx_size_in: context.len() as u32,
            ctx_in: context.as_ptr() as u64,
            flags,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &run).map_err(|io_error| {
            let source = SyscallError { call: "bpf_prog_test_run", io_error }.into();
            DatapathError::Program { name, operation: "test run", source }
        })?;
        out.truncate(run.data_size_out.get() as usize);
        Ok((run.retval.get(), out, run.duration.get().into()))
    }
}

/// The fields of `union bpf_attr` for BPF_PROG_TEST_RUN. The kernel writes to cells and to the memory of `data_out`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: Cell<u32>,
    data_size_in: u32,
    data_size_out: Cell<u32>,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    /// Nanoseconds for each run.
    duration: Cell<u32>,
    ctx_size_in: u32,
    ctx_size_out: Cell<u32>,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}
