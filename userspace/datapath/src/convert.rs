//! Maps of older ABI versions whose content the present ones have in another layout.
//!
//! In: the folder of an older version's maps. Out: the present maps with the same content, pinned beside them. The running
//! programs keep the older ones until they are replaced.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};
use skep_abi::{
    Addr, BACKEND_PAGES_MAX, BACKEND_SLOTS, Backend, BackendKey, BackendPage, Be16, OTHER_PORTS_MAX,
    OtherPorts, Proto, Scope, ServiceKey, ServiceValue,
};

use crate::error::DatapathError;
use crate::verdicts::BPF_F_NO_PREALLOC;
use crate::{batch, pins};

/// The first version with the present maps.
const SINCE: u32 = 11;
/// The versions whose maps had the older layout.
const FROM: std::ops::Range<u32> = 5..SINCE;

/// Until version 10: a hash of [`SlotKey`] to [`Backend`].
const BACKENDS: &str = "BACKENDS";
/// Until version 10 a flag of other ports' entries: the address may have frontends of blocks of ports.
const BLOCKS: u32 = 1 << 5;

/// A slot of a backend set: set and slot.
type SlotKey = [u32; 2];

/// Makes the present maps from those of the version in the folder; nothing for a version that has no such maps.
pub(crate) fn convert(maps: &Path, version: u32) -> Result<(), DatapathError> {
    if !FROM.contains(&version) {
        return Ok(());
    }
    backends(maps)?;
    other_ports(maps)
}

/// Removes the pins of maps that were converted; idempotent.
pub(crate) fn remove_converted(maps: &Path) -> Result<(), DatapathError> {
    pins::remove(&maps.join(BACKENDS))
}

fn backends(maps: &Path) -> Result<(), DatapathError> {
    let Some(old) = open::<SlotKey, Backend>(maps, BACKENDS)? else { return Ok(()) };
    let mut pages: BTreeMap<BackendKey, BackendPage> = BTreeMap::new();
    let add = |[set, slot]: &SlotKey, backend: &Backend| {
        let page = pages.entry(BackendKey { set: *set, page: slot / BACKEND_SLOTS }).or_default();
        page.backends[(slot % BACKEND_SLOTS) as usize] = *backend;
    };
    batch::read(old.map(), add).map_err(DatapathError::map(BACKENDS, "read"))?;
    create(maps, "BACKEND_PAGES", BACKEND_PAGES_MAX, pages)
}

/// Until version 10, entries of `SERVICES` with neither port nor protocol.
fn other_ports(maps: &Path) -> Result<(), DatapathError> {
    const SERVICES: &str = "SERVICES";
    let Some(services) = open::<ServiceKey, ServiceValue>(maps, SERVICES)? else { return Ok(()) };
    let mut blocks: BTreeMap<Addr, OtherPorts> = BTreeMap::new();
    let add = |key: &ServiceKey, value: &ServiceValue| {
        let addr = key.addr;
        if *key != (ServiceKey { addr, port: Be16(0), proto: Proto(0), scope: Scope::INTERNAL }) {
            return;
        }
        let refused = if value.flags & ServiceValue::REJECT != 0 { OtherPorts::REFUSED } else { 0 };
        let has_blocks = if value.flags & BLOCKS != 0 { OtherPorts::BLOCKS } else { 0 };
        blocks.entry(OtherPorts::block(addr)).or_default().set(&addr, refused | has_blocks);
    };
    batch::read(services.map(), add).map_err(DatapathError::map(SERVICES, "read"))?;
    create(maps, "OTHER_PORTS", OTHER_PORTS_MAX, blocks)
}

/// The pinned map; `None`: there is none.
fn open<K: aya::Pod, V: aya::Pod>(
    maps: &Path,
    name: &'static str,
) -> Result<Option<HashMap<MapData, K, V>>, DatapathError> {
    let pin = maps.join(name);
    if !pin.exists() {
        return Ok(None);
    }
    let open = || -> Result<_, MapError> { HashMap::try_from(Map::from_map_data(MapData::from_pin(&pin)?)?) };
    open().map(Some).map_err(DatapathError::map(name, "open"))
}

fn create<K: aya::Pod, V: aya::Pod>(
    maps: &Path,
    name: &'static str,
    size: u32,
    entries: BTreeMap<K, V>,
) -> Result<(), DatapathError> {
    let failed = |operation| DatapathError::map(name, operation);
    let mut map = HashMap::<MapData, K, V>::create(size, BPF_F_NO_PREALLOC).map_err(failed("create"))?;
    for (key, value) in entries {
        map.insert(key, value, 0).map_err(failed("copy"))?;
    }
    let path = maps.join(name);
    map.pin(&path).map_err(|source| DatapathError::Pin { path, source })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::test_bpffs::TestBpffs;

    #[test]
    fn sets_and_refused_ports_of_version_10_are_in_the_present_maps() {
        let bpffs = TestBpffs::mount("convert");
        let maps = bpffs.path();
        let addr = |last| Addr::from(IpAddr::from([10, 96, 0, last]));
        let backend = |last| Backend { addr: addr(last), port: Be16::new(80), reserved: 0 };
        let slots = (0..4).map(|slot| ([7, slot], backend(slot as u8))).chain([([8, 0], backend(9))]);
        create::<SlotKey, Backend>(maps, BACKENDS, 16, slots.collect()).unwrap();
        let key =
            |last, port| ServiceKey { addr: addr(last), port: Be16::new(port), ..ServiceKey::default() };
        let value = |flags| ServiceValue { flags, ..ServiceValue::default() };
        let services = [
            (key(1, 0), value(ServiceValue::REJECT)),
            (key(1, 80), value(ServiceValue::REJECT)),
            (key(2, 0), value(ServiceValue::REJECT | BLOCKS)),
            (key(3, 0), value(BLOCKS)),
        ];
        create(maps, "SERVICES", 16, BTreeMap::from(services)).unwrap();
        convert(maps, SINCE).unwrap();
        assert!(!maps.join("OTHER_PORTS").exists() && !maps.join("BACKEND_PAGES").exists());
        convert(maps, SINCE - 1).unwrap();
        let pages = open::<BackendKey, BackendPage>(maps, "BACKEND_PAGES").unwrap().unwrap();
        let page = |set, page| pages.get(&BackendKey { set, page }, 0).unwrap().backends;
        assert_eq!(page(7, 0), [0, 1, 2].map(backend));
        assert_eq!(page(7, 1), [backend(3), Backend::default(), Backend::default()]);
        assert_eq!(page(8, 0)[0], backend(9));
        assert_eq!(pages.keys().count(), 3);
        let others = open::<Addr, OtherPorts>(maps, "OTHER_PORTS").unwrap().unwrap();
        let block = others.get(&addr(0), 0).unwrap();
        let all = OtherPorts::REFUSED | OtherPorts::BLOCKS;
        let flags = [0, 1, 2, 3].map(|last| block.of(&addr(last)));
        assert_eq!(flags, [0, OtherPorts::REFUSED, all, OtherPorts::BLOCKS]);
        for _ in 0..2 {
            remove_converted(maps).unwrap();
        }
        assert!(!maps.join(BACKENDS).exists());
    }
}
