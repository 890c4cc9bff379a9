//! Many entries of a map in one system call.
//!
//! After each change of a map of maps the kernel waits until every running program has ended (`synchronize_rcu`, about
//! 10 ms); for a batch it waits once. A change of policy touches a place for every pod that is under one. Services come
//! by the thousand at the start, where entering the kernel for each costs as much as writing it.

use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::{IterableMap as _, MapData, MapError};
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
    /// Does as many as it can of the writes of one kind that `writes` begins with; returns how many. What it leaves
    /// over, for whatever reason, is done or refused one by one.
    pub(crate) fn write_batch(&self, writes: &[Write]) -> usize {
        match writes {
            [Write::PutBackend(..), Write::PutBackend(..), ..] => {
                update(self.backends.map(), writes, |write| {
                    if let Write::PutBackend(key, value) = write { Some((*key, *value)) } else { None }
                })
            }
            [Write::PutService(..), Write::PutService(..), ..] => {
                update(self.services.map(), writes, |write| {
                    if let Write::PutService(key, value) = write { Some((*key, *value)) } else { None }
                })
            }
            [Write::DeleteBackend(_), Write::DeleteBackend(_), ..] => {
                delete(self.backends.map(), writes, |write| {
                    if let Write::DeleteBackend(key) = write { Some(*key) } else { None }
                })
            }
            [Write::DeleteService(_), Write::DeleteService(_), ..] => {
                delete(self.services.map(), writes, |write| {
                    if let Write::DeleteService(key) = write { Some(*key) } else { None }
                })
            }
            [Write::PutVerdicts { .. }, Write::PutVerdicts { .. }, ..] => self.put_verdicts(writes),
            [Write::DeleteVerdicts { .. }, Write::DeleteVerdicts { .. }, ..] => {
                delete(&self.verdicts_data, writes, |write| {
                    if let Write::DeleteVerdicts { index } = write { Some(*index) } else { None }
                })
            }
            _ => 0,
        }
    }

    /// The value of a map of maps is a file descriptor, which is open over the call.
    fn put_verdicts(&self, writes: &[Write]) -> usize {
        let put = |write: &Write| match write {
            Write::PutVerdicts { index, map } if *index < 2 * SLOTS_MAX => Some((*index, *map)),
            _ => None,
        };
        let open = |(index, map): (u32, VerdictMapId)| Ok((index, MapData::from_pin(self.verdict_pin(map))?));
        let opened: Result<Vec<(u32, MapData)>, MapError> = writes.iter().map_while(put).map(open).collect();
        let Ok(opened) = opened else { return 0 };
        let keys: Vec<u32> = opened.iter().map(|(index, _)| *index).collect();
        let values: Vec<i32> = opened.iter().map(|(_, map)| map.fd().as_fd().as_raw_fd()).collect();
        call(BPF_MAP_UPDATE_BATCH, &self.verdicts_data, &keys, &values)
    }
}

fn update<K: Pod, V: Pod>(map: &MapData, writes: &[Write], put: impl Fn(&Write) -> Option<(K, V)>) -> usize {
    let (keys, values): (Vec<K>, Vec<V>) = writes.iter().map_while(put).unzip();
    call(BPF_MAP_UPDATE_BATCH, map, &keys, &values)
}

fn delete<K: Pod>(map: &MapData, writes: &[Write], gone: impl Fn(&Write) -> Option<K>) -> usize {
    let keys: Vec<K> = writes.iter().map_while(gone).collect();
    call::<K, u8>(BPF_MAP_DELETE_BATCH, map, &keys, &[])
}

/// How many entries, from the first on, were done. `values` is as long as `keys`, or unused by the command; both are
/// of the map's types.
fn call<K: Pod, V: Pod>(command: libc::c_int, map: &MapData, keys: &[K], values: &[V]) -> usize {
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
    // type, and so does `values` values where the command reads them; the kernel writes only to `count`.
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
