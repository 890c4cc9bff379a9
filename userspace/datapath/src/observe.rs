//! Reading the kernel's state back after a restart.
//!
//! In: the maps and routes. Out: [`Observed`], from which the planner continues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya::maps::MapError;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{IterableMap, MapData};
use skep_abi::{Addr, MaglevKey, MaglevPage, OtherPorts, RangeKey, Verdict, VerdictKey};
use skep_netplan::{Observed, Prefix, VerdictEntry, VerdictMapId};

use crate::error::DatapathError;
use crate::verdicts::VerdictMap;
use crate::{Datapath, batch, route};

impl Datapath {
    /// What the maps and routes hold.
    pub fn observed(&self) -> Result<Observed, DatapathError> {
        let maps = &self.maps;
        let route::Ours { via: routes, unreachable } = route::ours(&self.overlay)?;
        let failed = |name| DatapathError::map(name, "read");
        let (verdict_maps, names) = self.verdict_maps()?;
        let mut verdicts = BTreeMap::new();
        for index in maps.verdicts.keys() {
            let index = index.map_err(failed("VERDICTS"))?;
            let inner = maps.verdicts.get(&index, 0).map_err(failed("VERDICTS"))?;
            if let Some(name) = names.get(&map_id(&inner).map_err(failed("VERDICTS"))?) {
                verdicts.insert(index, *name);
            }
        }
        let [even, odd] = &maps.classes;
        Ok(Observed {
            services: batch::entries(maps.services.map()).map_err(failed("SERVICES"))?,
            other_ports: self.other_ports().map_err(failed("OTHER_PORTS"))?,
            backends: batch::entries(maps.backends.map()).map_err(failed("BACKEND_PAGES"))?,
            ranges: self.ranges()?,
            maglev: batch::entries::<MaglevKey, MaglevPage, Vec<_>>(maps.maglev.map())
                .map_err(failed("MAGLEV"))?
                .into_iter()
                .map(|(key, page)| (key, Arc::new(page)))
                .collect(),
            pods: batch::entries(maps.pods.map()).map_err(failed("PODS"))?,
            classes: [
                prefixes(even).map_err(failed("CLASSES_EVEN"))?,
                prefixes(odd).map_err(failed("CLASSES_ODD"))?,
            ],
            cluster: prefixes(&maps.cluster).map_err(failed("CLUSTER"))?.into_keys().collect(),
            nodes: maps.nodes.keys().collect::<Result<_, _>>().map_err(failed("NODES"))?,
            verdict_maps,
            verdicts,
            generation: maps.config.get(&0, 0).map_err(failed("CONFIG"))?.generation,
            routes,
            unreachable,
        })
    }

    fn other_ports(&self) -> Result<BTreeMap<Addr, u32>, MapError> {
        let mut addrs = BTreeMap::new();
        batch::read(self.maps.other_ports.map(), |key: &Addr, block: &OtherPorts| {
            addrs.extend(block.addrs(*key));
        })?;
        Ok(addrs)
    }

    fn ranges(&self) -> Result<BTreeSet<(u32, Prefix)>, DatapathError> {
        let mut ranges = BTreeSet::new();
        for entry in self.maps.ranges.iter() {
            let (key, _) = entry.map_err(DatapathError::map("RANGES", "read"))?;
            let RangeKey { list, addr } = key.data();
            let bits = key.prefix_len().saturating_sub(RangeKey::LIST_BITS);
            ranges.insert((u32::from_be_bytes(list), (bits, addr)));
        }
        Ok(ranges)
    }

    /// The entries of every pinned verdict map, and the maps' names by kernel id.
    #[expect(clippy::type_complexity, reason = "two maps that one pass makes for one caller")]
    fn verdict_maps(
        &self,
    ) -> Result<(BTreeMap<VerdictMapId, Arc<[VerdictEntry]>>, BTreeMap<u32, VerdictMapId>), DatapathError>
    {
        let failed = || DatapathError::map("VERDICTS", "read inner map");
        let (mut contents, mut names) = (BTreeMap::new(), BTreeMap::new());
        for (name, map) in &self.maps.verdict_maps {
            let mut entries = Vec::new();
            let add = |key: &Key<VerdictKey>, verdict: &Verdict| {
                entries.push((key.prefix_len(), key.data(), *verdict));
            };
            batch::read(map.map(), add).map_err(failed())?;
            entries.sort_by_key(|a| (a.0, a.1));
            contents.insert(*name, Arc::from(entries));
            names.insert(map_id(map).map_err(failed())?, *name);
        }
        Ok((contents, names))
    }
}

fn map_id(map: &VerdictMap) -> Result<u32, MapError> {
    map.map().info().map(|info| info.id())
}

fn prefixes(trie: &LpmTrie<MapData, Addr, u32>) -> Result<BTreeMap<(u32, Addr), u32>, MapError> {
    let mut prefixes = Vec::new();
    batch::read(trie.map(), |key: &Key<Addr>, value: &u32| {
        prefixes.push(((key.prefix_len(), key.data()), *value));
    })?;
    Ok(prefixes.into_iter().collect())
}
