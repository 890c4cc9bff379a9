//! What the cluster's names mean: facts extracted from API objects.
//!
//! In: objects by `apply_*`, keys by `delete_*`, whole lists by `keep_*`; in any order, each any number of times. Out:
//! look-ups by name and by address. A key is `namespace/name`; for namespaces it is the name.

mod client;
mod service;
mod slice;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use client::Client;
pub use service::{PortFacts, ServiceFacts, ServiceKind};
pub use slice::{EndpointFacts, SliceFacts};

/// The Service at whose addresses nodes answer.
pub const DNS_SERVICE: &str = "kube-system/kube-dns";

/// Facts by key.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: HashSet<Arc<str>>,
    services: HashMap<Arc<str>, ServiceFacts>,
    slices: HashMap<Arc<str>, SliceFacts>,
    slices_of: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Services by cluster IP.
    by_cluster_ip: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Slices by the addresses of endpoints that have a host name.
    by_endpoint_ip: HashMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Pods of this node whose search list is known, by key, and by address.
    clients: HashMap<Arc<str>, Client>,
    by_client_ip: HashMap<IpAddr, Arc<str>>,
}

/// `namespace/name`, or the name alone for objects without a namespace.
pub fn key_of(meta: &ObjectMeta) -> Arc<str> {
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}").into(),
        None => name.into(),
    }
}

/// Namespace and name of a key.
pub(crate) fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

impl Index {
    pub fn apply_namespace(&mut self, namespace: &Namespace) {
        self.namespaces.insert(key_of(&namespace.metadata));
    }

    pub fn delete_namespace(&mut self, key: &str) {
        self.namespaces.remove(key);
    }

    pub fn apply_service(&mut self, service: &Service) {
        let key = key_of(&service.metadata);
        self.delete_service(&key);
        let Some(facts) = ServiceFacts::extract(service) else { return };
        for ip in facts.cluster_ips() {
            self.by_cluster_ip.entry(*ip).or_default().insert(key.clone());
        }
        self.services.insert(key, facts);
    }

    pub fn delete_service(&mut self, key: &str) {
        let Some(facts) = self.services.remove(key) else { return };
        for ip in facts.cluster_ips() {
            remove_from(&mut self.by_cluster_ip, ip, key);
        }
    }

    pub fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = key_of(&slice.metadata);
        self.delete_slice(&key);
        let Some(facts) = SliceFacts::extract(slice) else { return };
        for endpoint in facts.endpoints.iter().filter(|endpoint| endpoint.hostname.is_some()) {
            self.by_endpoint_ip.entry(endpoint.ip).or_default().insert(key.clone());
        }
        self.slices_of.entry(facts.service.clone()).or_default().insert(key.clone());
        self.slices.insert(key, facts);
    }

    pub fn delete_slice(&mut self, key: &str) {
        let Some(facts) = self.slices.remove(key) else { return };
        for endpoint in &facts.endpoints {
            remove_from(&mut self.by_endpoint_ip, &endpoint.ip, key);
        }
        remove_from(&mut self.slices_of, &facts.service, key);
    }

    /// Only pods of this node: their questions arrive here.
    pub fn apply_pod(&mut self, pod: &Pod) {
        let key = key_of(&pod.metadata);
        self.delete_pod(&key);
        let Some(client) = Client::extract(pod) else { return };
        for ip in &client.ips {
            self.by_client_ip.insert(*ip, key.clone());
        }
        self.clients.insert(key, client);
    }

    pub fn delete_pod(&mut self, key: &str) {
        let Some(client) = self.clients.remove(key) else { return };
        for ip in &client.ips {
            // Another pod may have the address by now.
            if self.by_client_ip.get(ip).is_some_and(|owner| **owner == *key) {
                self.by_client_ip.remove(ip);
            }
        }
    }

    /// After a complete list: deletes the services that are not in it. The other `keep_*` do the same for their kinds.
    pub fn keep_services(&mut self, listed: &HashSet<Arc<str>>) {
        missing(self.services.keys(), listed).iter().for_each(|key| self.delete_service(key));
    }

    pub fn keep_slices(&mut self, listed: &HashSet<Arc<str>>) {
        missing(self.slices.keys(), listed).iter().for_each(|key| self.delete_slice(key));
    }

    pub fn keep_pods(&mut self, listed: &HashSet<Arc<str>>) {
        missing(self.clients.keys(), listed).iter().for_each(|key| self.delete_pod(key));
    }

    pub fn keep_namespaces(&mut self, listed: &HashSet<Arc<str>>) {
        self.namespaces.retain(|key| listed.contains(key));
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<(&Arc<str>, &ServiceFacts)> {
        self.services.get_key_value(format!("{namespace}/{name}").as_str())
    }

    /// The addresses of [`DNS_SERVICE`].
    pub(crate) fn dns_addrs(&self) -> &[IpAddr] {
        self.services.get(DNS_SERVICE).map(ServiceFacts::cluster_ips).unwrap_or_default()
    }

    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &SliceFacts> + Clone {
        let keys = self.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    /// The first Service with the cluster IP, by key.
    pub(crate) fn service_at(&self, ip: &IpAddr) -> Option<&Arc<str>> {
        self.by_cluster_ip.get(ip)?.first()
    }

    /// Slices with an endpoint that has the address and a host name.
    pub(crate) fn slices_at(&self, ip: &IpAddr) -> impl Iterator<Item = &SliceFacts> {
        let keys = self.by_endpoint_ip.get(ip).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    /// The pod of this node with the address, if names are searched for it.
    pub fn client_at(&self, ip: &IpAddr) -> Option<&Client> {
        self.clients.get(self.by_client_ip.get(ip)?)
    }
}

fn remove_from<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<Arc<str>>>, at: &K, key: &str) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}

fn missing<'a>(known: impl Iterator<Item = &'a Arc<str>>, listed: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
    known.filter(|key| !listed.contains(*key)).cloned().collect()
}
