//! Events about problems, on the objects that they are about.
//!
//! In: [`Report`]s, by their text. Out: one Event for each when it appears. A problem that lies in an object exists on every node:
//! its Event's name is made from its content, so the cluster has it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use skep_abi::StableHasher;
use skep_netplan::{Problem, Subject};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::problems::Problems;

/// Where Events about objects without a namespace are.
const DEFAULT_NAMESPACE: &str = "default";
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Events of one round; the others follow a [`RETRY_INTERVAL`] later.
const MAX_EVENTS: usize = 50;

/// What is said about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Who says it.
    pub(crate) component: &'static str,
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    /// Empty: the object has none.
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Other nodes do not have it.
    pub(crate) is_of_node: bool,
}

/// Runs until `stop` is cancelled or the sender is gone. `reports` gives those of a value by their text.
pub(crate) async fn report<T: Clone>(
    client: kube::Client,
    node: String,
    mut values: watch::Receiver<T>,
    reports: impl Fn(&T, &str) -> BTreeMap<String, Report>,
    stop: CancellationToken,
) {
    let follow = async {
        let mut sent: BTreeSet<String> = BTreeSet::new();
        loop {
            let value = values.borrow_and_update().clone();
            let now = reports(&value, &node);
            sent.retain(|text| now.contains_key(text));
            let new: Vec<_> = now.iter().filter(|(text, _)| !sent.contains(*text)).collect();
            let mut complete = new.len() <= MAX_EVENTS;
            for (text, report) in new.into_iter().take(MAX_EVENTS) {
                match create(&client, &event(report, &node, Timestamp::now())).await {
                    Ok(()) => drop(sent.insert(text.clone())),
                    Err(error) => {
                        tracing::debug!(problem = text, %error, "create event failed");
                        complete = false;
                        break;
                    }
                }
            }
            tokio::select! {
                changed = values.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY_INTERVAL), if !complete => {}
            }
        }
    };
    stop.run_until_cancelled(follow).await;
}

/// An Event that exists already, by this agent or by that of another node, is enough.
async fn create(client: &kube::Client, event: &Event) -> kube::Result<()> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    match events.create(&PostParams::default(), event).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        // The object or its namespace is gone, and the Event has no reader.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The network's problems.
pub(crate) fn of_problems(problems: &Problems, node: &str) -> BTreeMap<String, Report> {
    problems.iter().map(|(text, problem)| (text.clone(), of_problem(problem, node))).collect()
}

fn of_problem(problem: &Problem, node: &str) -> Report {
    let (api_version, kind, namespace, name) = match problem.subject() {
        Subject::ThisNode => ("v1", "Node", String::new(), node.to_owned()),
        Subject::Node(name) => ("v1", "Node", String::new(), name.to_string()),
        Subject::Service(key) => match key.split_once('/') {
            Some((namespace, name)) => ("v1", "Service", namespace.to_owned(), name.to_owned()),
            None => ("v1", "Service", String::new(), key.to_string()),
        },
        Subject::Policy(key) => {
            ("networking.k8s.io/v1", "NetworkPolicy", key.namespace.to_string(), key.name.to_string())
        }
    };
    let (reason, message, is_of_node) = (problem.reason(), problem.to_string(), problem.is_of_node());
    Report { component: "skep-network", api_version, kind, namespace, name, reason, message, is_of_node }
}

fn event(report: &Report, node: &str, now: Timestamp) -> Event {
    let Report { component, api_version, kind, namespace, name, reason, message, is_of_node } = report;
    let namespace = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let author = if *is_of_node { node } else { "" };
    let hash = StableHasher::new().text(message).text(author).finish();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{hash:016x}")),
            namespace: Some(namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some((*api_version).to_owned()),
            kind: Some((*kind).to_owned()),
            namespace: namespace.map(str::to_owned),
            name: Some(name.clone()),
            // kubectl finds a node's Events by its name in this field.
            uid: namespace.is_none().then(|| name.clone()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some((*reason).to_owned()),
        message: Some(message.clone()),
        source: Some(EventSource { component: Some((*component).to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some((*component).to_owned()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_an_object_has_one_event_in_the_cluster_and_one_of_a_node_has_its_own() {
        let in_object = Problem::Forwarding { service: "ns/web".into() };
        let event_of =
            |problem: &Problem, node: &str| event(&of_problem(problem, node), node, Timestamp::UNIX_EPOCH);
        let names = |problem: &Problem| ["a", "b"].map(|node| event_of(problem, node).metadata.name);
        let [first, second] = names(&in_object);
        assert_eq!(first, second);
        let of_node = Problem::ServicesFull { service: "ns/web".into() };
        let [first, second] = names(&of_node);
        assert_ne!(first, second);
        let object = event_of(&of_node, "a").involved_object;
        assert_eq!((object.kind.as_deref(), object.namespace.as_deref()), (Some("Service"), Some("ns")));
    }
}
