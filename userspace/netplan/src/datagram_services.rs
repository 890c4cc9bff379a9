//! The frontends of protocols whose clients do not notice that a backend is gone.
//!
//! In: the content of the maps. Out: the backends of each such frontend, a value of its own for a thread that looks for flows
//! and sockets without their backend.

use std::collections::{BTreeMap, BTreeSet};

use skep_abi::{Addr, Backend, BackendKey, Be16, Proto, ServiceKey, ServiceValue, SocketAddr};

use crate::{Observed, Write};

/// Address, port and protocol of a frontend.
type Frontend = (Addr, Be16, Proto);

/// The UDP and SCTP frontends with their backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatagramServices(BTreeMap<Frontend, BTreeSet<Backend>>);

impl DatagramServices {
    /// Those of the maps.
    pub fn of(maps: &Observed) -> Self {
        let mut services: BTreeMap<Frontend, BTreeSet<Backend>> = BTreeMap::new();
        for (key, value) in maps.services.iter().filter(|(key, _)| is_datagram(key)) {
            services.entry((key.addr, key.port, key.proto)).or_default().extend(backends(maps, value));
        }
        DatagramServices(services)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the frontend has the backend, in either scope; `None` if there is no such frontend.
    pub fn serves(&self, frontend: &SocketAddr, proto: Proto, backend: &Backend) -> Option<bool> {
        self.0.get(&(frontend.addr, frontend.port, proto)).map(|backends| backends.contains(backend))
    }
}

/// Whether the writes take a backend from a UDP or SCTP frontend of the maps, or add such a frontend, past which flows may
/// have been opened.
pub(crate) fn may_strand_flows(writes: &[Write], maps: &Observed) -> bool {
    let mut added: BTreeMap<BackendKey, Backend> = BTreeMap::new();
    writes.iter().any(|write| match write {
        Write::PutBackend(key, backend) => {
            added.insert(*key, *backend);
            false
        }
        Write::DeleteService(key) => is_datagram(key),
        Write::PutService(key, value) if is_datagram(key) => {
            let Some(before) = maps.services.get(key) else { return true };
            let slots = (0..value.count).map(|slot| BackendKey { set: value.set, slot });
            let after: BTreeSet<&Backend> =
                slots.filter_map(|slot| added.get(&slot).or_else(|| maps.backends.get(&slot))).collect();
            before.set != value.set && backends(maps, before).any(|backend| !after.contains(&backend))
        }
        _ => false,
    })
}

fn is_datagram(key: &ServiceKey) -> bool {
    matches!(key.proto, Proto::UDP | Proto::SCTP)
}

fn backends(maps: &Observed, value: &ServiceValue) -> impl Iterator<Item = Backend> {
    let slots = BackendKey { set: value.set, slot: 0 }..BackendKey { set: value.set, slot: value.count };
    maps.backends.range(slots).map(|(_, backend)| *backend)
}

#[cfg(test)]
mod tests {
    use skep_abi::Scope;

    use super::*;

    const fn backend(last: u32) -> Backend {
        Backend { addr: Addr([0, 0, 0, last]), port: Be16::new(53), reserved: 0 }
    }

    fn key(proto: Proto, scope: Scope) -> ServiceKey {
        ServiceKey { addr: Addr([9; 4]), port: Be16::new(53), proto, scope }
    }

    fn puts(set: u32, lasts: &[u32]) -> Vec<Write> {
        let slots = lasts.iter().zip(0..);
        slots.map(|(last, slot)| Write::PutBackend(BackendKey { set, slot }, backend(*last))).collect()
    }

    fn to(set: u32, count: u32, proto: Proto) -> Write {
        let value = ServiceValue { set, count, ..ServiceValue::default() };
        Write::PutService(key(proto, Scope::INTERNAL), value)
    }

    fn world(proto: Proto) -> Observed {
        let mut maps = Observed::default();
        for write in [puts(1, &[1, 2]), vec![to(1, 2, proto)]].concat() {
            maps.apply(&write);
        }
        maps
    }

    #[test]
    fn flows_are_looked_for_only_when_a_backend_left_a_datagram_service() {
        let rows = [
            (Proto::UDP, [puts(2, &[1, 2, 3]), vec![to(2, 3, Proto::UDP)]].concat(), false),
            (Proto::UDP, [puts(2, &[2, 3]), vec![to(2, 2, Proto::UDP)]].concat(), true),
            (Proto::SCTP, [puts(2, &[2]), vec![to(2, 1, Proto::SCTP)]].concat(), true),
            (Proto::TCP, [puts(2, &[2]), vec![to(2, 1, Proto::TCP)]].concat(), false),
            (Proto::UDP, vec![to(1, 2, Proto::UDP)], false),
            // A frontend that is new.
            (Proto::TCP, vec![to(1, 2, Proto::UDP)], true),
            (Proto::UDP, vec![Write::DeleteService(key(Proto::UDP, Scope::INTERNAL))], true),
            (Proto::UDP, vec![to(7, 0, Proto::UDP)], true),
        ];
        for (proto, writes, expected) in rows {
            assert_eq!(may_strand_flows(&writes, &world(proto)), expected, "{proto:?} {writes:?}");
        }
    }

    #[test]
    fn a_frontend_has_the_backends_of_both_scopes() {
        let mut maps = world(Proto::UDP);
        let value = ServiceValue { set: 2, count: 1, ..ServiceValue::default() };
        for write in puts(2, &[3]) {
            maps.apply(&write);
        }
        maps.apply(&Write::PutService(key(Proto::UDP, Scope::EXTERNAL), value));
        let services = DatagramServices::of(&maps);
        let serves = |to: SocketAddr, last| services.serves(&to, Proto::UDP, &backend(last));
        let frontend = SocketAddr::new(Addr([9; 4]), Be16::new(53));
        assert_eq!([1, 2, 3, 4].map(|last| serves(frontend, last)), [true, true, true, false].map(Some));
        assert_eq!(serves(SocketAddr::new(Addr([9; 4]), Be16::new(54)), 1), None);
        assert!(DatagramServices::of(&world(Proto::TCP)).is_empty());
    }
}
