//! Inspection of the loaded programs.
//!
//! In: a program's name, a packet. Out: the verifier's figures, and the results of test runs.

use std::fmt;

use aya::programs::{ProgramError, ProgramFd, TestRun, TestRunOptions, TestRunResult};

use crate::Datapath;
use crate::error::DatapathError;
use crate::object::{classifier, static_name, xdp_program};
use crate::xdp_hook::XdpHook;

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
        let name = static_name(program);
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
            let context = at.context();
            run(classifier(&mut self.ebpf, name)?, packet, Some(&context), &mut out, repeat)
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
