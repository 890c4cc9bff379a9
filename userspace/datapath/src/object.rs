//! The embedded BPF object.
//!
//! In: the object that `cargo xtask build-ebpf` made. Out: its maps pinned by name, its programs verified and loaded.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use aya::programs::{CgroupSock, CgroupSockAddr, Program, SchedClassifier, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use ipnetwork::IpNetwork;
use skep_abi::logic::lifetime::Timeouts;
use skep_abi::{Addr, MAPS, SNAT_PORT_MAX};

use crate::config::{ProgramLogLevel, SocketLb};
use crate::error::DatapathError;
use crate::flow_table::FlowTable;
use crate::program_pins::ProgramPins;
use crate::xdp_hook::XdpHook;
use crate::{grow, pins, verdicts};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_BPF_OBJECT"));

/// Helpers of the kernel that not every supported version has. Without one, the code that calls it is dead when the verifier
/// looks at the programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Helpers {
    /// `bpf_loop` is of Linux 5.17; without it few source ports are tried for a flow.
    has_loop: bool,
    /// `bpf_set_retval` is of Linux 5.18; without it a refused connect fails with EPERM.
    has_set_retval: bool,
}

impl Helpers {
    pub(crate) fn of_kernel() -> Helpers {
        let since =
            |minor| KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(5, minor, 0));
        Helpers { has_loop: since(17), has_set_retval: since(18) }
    }
}

/// What the programs know from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constants {
    /// Index of the pace link's near end, or 0.
    pub(crate) pace: u32,
    /// The first source port for masquerading.
    pub(crate) first_port: u16,
    pub(crate) flows: FlowTable,
    pub(crate) helpers: Helpers,
    pub(crate) timeouts: Timeouts,
    pub(crate) pod_new_flows: u32,
    pub(crate) socket_lb: SocketLb,
    pub(crate) service_nets: ServiceNets,
    /// Whether `EXEMPTIONS` has entries.
    pub(crate) has_exemptions: bool,
    pub(crate) program_log: ProgramLogLevel,
    /// See [`skep_abi::Omission`].
    pub(crate) omitted: u32,
}

/// Of each family the words of the network's address, then of its mask, as the programs compare them.
pub(crate) type ServiceNets = [[u32; 8]; 2];

/// Without a mask no address is in it.
const NO_NET: [u32; 8] = [1, 0, 0, 0, 0, 0, 0, 0];

