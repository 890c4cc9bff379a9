//! What the cluster stores of Gateway API: statuses, and the Services and EndpointSlices that lead to Gateways.
//!
//! One process of the cluster runs it. In: the same objects that nodes' gateways follow. Out: writes of what differs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use skep_gateway::acme::Requests;
use skep_gateway::gateway_api::{
    CONTROLLER, Publication, StatusUpdate, definitions, is_older, key_of_value, kinds,
};
use skep_gateway::ingress::{Index, Ports};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::acme::Acme;
use super::inputs::{Found, Inputs};
use super::updates::{self, GatewaySubscriptions, Message};
use crate::informers::Informers;

const MANAGER: &str = "skep-gateway";
const QUEUE_LENGTH: usize = 1024;
/// Between two looks at what should be written. The changes of this time are written together.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How long the first statuses wait for Secrets and ConfigMaps.
const FIRST_INPUTS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a definition may take until its kind is served.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// Installs the kinds and the class `skep`; then follows the cluster, and writes until the future is dropped.
pub async fn publish_gateways(client: kube::Client, acme: Acme) {
    while let Err(error) = install(&client).await {
        tracing::warn!(%error, "install the kinds of Gateway API failed; it is retried");
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    let stop = CancellationToken::new();
    let _stop_all = stop.clone().drop_guard();
    let mut informers = Informers::default();
    let subscriptions = GatewaySubscriptions::new(&mut informers);
    let (sender, messages) = mpsc::channel(QUEUE_LENGTH);
    let (found_in, found) = mpsc::channel(QUEUE_LENGTH);
    let (forwarding, nodes) = subscriptions.forward(sender, &stop);
    drop(nodes);
    let (requests_in, requests) = watch::channel(Requests::default());
    let publisher = Publisher {
        index: Index::new(Ports::default()),
        inputs: Inputs::new(client.clone(), found_in),
        client: client.clone(),
        written: HashMap::new(),
        applied: HashMap::new(),
        requests: requests_in,
    };
    tokio::join!(informers.run(client, stop.clone()), publisher.run(messages, found), acme.run(requests));
    drop(forwarding);
}

/// Definitions that are not there, or of an older release, and the class unless it is there.
async fn install(client: &kube::Client) -> kube::Result<()> {
    let api = dynamic(client, "apiextensions.k8s.io", "CustomResourceDefinition", None);
    for wanted in definitions() {
        let mut object = object_of(wanted.clone())?;
        let name = object.metadata.name.clone().unwrap_or_default();
        match api.get_opt(&name).await? {
            None => create(&api, &object).await?,
            Some(existing) => {
                let value = serde_json::to_value(&existing).map_err(kube::Error::SerdeError)?;
                if is_older(&value, &wanted) {
                    object.metadata.resource_version = existing.metadata.resource_version;
                    api.replace(&name, &PostParams::default(), &object).await?;
                }
            }
        }
        let end = Instant::now() + ESTABLISH_TIMEOUT;
        while Instant::now() < end && !is_established(api.get_opt(&name).await?.as_ref()) {
            tokio::time::sleep(WRITE_INTERVAL).await;
        }
    }
    let class = object_of(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "skep"}, "spec": {"controllerName": CONTROLLER},
    }))?;
    create(&dynamic(client, kinds::GROUP, "GatewayClass", None), &class).await
}

fn object_of(value: Value) -> kube::Result<DynamicObject> {
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

/// Creates an object unless it is there.
async fn create(api: &Api<DynamicObject>, object: &DynamicObject) -> kube::Result<()> {
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        created => created.map(drop),
    }
}

fn is_established(definition: Option<&DynamicObject>) -> bool {
    let conditions = definition.and_then(|definition| definition.data["status"]["conditions"].as_array());
    let mut all = conditions.into_iter().flatten();
    all.any(|condition| condition["type"] == "Established" && condition["status"] == "True")
}

