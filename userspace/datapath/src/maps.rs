//! The maps, typed.
//!
//! In: the loaded object and the pinned verdict maps. Out: a handle for each map; the node's configuration and the verdict
//! maps are written here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, HashOfMaps, MapData, MapError};
use ipnetwork::IpNetwork;
use skep_abi::{
    Addr, BackendKey, BackendPage, MaglevKey, MaglevPage, NodeConfig, OBSERVE_NOTHING, OtherPorts, Pod,
    RangeKey, ServiceKey, ServiceValue, VERDICTS_MAX,
};
use skep_netplan::{VerdictEntry, VerdictMapId};

use crate::error::DatapathError;
use crate::node_links::{NodeLinks, Uplink};
use crate::overlay::Overlay;
use crate::pins;
use crate::verdicts::{BPF_F_NO_PREALLOC, VerdictMap};

/// include/uapi/asm-generic/socket.h
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Every map that the user side reads or writes.
pub(crate) struct Maps {
    pub(crate) config: Array<MapData, NodeConfig>,
    pub(crate) services: HashMap<MapData, ServiceKey, ServiceValue>,
    pub(crate) other_ports: HashMap<MapData, Addr, OtherPorts>,
    pub(crate) backends: HashMap<MapData, BackendKey, BackendPage>,
    pub(crate) ranges: LpmTrie<MapData, RangeKey, u32>,
    pub(crate) maglev: HashMap<MapData, MaglevKey, MaglevPage>,
    pub(crate) pods: HashMap<MapData, Addr, Pod>,
    pub(crate) cluster: LpmTrie<MapData, Addr, u32>,
    pub(crate) nodes: HashMap<MapData, Addr, u32>,
    exemptions: LpmTrie<MapData, Addr, u32>,
    node_addrs: HashMap<MapData, Addr, u32>,
    uplinks: HashMap<MapData, u32, skep_abi::Uplink>,
    pub(crate) classes: [LpmTrie<MapData, Addr, u32>; 2],
    pub(crate) verdicts: HashOfMaps<MapData, u32, VerdictMap>,
    /// `VERDICTS` again, for batches.
    pub(crate) verdicts_data: MapData,
    pub(crate) verdict_maps: BTreeMap<VerdictMapId, VerdictMap>,
    /// The folder of the pinned verdict maps.
    verdict_pins: PathBuf,
}

impl Maps {
    pub(crate) fn take(ebpf: &mut Ebpf, bpffs: &Path) -> Result<Maps, DatapathError> {
        let verdict_pins = pins::maps(bpffs).join("verdicts");
        Ok(Maps {
            config: take(ebpf, "CONFIG")?,
            services: take(ebpf, "SERVICES")?,
            other_ports: take(ebpf, "OTHER_PORTS")?,
            backends: take(ebpf, "BACKEND_PAGES")?,
            ranges: take(ebpf, "RANGES")?,
            maglev: take(ebpf, "MAGLEV")?,
            pods: take(ebpf, "PODS")?,
            cluster: take(ebpf, "CLUSTER")?,
            nodes: take(ebpf, "NODES")?,
            exemptions: take(ebpf, "EXEMPTIONS")?,
            node_addrs: take(ebpf, "NODE_ADDRS")?,
            uplinks: take(ebpf, "UPLINKS")?,
            classes: [take(ebpf, "CLASSES_EVEN")?, take(ebpf, "CLASSES_ODD")?],
            verdicts: take(ebpf, "VERDICTS")?,
            verdicts_data: MapData::from_pin(pins::maps(bpffs).join("VERDICTS"))
                .map_err(DatapathError::map("VERDICTS", "open"))?,
            verdict_maps: pinned_verdict_maps(&verdict_pins)?,
            verdict_pins,
        })
    }

    /// Writes the node's part of the configuration; the generation does not change.
    pub(crate) fn configure(&mut self, overlay: &Overlay, delay: u32) -> Result<(), DatapathError> {
        let failed = DatapathError::map("CONFIG", "write");
        let mut config = self.config.get(&0, 0).map_err(DatapathError::map("CONFIG", "read"))?;
        (config.overlay_v4, config.overlay_v6) = (overlay.index(true), overlay.index(false));
        config.delay = delay;
        // An earlier process' reader is gone.
        config.observe = OBSERVE_NOTHING;
        config.netns_cookie = netns_cookie()?;
        self.config.set(0, config, 0).map_err(failed)
    }