/// The last network of each family counts.
pub(crate) fn service_nets(cidrs: &[IpNetwork]) -> ServiceNets {
    let mut nets = [NO_NET; 2];
    for cidr in cidrs {
        let bits = u32::from(cidr.prefix()) + if cidr.is_ipv4() { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes();
        let mut words = [0; 8];
        for (word, bytes) in words[4..].iter_mut().zip(mask.chunks_exact(4)) {
            *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
        }
        words[..4].copy_from_slice(&Addr::from(cidr.network()).0);
        nets[usize::from(cidr.is_ipv4())] = words;
    }
    nets
}

/// Loads the object; `None`: the embedded one.
pub(crate) fn load(object: Option<&[u8]>, bpffs: &Path, constants: Constants) -> Result<Ebpf, DatapathError> {
    let globals = globals(&constants);
    let mut ebpf = load_maps(object.unwrap_or(OBJECT), bpffs, &constants.flows, &globals)?;
    // What a benchmark measures is its own, and lines of the log come by a map that a process has for itself.
    if object.is_some() || constants.program_log != ProgramLogLevel::Off {
        load_programs(&mut ebpf)?;
        return Ok(ebpf);
    }
    let pins = ProgramPins::of(bpffs, OBJECT, &globals)?;
    if !pins.adopt(&mut ebpf) {
        load_programs(&mut ebpf)?;
        pins.keep(&mut ebpf);
    }
    // Adopted programs have their own of the maps that are not pinned, and these programs write no lines.
    let names = ebpf.maps().map(|(name, _)| name.to_owned());
    let own: Vec<String> = names.filter(|name| MAPS.iter().all(|(pinned, _)| pinned != name)).collect();
    own.iter().for_each(|name| drop(ebpf.take_map(name)));
    Ok(ebpf)
}

/// The constants as the programs read them, by name.
type Globals = Vec<(&'static str, Vec<u8>)>;

fn globals(constants: &Constants) -> Globals {
    let Constants { pace, first_port, flows, helpers, program_log, omitted, .. } = constants;
    let Constants { timeouts, pod_new_flows, socket_lb, service_nets, has_exemptions, .. } = constants;
    let FlowTable { openers, pod_share, outside_share, .. } = flows;
    let Helpers { has_loop, has_set_retval } = helpers;
    let ports = u32::from(*first_port) << 16 | u32::from(SNAT_PORT_MAX);
    vec![
        (aya_log::LEVEL, bytes(&program_log.code())),
        ("PACE", bytes(pace)),
        ("OMITTED", bytes(omitted)),
        ("HAS_LOOP", bytes(&u32::from(*has_loop))),
        ("SET_RETVAL", bytes(&u32::from(*has_set_retval))),
        ("SERVICE_NETS", bytes(service_nets)),
        ("HAS_EXEMPTIONS", bytes(&u32::from(*has_exemptions))),
        ("HOST_ONLY", bytes(&u32::from(*socket_lb == SocketLb::Host))),
        ("SNAT_PORTS", bytes(&ports)),
        ("TIMEOUTS", bytes(timeouts)),
        ("POD_NEW_FLOWS", bytes(pod_new_flows)),
        ("OPENERS_LEN", bytes(openers)),
        ("POD_SHARE", bytes(pod_share)),
        ("OUTSIDE_SHARE", bytes(outside_share)),
    ]
}

fn bytes<T: aya::Pod>(value: &T) -> Vec<u8> {
    // SAFETY: a value of plain data can be read as its bytes, all of which are initialised.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

/// Makes the maps, or opens the pinned ones; the programs are still to be loaded.
fn load_maps(
    object: &[u8],
    bpffs: &Path,
    flows: &FlowTable,
    globals: &Globals,
) -> Result<Ebpf, DatapathError> {
    let FlowTable { entries, openers, sockets, affinity, .. } = *flows;
    let folder = pins::maps(bpffs);
    std::fs::create_dir_all(folder.join("verdicts")).map_err(DatapathError::file("create", &folder))?;
    on_bpffs(&folder)?;
    verdicts::create(&folder.join("VERDICTS"))?;
    grow::cluster(&folder)?;
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value.as_slice(), true);
    }
    loader.map_max_entries("CONNTRACK", entries);
    loader.map_max_entries("OPENERS", openers);
    loader.map_max_entries("SOCKETS", sockets);
    loader.map_max_entries("AFFINITY", affinity);
    for (name, _) in MAPS {
        loader.map_pin_path(name, folder.join(name));
    }
    Ok(loader.load(object)?)
}

/// Loads all programs, on all processors: the verifier takes most of an agent's first start.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let programs = Mutex::new(ebpf.programs_mut());
    let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((name, program)) = next() {
            load_program(name, program)?;
        }
        Ok(())
    };
    let threads = available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let loads: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = loads.into_iter().map(|load| load.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    })
}

