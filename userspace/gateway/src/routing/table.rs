//! The compiled rules. PURE.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::host::{HostPattern, HostTable};
use super::path_table::PathTable;
use super::rule::{Conditions, Rule};

/// What a route is found by.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    /// In the form of [`super::host::host_of`]. Empty for a request of HTTP/1.0 that names none.
    pub host: &'a str,
    /// [`super::RequestPath::matched`].
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// No rule matches a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no route")]
pub struct Unroutable;

/// All rules of a listener. The cost of a look-up depends on the request's host and path, and on how many rules have the same host
/// and path; not on how many rules there are.
///
/// The most specific host comes first, then the most specific path, then the most conditions, then the first rule. If no rule of a
/// host matches, those of less specific hosts are tried.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    /// A table that is made from another one shares the paths of its hosts.
    hosts: HostTable<Arc<PathTable<Entry<T>>>>,
    /// For requests that no rule matches.
    defaults: HostTable<T>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    conditions: Conditions,
    target: T,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        RouteTable { hosts: HostTable::default(), defaults: HostTable::default() }
    }
}

impl<T> RouteTable<T> {
    /// Of rules that are equal, and of defaults of the same hosts, the first is in force: the oldest comes first.
    pub fn compile(
        rules: impl IntoIterator<Item = Rule<T>>,
        defaults: impl IntoIterator<Item = (HostPattern, T)>,
    ) -> RouteTable<T> {
        let mut hosts: HostTable<PathTable<Entry<T>>> = HostTable::default();
        for Rule { host, path, conditions, target } in rules {
            hosts.entry(host, PathTable::default).insert(&path, Entry { conditions, target });
        }
        let hosts = hosts.map(|mut paths| {
            paths.link(|entry| entry.conditions.order());
            Arc::new(paths)
        });
        let mut by_host = HostTable::default();
        for (host, target) in defaults {
            by_host.entry(host, || target);
        }
        RouteTable { hosts, defaults: by_host }
    }

    /// Adds the rules and defaults of another table, which has none of a host of this one.
    pub fn absorb(&mut self, other: RouteTable<T>) {
        let RouteTable { hosts, defaults } = other;
        self.hosts.absorb(hosts);
        self.defaults.absorb(defaults);
    }

    /// Removes the rules and the default of a host.
    pub fn remove(&mut self, host: &HostPattern) {
        self.hosts.remove(host);
        self.defaults.remove(host);
    }

    /// The hosts that it has rules or a default for; some come twice.
    pub fn patterns(&self) -> impl Iterator<Item = HostPattern> {
        self.hosts.patterns().chain(self.defaults.patterns())
    }

    /// Where a request goes.
    pub fn find(&self, request: &RequestHead<'_>) -> Result<&T, Unroutable> {
        let RequestHead { host, path, .. } = *request;
        for paths in self.hosts.find(host) {
            let found = paths.find(path).find(|entry| entry.conditions.hold(request));
            if let Some(entry) = found {
                return Ok(&entry.target);
            }
        }
        self.defaults.find(host).next().ok_or(Unroutable)
    }
}
