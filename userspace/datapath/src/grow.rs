//! A pinned map that an earlier version made smaller.
//!
//! In: the pin. Out: the same entries in a map of the present size under the same pin. The running programs keep the old
//! map until they are replaced.

use std::fs;
use std::path::Path;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{IterableMap as _, Map, MapData};
use skep_abi::{Addr, CLUSTER_MAX};

use crate::error::DatapathError;
use crate::pins;
use crate::verdicts::BPF_F_NO_PREALLOC;

const CLUSTER: &str = "CLUSTER";

/// Replaces the pinned `CLUSTER` in the folder of maps if its size is another one; idempotent.
pub(crate) fn cluster(maps: &Path) -> Result<(), DatapathError> {
    resize(maps, CLUSTER_MAX)
}

fn resize(maps: &Path, size: u32) -> Result<(), DatapathError> {
    let pin = maps.join(CLUSTER);
    if !pin.exists() {
        return Ok(());
    }
    let failed = |operation| DatapathError::map(CLUSTER, operation);
    let data = MapData::from_pin(&pin).map_err(failed("open"))?;
    let old = LpmTrie::<MapData, Addr, u32>::try_from(Map::from_map_data(data).map_err(failed("open"))?)
        .map_err(failed("open"))?;
    if old.map().info().map_err(failed("read size"))?.max_entries() == size {
        return Ok(());
    }
    let mut new = LpmTrie::<MapData, Addr, u32>::create(size, BPF_F_NO_PREALLOC).map_err(failed("create"))?;
    for entry in old.iter() {
        let (key, value) = entry.map_err(failed("read"))?;
        new.insert(&key, value, 0).map_err(failed("copy"))?;
    }
    // An interrupted attempt may have left it. A BPF file system takes no dots in names.
    let beside = maps.join(format!("{CLUSTER}_NEW"));
    pins::remove(&beside)?;
    new.pin(&beside).map_err(|source| DatapathError::Pin { path: beside.clone(), source })?;
    fs::rename(&beside, &pin).map_err(DatapathError::file("rename", &beside))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use aya::maps::lpm_trie::Key;

    use super::*;
    use crate::test_bpffs::TestBpffs;

    #[test]
    fn a_map_of_another_size_is_replaced_with_its_entries() {
        let bpffs = TestBpffs::mount("grow");
        let folder = bpffs.path();
        let key = Key::new(96 + 24, Addr::from(IpAddr::from([10, 244, 1, 0])));
        let mut old = LpmTrie::<MapData, Addr, u32>::create(16, BPF_F_NO_PREALLOC).unwrap();
        old.insert(&key, 1, 0).unwrap();
        old.pin(folder.join(CLUSTER)).unwrap();
        let open = || {
            let map = Map::from_map_data(MapData::from_pin(folder.join(CLUSTER)).unwrap()).unwrap();
            LpmTrie::<MapData, Addr, u32>::try_from(map).unwrap()
        };
        for _ in 0..2 {
            resize(folder, 64).unwrap();
            let map = open();
            assert_eq!(map.map().info().unwrap().max_entries(), 64);
            assert_eq!(map.get(&key, 0).unwrap(), 1);
        }
    }
}