fn load_program(name: &str, program: &mut Program) -> Result<(), DatapathError> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        // Before Linux 5.18 there is no XDP for multi-buffer frames, so none in the driver.
        Program::Xdp(program) => {
            if let Err(error) = program.load() {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(program = name, error, "load XDP program failed");
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    loaded.map_err(|source| DatapathError::Program { name: static_name(name), operation: "verify", source })
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

/// The program of sockets that are closed.
pub(crate) const RELEASE_HOOK: &str = "cgroup_release";

/// The program's name for errors, which carry a static one.
pub(crate) fn static_name(name: &str) -> &'static str {
    CLASSIFIERS
        .iter()
        .chain(&SOCKET_HOOKS)
        .chain(&[RELEASE_HOOK])
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

pub(crate) fn release_hook(ebpf: &mut Ebpf) -> Result<&mut CgroupSock, DatapathError> {
    let name = RELEASE_HOOK;
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    program.try_into().map_err(|source| DatapathError::Program { name, operation: "find", source })
}

pub(crate) fn xdp_program(ebpf: &mut Ebpf, hook: XdpHook) -> Result<&mut Xdp, DatapathError> {
    let name = hook.program();
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing { what: "program", name })?;
    program.try_into().map_err(|source| DatapathError::Program { name, operation: "find", source })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use aya::programs::ProgramError;
    use skep_abi::Omission;

    use super::*;
    use crate::test_bpffs::TestBpffs;

    /// The last one of Linux 5.15, `bpf_task_pt_regs`.
    const LAST_HELPER: i32 = 175;
    /// No kernel has a helper with this number.
    const NO_HELPER: i32 = i32::MAX;
    const SHF_EXECINSTR: u64 = 4;
    /// The first bytes of an instruction that calls a helper: BPF_JMP | BPF_CALL, no registers, no offset.
    const CALL: [u8; 4] = [0x85, 0, 0, 0];

    fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..at + N].try_into().unwrap()
    }

    /// Gives each call of a newer helper a number that the verifier does not know; returns the helpers.
    fn take_newer_helpers(object: &mut [u8]) -> BTreeSet<i32> {
        let mut taken = BTreeSet::new();
        // Fields of the ELF header and of section headers.
        let sections = u64::from_le_bytes(number(object, 40)) as usize;
        let (size, count) = (
            u16::from_le_bytes(number(object, 58)) as usize,
            u16::from_le_bytes(number(object, 60)) as usize,
        );
        for header in (0..count).map(|i| sections + i * size) {
            let field = |at| u64::from_le_bytes(number(object, header + at));
            if field(8) & SHF_EXECINSTR == 0 {
                continue;
            }
            let (start, len) = (field(24) as usize, field(32) as usize);
            for instruction in object[start..start + len].chunks_exact_mut(8) {
                let helper = i32::from_le_bytes(number(instruction, 4));
                if instruction[..4] == CALL && helper > LAST_HELPER {
                    taken.insert(helper);
                    instruction[4..].copy_from_slice(&NO_HELPER.to_le_bytes());
                }
            }
        }
        taken
    }

    fn constants(bpffs: &Path, pace: u32, helpers: Helpers) -> Constants {
        Constants {
            pace,
            first_port: SNAT_PORT_MAX - 1,
            flows: FlowTable::of(&pins::maps(bpffs), 65_536).unwrap(),
            helpers,
            timeouts: Timeouts::DEFAULT,
            pod_new_flows: 1,
            socket_lb: SocketLb::All,
            service_nets: service_nets(&[]),
            has_exemptions: true,
            program_log: ProgramLogLevel::Off,
            omitted: Omission::NOTHING,
        }
    }

    /// Identifiers in the kernel, by name.
    fn ids(ebpf: &Ebpf) -> BTreeMap<String, u32> {
        ebpf.programs().map(|(name, program)| (name.to_owned(), program.info().unwrap().id())).collect()
    }

    #[test]
    fn verified_programs_are_adopted_whole_and_only_with_the_same_constants_and_maps() {
        let bpffs = TestBpffs::mount("program-pins");
        let load = |pace| {
            ids(&load(None, bpffs.path(), constants(bpffs.path(), pace, Helpers::of_kernel())).unwrap())
        };
        let is_other = |a: &BTreeMap<_, u32>, b: &BTreeMap<_, u32>| a.iter().all(|(name, id)| b[name] != *id);
        let folders = || std::fs::read_dir(pins::folder(bpffs.path()).join("programs")).unwrap().flatten();
        let first = load(0);
        assert_eq!(load(0), first);
        let paced = load(1);
        assert!(is_other(&paced, &first));
        assert_eq!(folders().count(), 1, "the pins of the first are gone");
        assert_eq!(load(1), paced);
        // A map that is another one by the same name.
        std::fs::remove_file(pins::maps(bpffs.path()).join("NODES")).unwrap();
        let with_map = load(1);
        assert!(is_other(&with_map, &paced));
        // What has not all programs is not adopted, and completed.
        std::fs::remove_file(folders().next().unwrap().path().join("tc_delay")).unwrap();
        let complete = load(1);
        assert!(is_other(&complete, &with_map));
        assert_eq!(load(1), complete);
        assert_eq!(folders().count(), 1);
    }

    #[test]
    fn the_programs_load_where_no_helper_is_newer_than_linux_5_15() {
        let mut object = OBJECT.to_vec();
        // bpf_loop, bpf_set_retval, bpf_skb_set_tstamp.
        assert_eq!(take_newer_helpers(&mut object), BTreeSet::from([181, 187, 192]));
        let load = |pace, helpers| {
            let bpffs = TestBpffs::mount("helpers");
            let constants = constants(bpffs.path(), pace, helpers);
            let mut ebpf = load_maps(&object, bpffs.path(), &constants.flows, &globals(&constants))?;
            load_programs(&mut ebpf).map(|()| ebpf)
        };
        let loaded = load(0, Helpers { has_loop: false, has_set_retval: false }).unwrap();
        for (name, program) in loaded.programs() {
            assert!(!matches!(program.info(), Err(ProgramError::NotLoaded)), "{name}");
        }
        // The verifier does meet the calls when they are not dead.
        for (pace, has_loop, has_set_retval) in [(1, false, false), (0, true, false), (0, false, true)] {
            assert!(load(pace, Helpers { has_loop, has_set_retval }).is_err());
        }
    }
}
