//! Many entries of a map of maps in one system call.
//!
//! After each change of a map of maps the kernel waits until every running program has ended (`synchronize_rcu`, about
//! 10 ms); for a batch it waits once. A change of policy touches a place for every pod that is under one.

use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{MapData, MapError};
use skep_abi::SLOTS_MAX;
use skep_netplan::{VerdictMapId, Write};

use crate::maps::Maps;

const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// `struct { ... } batch` of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl Maps {
    /// Does as many as it can of the puts, or of the deletes, of verdicts that `writes` begins with; returns how many.
    /// What it leaves over, for whatever reason, is done or refused one by one.
    pub(crate) fn write_verdicts(&self, writes: &[Write]) -> usize {
        let puts = || writes.iter().map_while(put).filter(|(index, _)| *index < 2 * SLOTS_MAX);
        let deletes: Vec<u32> = writes.iter().map_while(delete).collect();
        if deletes.len() > 1 {
            return call(BPF_MAP_DELETE_BATCH, &self.verdicts_data, &deletes, &[]);
        }
        if puts().nth(1).is_none() {
            return 0;
        }
        let opened: Result<Vec<(u32, MapData)>, MapError> =
            puts().map(|(index, map)| Ok((index, MapData::from_pin(self.verdict_pin(map))?))).collect();
        let Ok(opened) = opened else { return 0 };
        let keys: Vec<u32> = opened.iter().map(|(index, _)| *index).collect();
        let values: Vec<i32> = opened.iter().map(|(_, map)| map.fd().as_fd().as_raw_fd()).collect();
        call(BPF_MAP_UPDATE_BATCH, &self.verdicts_data, &keys, &values)
    }
}

fn put(write: &Write) -> Option<(u32, VerdictMapId)> {
    match write {
        Write::PutVerdicts { index, map } => Some((*index, *map)),
        _ => None,
    }
}

fn delete(write: &Write) -> Option<u32> {
    match write {
        Write::DeleteVerdicts { index } => Some(*index),
        _ => None,
    }
}

/// How many entries, from the first on, were done. `values` is as long as `keys`, or unused by the command.
fn call(command: libc::c_int, map: &MapData, keys: &[u32], values: &[i32]) -> usize {
    let mut attributes = Attributes {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command and live over the call; `keys` holds `count` keys of the map's
    // four bytes, and so does `values` where the command reads them; the kernel writes only to `count`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes>()) };
    let done = attributes.count as usize;
    match result {
        0.. => keys.len(),
        // Refused before the first entry, the count stays as it was.
        _ if done >= keys.len() => 0,
        _ => done,
    }
}
