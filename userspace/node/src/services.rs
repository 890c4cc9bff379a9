//! The cluster's Services, reduced to the fields that containers' environments name.
//!
//! In: the informer's events. Out: the service variables of a pod's environment, and the cluster's name servers.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::decode::Unreadable;
use skep_api::watch::WatchEvent;
use tokio::sync::watch;

use crate::config::Events;
use crate::env;

/// How long a pod's start waits for the list.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Namespace and name of the Service at whose addresses the cluster's DNS answers.
const DNS: (&str, &str) = ("kube-system", "kube-dns");

/// Namespace and name.
type Key = (String, String);

/// Cheap to clone; all clones share one list.
#[derive(Clone)]
pub struct Services {
    list: Arc<RwLock<HashMap<Key, Service>>>,
    synced: Arc<watch::Sender<bool>>,
}

impl Default for Services {
    fn default() -> Self {
        Self { list: Arc::default(), synced: Arc::new(watch::Sender::new(false)) }
    }
}

impl Services {
    /// The environment variables of the Services in the pod's view.
    pub fn variables(&self, pod: &Pod) -> Vec<(String, String)> {
        let list = self.list.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        env::of_services(pod, list.values())
    }

    /// The addresses of the cluster's DNS; empty: there is none.
    pub fn name_servers(&self) -> Vec<String> {
        let list = self.list.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let spec = list.get(&(DNS.0.to_owned(), DNS.1.to_owned())).and_then(|service| service.spec.as_ref());
        let all = spec.and_then(|spec| spec.cluster_ips.clone()).filter(|ips| !ips.is_empty());
        let ips = all.or_else(|| spec?.cluster_ip.clone().map(|ip| vec![ip]));
        ips.unwrap_or_default().into_iter().filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).collect()
    }

    /// Right after the agent's start the list may be incomplete. Without an API server pods start without it.
    pub async fn wait_until_listed(&self) {
        let mut synced = self.synced.subscribe();
        let _ = tokio::time::timeout(LIST_TIMEOUT, synced.wait_for(|synced| *synced)).await;
    }

    /// Keeps the list up to date until the informer ends.
    pub async fn follow(self, mut events: Events<Service>) {
        let mut relisted = HashMap::new();
        while let Some(event) = events.recv().await {
            self.apply(event, &mut relisted);
        }
    }

    fn apply(&self, event: WatchEvent<Arc<Service>>, relisted: &mut HashMap<Key, Service>) {
        let mut list = self.list.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            WatchEvent::Init => relisted.clear(),
            WatchEvent::InitKeep(Unreadable { namespace, name, .. }) => {
                let key = (namespace, name);
                if let Some(known) = list.get(&key) {
                    relisted.insert(key, known.clone());
                }
            }
            WatchEvent::InitApply(service) => {
                relisted.insert(key(&service), reduce(&service));
            }
            WatchEvent::InitDone => {
                *list = std::mem::take(relisted);
                self.synced.send_replace(true);
            }
            WatchEvent::Apply(service) => {
                list.insert(key(&service), reduce(&service));
            }
            WatchEvent::Delete(service) => {
                list.remove(&key(&service));
            }
            WatchEvent::DeleteUnreadable(Unreadable { namespace, name, .. }) => {
                list.remove(&(namespace, name));
            }
        }
    }
}

fn key(service: &Service) -> Key {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn reduce(service: &Service) -> Service {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten().map(|port| ServicePort {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol.clone(),
        ..Default::default()
    });
    Service {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: spec.and_then(|spec| spec.cluster_ip.clone()),
            cluster_ips: spec.and_then(|spec| spec.cluster_ips.clone()),
            ports: Some(ports.collect()),
            ..Default::default()
        }),
        status: None,
    }
}
