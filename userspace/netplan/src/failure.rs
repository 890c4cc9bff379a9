//! Writes that failed: what waits for them, what they belong to, and when they may be tried again.
//!
//! In: writes with the errors of their kernel calls. Out: the writes that must not follow them, and [`Unit`]s: parts of
//! the plan that fail and are retried alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use skep_abi::Addr;
use skep_policy::Prefix;

use crate::write::Write;

/// Failed services of one plan that are reported one by one; with more the cause is the node, not a service.
const MAX_FAILED_SERVICES: usize = 64;

/// A part of the plan that fails, and is retried, without the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Frontends of one service, with their backends.
    Service(Arc<str>),
    /// Many services, or entries of services that are gone.
    Services,
    /// The generation of policies, and the pods that need it.
    Policy,
    /// A prefix inside the cluster.
    Cluster(Prefix),
    /// Another node's address.
    Node(Addr),
    /// The route to another node's pods.
    Route(IpNetwork),
    /// The route that refuses packets to this node's pods that do not exist.
    Unreachable(IpNetwork),
    /// Entries that nothing uses any more.
    Garbage,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Service(key) => write!(f, "service {key}"),
            Unit::Services => f.write_str("services"),
            Unit::Policy => f.write_str("policies and pods"),
            Unit::Cluster((bits, addr)) => {
                let addr = IpAddr::from(*addr);
                let family_bits = if addr.is_ipv4() { Addr::V4_PREFIX_BITS } else { 0 };
                write!(f, "prefix {addr}/{} of the cluster", bits.saturating_sub(family_bits))
            }
            Unit::Node(addr) => write!(f, "node {}", IpAddr::from(*addr)),
            Unit::Route(cidr) => write!(f, "route to pods {cidr}"),
            Unit::Unreachable(cidr) => write!(f, "unreachable route for pods {cidr}"),
            Unit::Garbage => f.write_str("unused entries"),
        }
    }
}

/// The last failure of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// Nothing is wrong: the network does without this write what the write is for. It is tried again all the same,
    /// since that may end.
    pub needless: bool,
    /// How often the unit failed since it last succeeded.
    pub attempts: u32,
    /// The unit waits for [`crate::Planner::retry`].
    held: bool,
    /// The write of a unit that has only one.
    write: Option<Write>,
}

/// Units that failed, until they succeed.
#[derive(Debug, Default)]
pub(crate) struct Failures(BTreeMap<Unit, Failure>);

impl Failures {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Unit, &Failure)> {
        self.0.iter()
    }

    pub(crate) fn get(&self, unit: &Unit) -> Option<&Failure> {
        self.0.get(unit)
    }

    pub(crate) fn is_held(&self, unit: &Unit) -> bool {
        self.0.get(unit).is_some_and(|failure| failure.held)
    }

    /// Whether this same write failed and waits.
    pub(crate) fn holds(&self, write: &Write) -> bool {
        let failure = own_unit(write).and_then(|unit| self.0.get(&unit));
        failure.is_some_and(|failure| failure.held && failure.write.as_ref() == Some(write))
    }

    pub(crate) fn release(&mut self, unit: &Unit) {
        if let Some(failure) = self.0.get_mut(unit) {
            failure.held = false;
        }
    }

    /// Forgets routes and prefixes whose writes are no longer wanted.
    pub(crate) fn keep_wanted(&mut self, wanted: &[Write]) {
        let wanted: BTreeSet<Unit> = wanted.iter().filter_map(own_unit).collect();
        let has_own_write = |unit: &Unit| {
            matches!(unit, Unit::Cluster(_) | Unit::Node(_) | Unit::Route(_) | Unit::Unreachable(_))
        };
        self.0.retain(|unit, _| !has_own_write(unit) || wanted.contains(unit));
    }

    pub(crate) fn succeeded(&mut self, unit: &Unit) {
        self.0.remove(unit);
    }

    pub(crate) fn failed(&mut self, unit: Unit, cause: &Cause) {
        let attempts = self.0.get(&unit).map_or(0, |failure| failure.attempts).saturating_add(1);
        let write = cause.write.clone().filter(|write| own_unit(write).as_ref() == Some(&unit));
        let Cause { reason, needless, .. } = cause.clone();
        self.0.insert(unit, Failure { reason, needless, attempts, held: true, write });
    }

    /// The services that were `tried` succeeded, except for those in `failed`. `other` is a failure of no one service.
    pub(crate) fn services(
        &mut self,
        tried: impl Fn(&Unit) -> bool,
        mut failed: BTreeMap<Arc<str>, Cause>,
        other: Option<&Cause>,
    ) {
        let mut other = other.cloned();
        if failed.len() > MAX_FAILED_SERVICES
            && let Some((key, cause)) = failed.pop_first()
        {
            let reason = format!("{} services failed; service {key}: {}", failed.len() + 1, cause.reason);
            other = Some(Cause { reason, needless: false, write: None });
            failed.clear();
        }
        self.0.retain(|unit, _| match unit {
            Unit::Service(key) => !tried(unit) || failed.contains_key(key),
            Unit::Services => !tried(unit) || other.is_some(),
            _ => true,
        });
        failed.into_iter().for_each(|(key, cause)| self.failed(Unit::Service(key), &cause));
        if let Some(cause) = other {
            self.failed(Unit::Services, &cause);
        }
    }
}

