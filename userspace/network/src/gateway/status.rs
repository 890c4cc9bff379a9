//! The addresses in the statuses of Ingresses: those of all nodes whose gateway listens.
//!
//! Each node knows which ones those are, and the first of them by name writes. While two nodes see different ones, both write what is the
//! same in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use skep_api::watch::WatchEvent;
use tokio::sync::watch;
use tokio::time::sleep;

use super::CONDITION;
use crate::informers::Events;

/// By Ingress: the addresses that its status has.
pub(super) type Statuses = BTreeMap<Arc<str>, BTreeSet<IpAddr>>;

const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes while this node is the one that writes, until the events end.
pub(super) async fn write(
    client: kube::Client,
    node: String,
    mut nodes: Events<Node>,
    mut statuses: watch::Receiver<Statuses>,
) {
    let mut serving = Serving::default();
    loop {
        let now = statuses.borrow_and_update().clone();
        let complete = match serving.writer() == Some(&node) {
            true => write_all(&client, &now, &serving.addresses()).await,
            false => true,
        };
        tokio::select! {
            event = nodes.recv() => match event {
                Some(event) => serving.take(event),
                None => return,
            },
            changed = statuses.changed() => if changed.is_err() {
                return;
            },
            () = sleep(RETRY_INTERVAL), if !complete => {}
        }
        while let Ok(event) = nodes.try_recv() {
            serving.take(event);
        }
    }
}

/// Writes the statuses that differ; whether all were written.
async fn write_all(client: &kube::Client, statuses: &Statuses, wanted: &BTreeSet<IpAddr>) -> bool {
    let mut complete = true;
    for (key, _) in statuses.iter().filter(|(_, addresses)| *addresses != wanted) {
        let Some((namespace, name)) = key.split_once('/') else { continue };
        let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(patch(wanted));
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            // It is gone; its event follows.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::debug!(ingress = %key, %error, "write status failed; it is retried");
                complete = false;
            }
        }
    }
    complete
}

fn patch(addresses: &BTreeSet<IpAddr>) -> Value {
    let entries: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"status": {"loadBalancer": {"ingress": entries}}})
}

/// The nodes whose gateway listens, and their addresses.
#[derive(Default)]
struct Serving {
    nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Names of a list that is not complete yet.
    listed: BTreeSet<String>,
}

impl Serving {
    fn take(&mut self, event: WatchEvent<Arc<Node>>) {
        match event {
            WatchEvent::Init => self.listed.clear(),
            WatchEvent::InitApply(node) => {
                self.listed.insert(name_of(&node).to_owned());
                self.apply(&node);
            }
            WatchEvent::InitKeep(unreadable) => drop(self.listed.insert(unreadable.name)),
            WatchEvent::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.nodes.retain(|name, _| listed.contains(name));
            }
            WatchEvent::Apply(node) => self.apply(&node),
            WatchEvent::Delete(node) => drop(self.nodes.remove(name_of(&node))),
            WatchEvent::DeleteUnreadable(unreadable) => drop(self.nodes.remove(&unreadable.name)),
        }
    }

    fn apply(&mut self, node: &Node) {
        match serves(node) {
            true => drop(self.nodes.insert(name_of(node).to_owned(), addresses_of(node))),
            false => drop(self.nodes.remove(name_of(node))),
        }
    }

    fn writer(&self) -> Option<&String> {
        self.nodes.keys().next()
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.nodes.values().flatten().copied().collect()
    }
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Whether its gateway listens, and nothing says that the node is down.
fn serves(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let state = |name: &str| {
        conditions.iter().find(|condition| condition.type_ == name).map(|condition| condition.status.as_str())
    };
    state(CONDITION) == Some("True") && matches!(state("Ready"), None | Some("True"))
}

/// Those to the outside if the node has any, else those of the cluster.
fn addresses_of(node: &Node) -> BTreeSet<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &str| -> BTreeSet<IpAddr> {
        let addresses = all.iter().filter(|address| address.type_ == kind);
        addresses.filter_map(|address| address.address.parse().ok()).collect()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, gateway: &str, ready: &str, ip: &str) -> Arc<Node> {
        let conditions = [(CONDITION, gateway), ("Ready", ready)]
            .map(|(kind, status)| json!({"type": kind, "status": status}));
        let status = json!({"conditions": conditions, "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
    }

    #[test]
    fn the_first_node_that_serves_writes_the_addresses_of_all() {
        let mut serving = Serving::default();
        let addresses =
            |serving: &Serving| serving.addresses().iter().map(ToString::to_string).collect::<Vec<_>>();
        serving.take(WatchEvent::Init);
        for node in [
            node("c", "True", "True", "192.0.2.3"),
            node("b", "True", "True", "192.0.2.2"),
            node("a", "False", "True", "192.0.2.1"),
            node("d", "True", "Unknown", "192.0.2.4"),
        ] {
            serving.take(WatchEvent::InitApply(node));
        }
        serving.take(WatchEvent::InitDone);
        assert_eq!(
            (serving.writer().map(String::as_str), addresses(&serving)),
            (Some("b"), vec!["192.0.2.2".into(), "192.0.2.3".into()])
        );
        serving.take(WatchEvent::Apply(node("b", "True", "False", "192.0.2.2")));
        assert_eq!(serving.writer().map(String::as_str), Some("c"));
        serving.take(WatchEvent::Delete(node("c", "True", "True", "192.0.2.3")));
        assert_eq!((serving.writer(), addresses(&serving)), (None, Vec::new()));
    }

    #[test]
    fn an_address_to_the_outside_comes_first() {
        let status = json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "192.0.2.1"}]});
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap();
        assert_eq!(addresses_of(&node), BTreeSet::from(["192.0.2.1".parse().unwrap()]));
    }
}
