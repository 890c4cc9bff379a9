//! Many entries of a map in one system call.
//!
//! In: planned writes, or a map to read. Out: how many of the writes were done, or the entries. After each change of a map of maps the kernel waits until every
//! running program has ended (`synchronize_rcu`, about 10 ms); for a batch it waits once. A change of policy writes an entry
//! for every pod under a policy. At the start there are thousands of services, where a system call for each costs as much
//! as the write.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{IterableMap as _, MapData, MapError};
use skep_abi::{Addr, OtherPorts, SLOTS_MAX};
use skep_netplan::{VerdictMapId, Write};

use crate::maps::Maps;

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
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
    /// Does writes of one kind from the start of `writes`; returns how many. The caller does the others one by one, and gets
    /// their errors then.
    pub(crate) fn write_batch(&self, writes: &[Write]) -> usize {
        match writes {
            [Write::PutBackends(..), Write::PutBackends(..), ..] => {
                update(self.backends.map(), writes, |write| {
                    if let Write::PutBackends(key, page) = write { Some((*key, *page)) } else { None }
                })
            }
            [Write::PutOtherPorts(..), Write::PutOtherPorts(..), ..] => self.put_other_ports(writes),
            [Write::PutService(..), Write::PutService(..), ..] => {
                update(self.services.map(), writes, |write| {
                    if let Write::PutService(key, value) = write { Some((*key, *value)) } else { None }
                })
            }
            [Write::PutMaglev(..), Write::PutMaglev(..), ..] => update(self.maglev.map(), writes, |write| {
                if let Write::PutMaglev(key, page) = write { Some((*key, **page)) } else { None }
            }),
            [Write::DeleteMaglev(_), Write::DeleteMaglev(_), ..] => {
                delete(self.maglev.map(), writes, |write| {
                    if let Write::DeleteMaglev(key) = write { Some(*key) } else { None }
                })
            }
            [Write::DeleteBackends(_), Write::DeleteBackends(_), ..] => {
                delete(self.backends.map(), writes, |write| {
                    if let Write::DeleteBackends(key) = write { Some(*key) } else { None }
                })
            }
            [Write::DeleteService(_), Write::DeleteService(_), ..] => {
                delete(self.services.map(), writes, |write| {
                    if let Write::DeleteService(key) = write { Some(*key) } else { None }
                })
            }
            [Write::PutClass { table, .. }, Write::PutClass { .. }, ..] => {
                update(self.classes_of(*table).map(), writes, |write| match write {
                    Write::PutClass { table: other, prefix_bits, addr, class } if other == table => {
                        Some((Key::new(*prefix_bits, *addr), *class))
                    }
                    _ => None,
                })
            }
            [Write::DeleteClass { table, .. }, Write::DeleteClass { .. }, ..] => {
                delete(self.classes_of(*table).map(), writes, |write| match write {
                    Write::DeleteClass { table: other, prefix_bits, addr } if other == table => {
                        Some(Key::new(*prefix_bits, *addr))
                    }
                    _ => None,
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

    /// Neighbouring addresses share an entry, which is written once.
    fn put_other_ports(&self, writes: &[Write]) -> usize {
        let put = |write: &Write| match write {
            Write::PutOtherPorts(addr, flags) => Some((*addr, *flags)),
            _ => None,
        };
        let wanted: Vec<(Addr, u32)> = writes.iter().map_while(put).collect();
        let mut blocks = BTreeMap::new();
        for (addr, flags) in &wanted {
            let block = match blocks.entry(OtherPorts::block(*addr)) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let Ok(block) = self.other_ports_of(entry.key()) else { return 0 };
                    entry.insert(block)
                }
            };
            block.set(addr, *flags);
        }
        let (keys, values): (Vec<Addr>, Vec<OtherPorts>) = blocks.into_iter().unzip();
        let done = call(BPF_MAP_UPDATE_BATCH, self.other_ports.map(), &keys, &values);
        if done == keys.len() { wanted.len() } else { 0 }
    }

    /// The value of a map of maps is a file descriptor, which stays open over the call.
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

/// Entries that [`read`] asks for in one call.
const READ_BATCH: usize = 4_096;

/// Room for a position: a number of four bytes in hash maps, a key in tries.
type Position = [u64; 8];

/// Every entry of a map whose types are given.
pub(crate) fn entries<K: Pod, V: Pod, C: FromIterator<(K, V)>>(map: &MapData) -> Result<C, MapError> {
    let mut entries = Vec::new();
    read(map, |key: &K, value: &V| entries.push((*key, *value)))?;
    Ok(entries.into_iter().collect())
}

/// Removes every entry of a map whose types are given.
pub(crate) fn clear<K: Pod, V: Pod>(map: &MapData) -> Result<(), MapError> {
    let mut keys = Vec::new();
    read(map, |key: &K, _: &V| keys.push(*key))?;
    let mut rest = keys.as_slice();
    while !rest.is_empty() {
        // A key that is gone ends a batch.
        let done = call::<K, u8>(BPF_MAP_DELETE_BATCH, map, rest, &[]);
        rest = rest.get(done.max(1)..).unwrap_or_default();
    }
    Ok(())
}

/// Calls `visit` with every entry of a hash map or trie whose types are given. An entry that is put or removed meanwhile may
/// be left out.
pub(crate) fn read<K: Pod, V: Pod>(map: &MapData, mut visit: impl FnMut(&K, &V)) -> Result<(), MapError> {
    const { assert!(size_of::<K>() <= size_of::<Position>()) };
    let (mut position, mut next): (Position, Position) = Default::default();
    let mut size = READ_BATCH;
    let mut is_first = true;
    loop {
        // SAFETY: both types are plain bytes, for which zeros are values.
        let (mut keys, mut values): (Vec<K>, Vec<V>) =
            unsafe { (vec![std::mem::zeroed(); size], vec![std::mem::zeroed(); size]) };
        let mut attributes = Attributes {
            in_batch: if is_first { 0 } else { (&raw const position) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: size as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of the command and live over the call; keys and values have room for `count`
        // entries of the map's types, and so have the positions, a number or a key.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>())
        };
        let error = std::io::Error::last_os_error();
        let is_last = result < 0 && error.raw_os_error() == Some(libc::ENOENT);
        if result < 0 && error.raw_os_error() == Some(libc::ENOSPC) {
            // One bucket has more entries than that.
            size *= 2;
            continue;
        }
        if result < 0 && !is_last {
            let call = "bpf_map_lookup_batch";
            return Err(MapError::SyscallError(aya::sys::SyscallError { call, io_error: error }));
        }
        let count = attributes.count as usize;
        keys.iter().zip(&values).take(count).for_each(|(key, value)| visit(key, value));
        if is_last {
            return Ok(());
        }
        (position, is_first) = (next, false);
    }
}

fn update<K: Pod, V: Pod>(
    map: &MapData,
    writes: &[Write],
    entry: impl Fn(&Write) -> Option<(K, V)>,
) -> usize {
    let (keys, values): (Vec<K>, Vec<V>) = writes.iter().map_while(entry).unzip();
    call(BPF_MAP_UPDATE_BATCH, map, &keys, &values)
}

fn delete<K: Pod>(map: &MapData, writes: &[Write], key: impl Fn(&Write) -> Option<K>) -> usize {
    let keys: Vec<K> = writes.iter().map_while(key).collect();
    call::<K, u8>(BPF_MAP_DELETE_BATCH, map, &keys, &[])
}

/// Returns how many entries were done, from the first on. `values` is as long as `keys`, or the command does not use it.
/// Both have the map's types.
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
        // An error before the first entry leaves the count unchanged.
        _ if done >= keys.len() => 0,
        _ => done,
    }
}
