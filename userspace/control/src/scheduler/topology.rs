//! The domains of a topology, found once for all pods that count the same nodes, until a node changes. PURE.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Which nodes are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CountedNodes {
    /// The topology.
    pub(super) key: String,
    /// Labels that a node must have, sorted.
    pub(super) labels: Vec<String>,
    /// The node selector and node affinity of the pod, as JSON, if they matter.
    pub(super) affinity: Option<String>,
    /// The tolerations of the pod, as JSON, if they matter.
    pub(super) tolerations: Option<String>,
}

/// The values of a topology's label, numbered.
#[derive(Debug, Default)]
pub(super) struct Domains(HashMap<String, usize>);

impl Domains {
    pub(super) fn of<'v>(values: impl Iterator<Item = &'v str>) -> Domains {
        let mut domains = Domains::default();
        for value in values {
            if !domains.0.contains_key(value) {
                domains.0.insert(value.to_owned(), domains.0.len());
            }
        }
        domains
    }

    pub(super) fn number(&self, value: &str) -> Option<usize> {
        self.0.get(value).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Pods of more kinds are rare; all entries are dropped then.
const MAX_ENTRIES: usize = 1024;

/// The domains found so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Topologies(RefCell<HashMap<CountedNodes, Arc<Domains>>>);

impl Topologies {
    pub(super) fn domains(&self, counted: CountedNodes, find: impl FnOnce() -> Domains) -> Arc<Domains> {
        let known = self.0.borrow().get(&counted).cloned();
        known.unwrap_or_else(|| {
            let found = Arc::new(find());
            let mut all = self.0.borrow_mut();
            if all.len() >= MAX_ENTRIES {
                all.clear();
            }
            all.insert(counted, found.clone());
            found
        })
    }

    /// A node has come, changed or gone.
    pub(super) fn forget(&mut self) {
        self.0.get_mut().clear();
    }
}