    /// Writes the node's uplinks and addresses. What is new is there before the configuration names it, and what is gone leaves
    /// after that.
    pub(crate) fn set_links(&mut self, links: &NodeLinks) -> Result<(), DatapathError> {
        let addrs: BTreeMap<Addr, u32> = links.addrs.iter().map(|ip| (Addr::from(*ip), 1)).collect();
        // An address that is on no uplink is the node's by the operator's will: it is the source on all of them.
        let is_own = |ip: &IpAddr| links.uplinks.iter().any(|uplink| uplink.addrs.contains(ip));
        let source = |uplink: &Uplink, v4: bool| {
            let own = links.primary.iter().find(|ip| ip.is_ipv4() == v4).is_some_and(is_own);
            let addr = uplink.addrs.iter().find(|ip| ip.is_ipv4() == v4).filter(|_| own);
            addr.map_or(Addr::UNSPECIFIED, |ip| Addr::from(*ip))
        };
        let sources =
            |uplink: &Uplink| skep_abi::Uplink { v4: source(uplink, true), v6: source(uplink, false) };
        let uplinks: BTreeMap<u32, skep_abi::Uplink> =
            links.uplinks.iter().map(|uplink| (uplink.index, sources(uplink))).collect();
        put_all(&mut self.node_addrs, &addrs).map_err(DatapathError::map("NODE_ADDRS", "write"))?;
        put_all(&mut self.uplinks, &uplinks).map_err(DatapathError::map("UPLINKS", "write"))?;
        let primary = |v4: bool| {
            let found = links.primary.iter().find(|ip| ip.is_ipv4() == v4);
            found.map_or(Addr::UNSPECIFIED, |ip| Addr::from(*ip))
        };
        let written = self.set_config(|config| {
            config.uplink = links.uplinks.first().map_or(0, |uplink| uplink.index);
            (config.node_v4, config.node_v6) = (primary(true), primary(false));
            let several = if links.uplinks.len() > 1 { NodeConfig::SEVERAL_UPLINKS } else { 0 };
            let more = if links.addrs.len() > links.primary.len() { NodeConfig::MORE_ADDRS } else { 0 };
            config.flags = several | more;
        });
        written.map_err(DatapathError::map("CONFIG", "write"))?;
        keep_only(&mut self.node_addrs, &addrs).map_err(DatapathError::map("NODE_ADDRS", "remove entry"))?;
        keep_only(&mut self.uplinks, &uplinks).map_err(DatapathError::map("UPLINKS", "remove entry"))
    }

    /// Makes `EXEMPTIONS` these networks.
    pub(crate) fn set_exemptions(&mut self, networks: &[IpNetwork]) -> Result<(), DatapathError> {
        let failed = |operation| DatapathError::map("EXEMPTIONS", operation);
        let key = |network: &IpNetwork| {
            let family_bits = if network.is_ipv4() { 96 } else { 0 };
            (family_bits + u32::from(network.prefix()), Addr::from(network.network()))
        };
        let wanted: BTreeSet<(u32, Addr)> = networks.iter().map(key).collect();
        let present: Vec<Key<Addr>> =
            self.exemptions.keys().collect::<Result<_, _>>().map_err(failed("read"))?;
        for key in present.iter().filter(|key| !wanted.contains(&(key.prefix_len(), key.data()))) {
            ignore_absent(self.exemptions.remove(key)).map_err(failed("remove entry"))?;
        }
        for (bits, addr) in wanted {
            self.exemptions.insert(&Key::new(bits, addr), 1, 0).map_err(failed("write"))?;
        }
        Ok(())
    }

    /// Changes fields of the configuration.
    pub(crate) fn set_config(
        &mut self,
        change: impl FnOnce(&mut NodeConfig),
    ) -> Result<(), aya::maps::MapError> {
        let mut config = self.config.get(&0, 0)?;
        change(&mut config);
        self.config.set(0, config, 0)
    }