struct Publisher {
    index: Index,
    inputs: Inputs,
    client: kube::Client,
    /// The last status that was written of an object, and the version of the object after it.
    written: HashMap<(&'static str, Arc<str>), (Value, String)>,
    /// Services and slices as they were applied, by kind and key.
    applied: HashMap<(&'static str, Arc<str>), Value>,
    /// Certificates to be ordered.
    requests: watch::Sender<Requests>,
}

impl Publisher {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut found: mpsc::Receiver<Found>) {
        let (mut unlisted, mut due) = (updates::KINDS, None);
        let mut deadline: Option<Instant> = None;
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message, &mut unlisted),
                    None => return,
                },
                Some(found) = found.recv() => self.take_input(&found),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.inputs.follow(&mut self.index);
                    let deadline = *deadline.get_or_insert(Instant::now() + FIRST_INPUTS_TIMEOUT);
                    due = match self.inputs.are_pending() && Instant::now() < deadline {
                        true => Some(Instant::now() + WRITE_INTERVAL),
                        false if self.write().await => None,
                        false => Some(Instant::now() + RETRY_INTERVAL),
                    };
                    continue;
                }
            }
            while let Ok(message) = messages.try_recv() {
                self.take(message, &mut unlisted);
            }
            if unlisted == 0 {
                // What failed and waits for its retry holds up no change.
                let soon = Instant::now() + WRITE_INTERVAL;
                due = Some(due.map_or(soon, |due| due.min(soon)));
            }
        }
    }

    fn take(&mut self, message: Message, unlisted: &mut usize) {
        match message {
            Message::Change(change) => change(&mut self.index),
            Message::Listed => *unlisted = unlisted.saturating_sub(1),
        }
    }

    fn take_input(&mut self, found: &Found) {
        self.inputs.take(found, &mut self.index, super::seconds_now());
    }

    /// Whether everything was written.
    async fn write(&mut self) -> bool {
        // What it serves is of no interest here.
        drop(self.index.compile(super::seconds_now()));
        let asked = self.index.acme_requests();
        self.requests.send_if_modified(|requests| {
            let changed = *requests != asked;
            *requests = asked;
            changed
        });
        let (publications, services, slices) = self.index.publications();
        let mut complete = true;
        for publication in &publications {
            complete &= self.publish(publication).await;
        }
        for key in services {
            complete &= self.delete::<Service>("Service", &key).await;
        }
        for key in slices {
            complete &= self.delete::<EndpointSlice>("EndpointSlice", &key).await;
        }
        let wanted: BTreeSet<Arc<str>> = publications
            .iter()
            .flat_map(|publication| publication.slice_keys().into_iter().chain([publication.key()]))
            .collect();
        self.applied.retain(|(_, key), _| wanted.contains(key));
        for update in
            self.index.status_updates(&jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        {
            complete &= self.write_status(update).await;
        }
        complete
    }

    async fn publish(&mut self, publication: &Publication) -> bool {
        if !publication.is_known {
            self.applied.remove(&("Service", publication.key()));
        }
        let mut complete = self.apply("Service", &publication.service).await;
        for slice in &publication.slices {
            complete &= self.apply("EndpointSlice", slice).await;
        }
        complete
    }

    async fn apply(&mut self, kind: &'static str, object: &Value) -> bool {
        let key = key_of_value(object);
        if self.applied.get(&(kind, key.clone())) == Some(object) {
            return true;
        }
        let Some((namespace, name)) = key.split_once('/') else { return true };
        let group = if kind == "Service" { "" } else { "discovery.k8s.io" };
        let api = dynamic(&self.client, group, kind, Some(namespace));
        let params = PatchParams::apply(MANAGER).force();
        match api.patch(name, &params, &Patch::Apply(object)).await {
            Ok(_) => {
                self.applied.insert((kind, key), object.clone());
                true
            }
            Err(error) => {
                tracing::warn!(kind, object = %key, %error, "apply an object of a Gateway failed; it is retried");
                false
            }
        }
    }

    async fn delete<K>(&mut self, kind: &'static str, key: &Arc<str>) -> bool
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let Some((namespace, name)) = key.split_once('/') else { return true };
        self.applied.remove(&(kind, key.clone()));
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 404 => true,
            Err(error) => {
                tracing::warn!(kind, object = %key, %error, "delete an object of a Gateway failed; it is retried");
                false
            }
        }
    }

    async fn write_status(&mut self, update: StatusUpdate) -> bool {
        let StatusUpdate { kind, key, resource_version, status, .. } = update;
        let known = self.written.get(&(kind, key.clone()));
        if known.is_some_and(|(last, version)| *last == status && *version == resource_version) {
            return true;
        }
        let (namespace, name) = match key.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, &*key),
        };
        let api = dynamic(&self.client, kinds::GROUP, kind, namespace);
        let patch = json!({"metadata": {"resourceVersion": resource_version}, "status": status});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_status(name, &params, &Patch::Merge(patch)).await {
            Ok(object) => {
                let version = object.metadata.resource_version.unwrap_or_default();
                self.written.insert((kind, key), (status, version));
                true
            }
            // It changed or is gone; its event follows.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(kind, object = %key, %error, "write status failed; it is retried");
                false
            }
        }
    }
}

fn dynamic(client: &kube::Client, group: &str, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let plural = match kind {
        "BackendTLSPolicy" => "backendtlspolicies".to_owned(),
        "GatewayClass" => "gatewayclasses".to_owned(),
        other => format!("{}s", other.to_ascii_lowercase()),
    };
    let resource = ApiResource { plural, ..resource };
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}
