//! The cluster's Services as far as environments name them: kept by a watch, reduced to what is used.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::env;

type Key = (String, String);

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
    /// The variables of the services that the pod sees.
    pub fn variables(&self, pod: &Pod) -> Vec<(String, String)> {
        let list = self.list.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        env::of_services(pod, list.values())
    }

    /// True once the first list has come.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Keeps the list up to date. Never ends by itself.
    pub async fn follow(self, client: Client) {
        let api: Api<Service> = Api::all(client);
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        let mut fresh = HashMap::new();
        loop {
            match stream.try_next().await {
                Ok(Some(event)) => self.take(event, &mut fresh),
                Ok(None) => return,
                Err(error) => tracing::debug!(%error, "watch of services failed"),
            }
        }
    }

    fn take(&self, event: watcher::Event<Service>, fresh: &mut HashMap<Key, Service>) {
        let mut list = self.list.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            watcher::Event::Init => fresh.clear(),
            watcher::Event::InitApply(service) => {
                fresh.insert(key(&service), reduce(service));
            }
            watcher::Event::InitDone => {
                *list = std::mem::take(fresh);
                self.synced.send_replace(true);
            }
            watcher::Event::Apply(service) => {
                list.insert(key(&service), reduce(service));
            }
            watcher::Event::Delete(service) => {
                list.remove(&key(&service));
            }
        }
    }
}

fn key(service: &Service) -> Key {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn reduce(service: Service) -> Service {
    let spec = service.spec.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default().into_iter().map(|p| ServicePort {
        name: p.name,
        port: p.port,
        protocol: p.protocol,
        ..Default::default()
    });
    Service {
        metadata: ObjectMeta {
            name: service.metadata.name,
            namespace: service.metadata.namespace,
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: spec.cluster_ip,
            ports: Some(ports.collect()),
            ..Default::default()
        }),
        status: None,
    }
}
