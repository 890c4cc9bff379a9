//! The cluster's Services, reduced to the fields that containers' environments name.
//!
//! In: the informer's events. Out: the service variables of a pod's environment.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::decode::Unreadable;
use skep_api::watch::WatchEvent;
use tokio::sync::watch;

use crate::config::Events;
use crate::env;

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

    /// True as soon as the first list is complete.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
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
            ports: Some(ports.collect()),
            ..Default::default()
        }),
        status: None,
    }
}
