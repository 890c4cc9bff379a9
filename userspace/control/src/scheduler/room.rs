//! What a node has for pods, and what its pods take of it. PURE.

use std::collections::BTreeMap;

use skep_api::fit::{Amounts, HostPort};

/// What a pod takes of its node.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    pub(super) requested: Amounts,
    pub(super) ports: Vec<HostPort>,
}

/// The room of a node. It is small: a dry run works on a copy.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    pub(super) allocatable: Amounts,
    pub(super) max_pods: i64,
    pub(super) requested: Amounts,
    pub(super) pods: i64,
    /// By number of pods: two running pods never hold the same port, but a finished and a new one may.
    ports: BTreeMap<HostPort, usize>,
}

impl Room {
    pub(super) fn add(&mut self, demand: &Demand) {
        self.pods += 1;
        self.requested.add(&demand.requested);
        for port in &demand.ports {
            *self.ports.entry(port.clone()).or_default() += 1;
        }
    }

    pub(super) fn subtract(&mut self, demand: &Demand) {
        self.pods -= 1;
        self.requested.subtract(&demand.requested);
        for port in &demand.ports {
            if let Some(count) = self.ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(port);
                }
            }
        }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &HostPort> {
        self.ports.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_two_pods_is_free_when_both_are_gone() {
        let port: HostPort = ("TCP".to_owned(), String::new(), 80);
        let demand = Demand { ports: vec![port.clone()], ..Demand::default() };
        let mut room = Room::default();
        room.add(&demand);
        room.add(&demand);
        room.subtract(&demand);
        assert_eq!((room.pods, room.ports().collect::<Vec<_>>()), (1, vec![&port]));
        room.subtract(&demand);
        assert_eq!((room.pods, room.ports().count()), (0, 0));
    }
}
