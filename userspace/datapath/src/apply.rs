//! Planned writes to the kernel.
//!
//! In: writes in the order in which they must happen. Out: the kernel's maps and routes, or the first error.

use aya::maps::lpm_trie::Key;
use aya::maps::{IterableMap as _, MapError};
use skep_abi::{Addr, RangeKey, SLOTS_MAX};
use skep_netplan::Write;

use crate::error::DatapathError;
use crate::maps::ignore_absent;
use crate::{Datapath, batch, route};

/// A write that failed. Those before it are done, those after it are not.
#[derive(Debug, thiserror::Error)]
#[error("write {index} failed: {write:?}")]
pub struct ApplyError {
    /// Its index in the writes given.
    pub index: usize,
    /// The write.
    pub write: Box<Write>,
    /// What failed.
    pub source: Box<DatapathError>,
}

impl Datapath {
    /// Applies the writes one after the other and stops at the first that fails.
    pub fn apply(&mut self, writes: &[Write]) -> Result<(), ApplyError> {
        let mut index = 0;
        while let Some(rest) = writes.get(index..) {
            index += self.maps.write_batch(rest);
            let Some(write) = writes.get(index) else { break };
            self.write(write).map_err(|source| ApplyError {
                index,
                write: Box::new(write.clone()),
                source: Box::new(source),
            })?;
            index += 1;
        }
        Ok(())
    }

    fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        let maps = &mut self.maps;
        let (map, done) = match write {
            Write::PutBackends(key, page) => ("BACKEND_PAGES", maps.backends.insert(key, page, 0)),
            Write::DeleteBackends(key) => ("BACKEND_PAGES", ignore_absent(maps.backends.remove(key))),
            Write::PutMaglev(key, page) => ("MAGLEV", maps.maglev.insert(key, **page, 0)),
            Write::DeleteMaglev(key) => ("MAGLEV", ignore_absent(maps.maglev.remove(key))),
            Write::PutService(key, value) => ("SERVICES", maps.services.insert(key, value, 0)),
            Write::DeleteService(key) => ("SERVICES", ignore_absent(maps.services.remove(key))),
            Write::PutOtherPorts(addr, flags) => ("OTHER_PORTS", maps.set_other_ports(addr, *flags)),
            Write::DeleteOtherPorts(addr) => ("OTHER_PORTS", maps.set_other_ports(addr, 0)),
            Write::PutRange { list, prefix_bits, addr } => {
                ("RANGES", maps.ranges.insert(&range(*list, *prefix_bits, *addr), 1, 0))
            }
            Write::DeleteRange { list, prefix_bits, addr } => {
                ("RANGES", ignore_absent(maps.ranges.remove(&range(*list, *prefix_bits, *addr))))
            }
            Write::PutPod(addr, pod) => ("PODS", maps.pods.insert(addr, pod, 0)),
            Write::DeletePod(addr) => ("PODS", ignore_absent(maps.pods.remove(addr))),
            Write::PutClass { table, prefix_bits, addr, class } => (
                "CLASSES",
                maps.classes[(table & 1) as usize].insert(&Key::new(*prefix_bits, *addr), class, 0),
            ),
            Write::DeleteClass { table, prefix_bits, addr } => {
                let removed = maps.classes[(table & 1) as usize].remove(&Key::new(*prefix_bits, *addr));
                ("CLASSES", ignore_absent(removed))
            }
            Write::ClearClasses { table } => {
                ("CLASSES", batch::clear::<Key<Addr>, u32>(maps.classes_of(*table).map()))
            }
            Write::PutCluster { prefix_bits, addr } => {
                ("CLUSTER", maps.cluster.insert(&Key::new(*prefix_bits, *addr), 1, 0))
            }
            Write::DeleteCluster { prefix_bits, addr } => {
                ("CLUSTER", ignore_absent(maps.cluster.remove(&Key::new(*prefix_bits, *addr))))
            }
            Write::PutNode(addr) => ("NODES", maps.nodes.insert(addr, 1, 0)),
            Write::DeleteNode(addr) => ("NODES", ignore_absent(maps.nodes.remove(addr))),
            Write::CreateVerdictMap { id, entries } => return maps.create_verdict_map(*id, entries),
            Write::DropVerdictMap { id } => return maps.drop_verdict_map(*id),
            Write::PutVerdicts { index, map } => match maps.verdict_maps.get(map) {
                Some(_) if *index >= 2 * SLOTS_MAX => ("VERDICTS", Err(MapError::KeyNotFound)),
                Some(inner) => ("VERDICTS", maps.verdicts.insert(index, inner, 0)),
                None => ("VERDICTS", Err(MapError::KeyNotFound)),
            },
            Write::DeleteVerdicts { index } => ("VERDICTS", ignore_absent(maps.verdicts.remove(index))),
            Write::SetGeneration(generation) => {
                ("CONFIG", maps.set_config(|config| config.generation = *generation))
            }
            Write::PutRoute { cidr, via } => return route::put(*cidr, *via, &self.overlay),
            Write::DeleteRoute { cidr } => return route::delete(*cidr, &self.overlay),
            Write::PutUnreachable { cidr } => return route::put_unreachable(*cidr),
            Write::DeleteUnreachable { cidr } => return route::delete_unreachable(*cidr),
        };
        done.map_err(DatapathError::map(map, "write"))
    }
}

fn range(list: u32, prefix_bits: u32, addr: Addr) -> Key<RangeKey> {
    Key::new(RangeKey::LIST_BITS + prefix_bits, RangeKey::new(list, addr))
}
