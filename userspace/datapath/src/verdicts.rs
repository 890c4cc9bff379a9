//! `VERDICTS`, the map of verdict maps, created before the object is loaded, so that the loader finds it pinned.
//!
//! The loader would describe the values of its inner maps by BTF. Linux before 6.3 then accepts only inner maps with BTF
//! (`bpf_map_meta_equal` compares the offset of a timer in the value, and "no timer" differs from "no BTF"), and the verdict
//! maps, which are created while the node runs, have none.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{IterableMap as _, MapData};
use skep_abi::{SLOTS_MAX, VERDICTS_MAX, Verdict, VerdictKey};

use crate::error::DatapathError;
use crate::syscall::bpf_fd;

/// One pod's verdicts under one generation.
pub(crate) type VerdictMap = LpmTrie<MapData, VerdictKey, Verdict>;

/// The flag of every map whose memory is allocated as entries come (include/uapi/linux/bpf.h).
pub(crate) const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_HASH_OF_MAPS: u32 = 13;

/// The first fields of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct Attributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// Creates and pins the map; idempotent.
pub(crate) fn create(pin: &Path) -> Result<(), DatapathError> {
    if pin.exists() {
        return Ok(());
    }
    let failed = |operation| DatapathError::map("VERDICTS", operation);
    // The kernel copies the type, sizes and flags of this inner map.
    let template = VerdictMap::create(VERDICTS_MAX, BPF_F_NO_PREALLOC).map_err(failed("create template"))?;
    let attributes = Attributes {
        map_type: BPF_MAP_TYPE_HASH_OF_MAPS,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u32>() as u32,
        max_entries: 2 * SLOTS_MAX,
        map_flags: 0,
        inner_map_fd: template.map().fd().as_fd().as_raw_fd() as u32,
        numa_node: 0,
        map_name: *b"VERDICTS\0\0\0\0\0\0\0\0",
    };
    let created =
        bpf_fd(BPF_MAP_CREATE, &attributes).map_err(DatapathError::file("create the map of", pin))?;
    let created = MapData::from_fd(created).map_err(failed("open"))?;
    created.pin(pin).map_err(|source| DatapathError::Pin { path: pin.to_owned(), source })
}
