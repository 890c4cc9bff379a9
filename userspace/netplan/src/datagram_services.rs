//! The frontends of protocols whose clients do not notice that a backend is gone.
//!
//! In: the content of the maps, then each write. Out: the backends of each such frontend, a value of its own for a thread that looks for
//! flows and sockets without their backend.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use skep_abi::{Backend, Be16, Proto, Scope, ServiceKey, ServiceValue, SocketAddr};

use crate::{Observed, Write};

/// The scopes in which a frontend may be.
const SCOPES: [Scope; 3] = [Scope::INTERNAL, Scope::EXTERNAL, Scope::LOOPBACK];

/// The UDP and SCTP frontends with their backends. A clone is cheap, and is the state of its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatagramServices(Arc<HashMap<ServiceKey, Arc<[Backend]>>>);

impl DatagramServices {
    /// Those of the maps.
    pub fn of(maps: &Observed) -> Self {
        let datagram = maps.services.iter().filter(|(key, _)| is_datagram(key));
        let services = datagram.map(|(key, value)| (*key, backends(maps, value)));
        DatagramServices(Arc::new(services.collect()))
    }

    /// Follows a write that the maps have now.
    pub(crate) fn apply(&mut self, write: &Write, maps: &Observed) {
        match write {
            Write::PutService(key, value) if is_datagram(key) => {
                Arc::make_mut(&mut self.0).insert(*key, backends(maps, value));
            }
            Write::DeleteService(key) if is_datagram(key) => drop(Arc::make_mut(&mut self.0).remove(key)),
            _ => {}
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the frontend has the backend, in either scope; `None` if there is no such frontend.
    pub fn serves(&self, frontend: &SocketAddr, proto: Proto, backend: &Backend) -> Option<bool> {
        let addr = frontend.addr.loopback().unwrap_or(frontend.addr);
        let same_port = Backend { port: Be16(0), ..*backend };
        let has = |backends: &Arc<[Backend]>| {
            backends.contains(backend) || backend.port == frontend.port && backends.contains(&same_port)
        };
        let of_level = |level| {
            let keys = SCOPES.map(|scope| ServiceKey::block(addr, frontend.port, proto, scope, level));
            let found = keys.iter().filter_map(|key| self.0.get(key));
            found.map(has).reduce(|one, other| one || other)
        };
        (0..=Scope::LEVELS).find_map(of_level)
    }
}

/// Whether the writes take a backend from a UDP or SCTP frontend of the maps, or add such a frontend, past which flows may
/// have been opened.
pub(crate) fn may_strand_flows(writes: &[Write], maps: &Observed) -> bool {
    let mut added = Observed::default();
    writes.iter().any(|write| match write {
        Write::PutBackends(..) => {
            added.apply(write);
            false
        }
        Write::DeleteService(key) => is_datagram(key),
        Write::PutService(key, value) if is_datagram(key) => {
            let Some(before) = maps.services.get(key) else { return true };
            // A number has its content in one of the two.
            // A set's number has its content in one of the two.
            let of = |maps: &Observed| backends(maps, value).to_vec();
            let after: BTreeSet<Backend> = [of(&added), of(maps)].into_iter().flatten().collect();
            before.set != value.set && backends(maps, before).iter().any(|backend| !after.contains(backend))
        }
        _ => false,
    })
}

fn is_datagram(key: &ServiceKey) -> bool {
    matches!(key.proto, Proto::UDP | Proto::SCTP)
}

fn backends(maps: &Observed, value: &ServiceValue) -> Arc<[Backend]> {
    maps.backends_of(value.set, value.count).copied().collect()
}

#[cfg(test)]
mod tests {
    use skep_abi::Addr;

    use super::*;

    const fn backend(last: u32) -> Backend {
        Backend { addr: Addr([0, 0, 0, last]), port: Be16::new(53), reserved: 0 }
    }

    fn key(proto: Proto, scope: Scope) -> ServiceKey {
        ServiceKey { addr: Addr([9; 4]), port: Be16::new(53), proto, scope }
    }

    fn puts(set: u32, lasts: &[u32]) -> Vec<Write> {
        let backends: Vec<Backend> = lasts.iter().map(|last| backend(*last)).collect();
        Write::backend_set(set, &backends).collect()
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

    #[test]
    fn what_followed_every_write_is_what_the_maps_have() {
        let mut maps = Observed::default();
        let mut followed = DatagramServices::of(&maps);
        let writes = [
            puts(1, &[1, 2]),
            vec![to(1, 2, Proto::UDP), to(1, 2, Proto::TCP), to(1, 2, Proto::SCTP)],
            puts(2, &[3]),
            vec![to(2, 1, Proto::UDP), Write::DeleteService(key(Proto::SCTP, Scope::INTERNAL))],
        ];
        let before = followed.clone();
        for write in writes.concat() {
            maps.apply(&write);
            followed.apply(&write, &maps);
            assert_eq!(followed, DatagramServices::of(&maps), "{write:?}");
        }
        assert!(before.is_empty() && !followed.is_empty(), "a clone is the state of its time");
    }

    #[test]
    fn a_backend_of_a_block_serves_at_the_port_that_was_addressed() {
        let mut maps = Observed::default();
        let same_port = Backend { port: Be16(0), ..backend(1) };
        Write::backend_set(1, &[same_port]).for_each(|write| maps.apply(&write));
        let block = ServiceKey::block(Addr([9; 4]), Be16::new(40_000), Proto::UDP, Scope::EXTERNAL, 2);
        maps.apply(&Write::PutService(block, ServiceValue { set: 1, count: 1, ..ServiceValue::default() }));
        let services = DatagramServices::of(&maps);
        let serves = |port, at| {
            let backend = Backend { port: Be16::new(at), ..backend(1) };
            services.serves(&SocketAddr::new(Addr([9; 4]), Be16::new(port)), Proto::UDP, &backend)
        };
        assert_eq!([serves(40_001, 40_001), serves(40_001, 40_002)], [Some(true), Some(false)]);
        assert_eq!(serves(41_000, 41_000), None);
    }
}