/// The unit of a write that is one alone.
pub(crate) fn own_unit(write: &Write) -> Option<Unit> {
    match write {
        Write::PutCluster { prefix_bits, addr } | Write::DeleteCluster { prefix_bits, addr } => {
            Some(Unit::Cluster((*prefix_bits, *addr)))
        }
        Write::PutNode(addr) | Write::DeleteNode(addr) => Some(Unit::Node(*addr)),
        Write::PutRoute { cidr, .. } | Write::DeleteRoute { cidr } => Some(Unit::Route(*cidr)),
        Write::PutUnreachable { cidr } | Write::DeleteUnreachable { cidr } => Some(Unit::Unreachable(*cidr)),
        _ => None,
    }
}

/// Whether the write is one of a generation of policies.
pub(crate) fn is_policy(write: &Write) -> bool {
    matches!(
        write,
        Write::PutClass { .. }
            | Write::DeleteClass { .. }
            | Write::ClearClasses { .. }
            | Write::CreateVerdictMap { .. }
            | Write::DropVerdictMap { .. }
            | Write::PutVerdicts { .. }
            | Write::DeleteVerdicts { .. }
            | Write::SetGeneration(_)
            | Write::PutPod(..)
            | Write::DeletePod(_)
    )
}

/// Why a write was not made.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    pub(crate) reason: String,
    pub(crate) needless: bool,
    pub(crate) write: Option<Write>,
}

/// What is incomplete in the kernel, with the position of the write that failed first.
#[derive(Debug, Default)]
pub(crate) struct Incomplete {
    sets: BTreeMap<u32, usize>,
    tables: BTreeMap<u32, usize>,
    lists: BTreeMap<u32, usize>,
    cluster: BTreeMap<Prefix, usize>,
    policy: Option<usize>,
}

impl Incomplete {
    pub(crate) fn add(&mut self, position: usize, write: &Write) {
        match write {
            Write::PutBackends(key, _) => {
                self.sets.entry(key.set).or_insert(position);
            }
            Write::PutMaglev(key, _) => {
                self.tables.entry(key.set).or_insert(position);
            }
            Write::PutRange { list, .. } => {
                self.lists.entry(*list).or_insert(position);
            }
            Write::PutCluster { prefix_bits, addr } => {
                self.cluster.insert((*prefix_bits, *addr), position);
            }
            write if is_policy(write) => {
                self.policy.get_or_insert(position);
            }
            _ => {}
        }
    }

    /// The failed write without which this one must not be made: it would show the programs a half of something.
    pub(crate) fn holds_up(&self, write: &Write) -> Option<usize> {
        match write {
            Write::PutBackends(key, _) => self.sets.get(&key.set).copied(),
            Write::PutMaglev(key, _) => {
                self.sets.get(&key.set).or_else(|| self.tables.get(&key.set)).copied()
            }
            Write::PutRange { list, .. } => self.lists.get(list).copied(),
            Write::PutService(key, value) => {
                let set = self.sets.get(&value.set).filter(|_| value.count > 0);
                let table = self.tables.get(&value.set).filter(|_| key.scope.is_external());
                set.or(table).or_else(|| self.lists.get(&value.ranges)).copied()
            }
            // The addresses of a prefix that could not be written would leave the cluster.
            Write::DeleteCluster { prefix_bits, addr } => {
                let gone = crate::routes::range((*prefix_bits, *addr));
                let overlaps = |prefix: &Prefix| {
                    let (first, last) = crate::routes::range(*prefix);
                    first <= gone.1 && gone.0 <= last
                };
                self.cluster.iter().find(|(prefix, _)| overlaps(prefix)).map(|(_, position)| *position)
            }
            write if is_policy(write) => self.policy,
            _ => None,
        }
    }
}