    /// Sets the flags of an address, 0: none; idempotent.
    pub(crate) fn set_other_ports(&mut self, addr: &Addr, flags: u32) -> Result<(), MapError> {
        let key = OtherPorts::block(*addr);
        let mut block = self.other_ports_of(&key)?;
        block.set(addr, flags);
        if block.is_empty() {
            return ignore_absent(self.other_ports.remove(&key));
        }
        self.other_ports.insert(key, block, 0)
    }

    /// The block with the key; without an entry it is empty.
    pub(crate) fn other_ports_of(&self, key: &Addr) -> Result<OtherPorts, MapError> {
        match self.other_ports.get(key, 0) {
            Err(MapError::KeyNotFound) => Ok(OtherPorts::default()),
            found => found,
        }
    }

    /// Fills a new verdict map and then pins it under its name, so that a pinned map is always complete; idempotent.
    pub(crate) fn create_verdict_map(
        &mut self,
        id: VerdictMapId,
        entries: &[VerdictEntry],
    ) -> Result<(), DatapathError> {
        let failed = |operation| DatapathError::map("VERDICTS", operation);
        if self.verdict_maps.contains_key(&id) {
            return Ok(());
        }
        let mut map =
            VerdictMap::create(VERDICTS_MAX, BPF_F_NO_PREALLOC).map_err(failed("create inner map"))?;
        for (bits, key, verdict) in entries {
            map.insert(&Key::new(*bits, *key), verdict, 0).map_err(failed("fill inner map"))?;
        }
        let path = self.verdict_pin(id);
        map.pin(&path).map_err(|source| DatapathError::Pin { path: path.clone(), source })?;
        let map = open_verdict_map(&path).map_err(failed("open pinned inner map"))?;
        self.verdict_maps.insert(id, map);
        Ok(())
    }

    /// Closes the verdict map and removes its pin; idempotent.
    pub(crate) fn drop_verdict_map(&mut self, id: VerdictMapId) -> Result<(), DatapathError> {
        self.verdict_maps.remove(&id);
        pins::remove(&self.verdict_pin(id))
    }

    /// The class table of the number.
    pub(crate) fn classes_of(&self, table: u8) -> &LpmTrie<MapData, Addr, u32> {
        let [even, odd] = &self.classes;
        if table & 1 == 0 { even } else { odd }
    }

    /// The path of the verdict map's pin.
    pub(crate) fn verdict_pin(&self, id: VerdictMapId) -> PathBuf {
        self.verdict_pins.join(id.to_string())
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DatapathError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing { what: "map", name })?;
    T::try_from(map).map_err(DatapathError::map(name, "open"))
}

/// The result of a removal that is idempotent.
pub(crate) fn ignore_absent(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        removed => removed,
    }
}

fn put_all<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    wanted: &BTreeMap<K, V>,
) -> Result<(), MapError> {
    wanted.iter().try_for_each(|(key, value)| map.insert(key, value, 0))
}

fn keep_only<K: aya::Pod + Ord, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    wanted: &BTreeMap<K, V>,
) -> Result<(), MapError> {
    let present: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    let mut gone = present.iter().filter(|key| !wanted.contains_key(key));
    gone.try_for_each(|key| ignore_absent(map.remove(key)))
}

fn open_verdict_map(path: &Path) -> Result<VerdictMap, aya::maps::MapError> {
    VerdictMap::try_from(aya::maps::Map::from_map_data(MapData::from_pin(path)?)?)
}

fn pinned_verdict_maps(folder: &Path) -> Result<BTreeMap<VerdictMapId, VerdictMap>, DatapathError> {
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(DatapathError::file("list", folder))?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok()) else { continue };
        let map = open_verdict_map(&entry.path())
            .map_err(DatapathError::map("VERDICTS", "open pinned inner map"))?;
        maps.insert(VerdictMapId(id), map);
    }
    Ok(maps)
}

/// Cookie of the calling thread's network namespace, read from a socket (Linux 5.14).
fn netns_cookie() -> Result<u64, DatapathError> {
    let failed = DatapathError::file("read the cookie of", Path::new("the network namespace"));
    let socket =
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return Err(failed(error)),
    };
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is the socket's, and the value has the eight bytes that `length` gives.
    let result = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(failed(std::io::Error::last_os_error())) }
}
