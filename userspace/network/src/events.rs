//! Events about problems, on the objects that they are about.
//!
//! In: [`Problems`]. Out: one Event for each problem when it appears. A problem that lies in an object exists on every node:
//! its Event's name is made from its content, so the cluster has it once.

use std::collections::BTreeSet;
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

const COMPONENT: &str = "skep-network";
/// Where Events about objects without a namespace are.
const DEFAULT_NAMESPACE: &str = "default";
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Events of one round; the others follow a [`RETRY_INTERVAL`] later.
const MAX_EVENTS: usize = 50;

/// Runs until `stop` is cancelled or the engine has ended.
pub(crate) async fn report(
    client: kube::Client,
    node: String,
    mut problems: watch::Receiver<Problems>,
    stop: CancellationToken,
) {
    let follow = async {
        let mut sent: BTreeSet<String> = BTreeSet::new();
        loop {
            let now = problems.borrow_and_update().clone();
            sent.retain(|text| now.iter().any(|(problem, _)| problem == text));
            let new: Vec<_> = now.iter().filter(|(text, _)| !sent.contains(*text)).collect();
            let mut complete = new.len() <= MAX_EVENTS;
            for (text, problem) in new.into_iter().take(MAX_EVENTS) {
                match create(&client, &event(problem, &node, Timestamp::now())).await {
                    Ok(()) => drop(sent.insert(text.clone())),
                    Err(error) => {
                        tracing::debug!(problem = text, %error, "create event failed");
                        complete = false;
                        break;
                    }
                }
            }
            tokio::select! {
                changed = problems.changed() => if changed.is_err() { return },
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

fn event(problem: &Problem, node: &str, now: Timestamp) -> Event {
    let subject = match problem.subject() {
        Subject::ThisNode => Subject::Node(node.into()),
        subject => subject,
    };
    let (api_version, kind, namespace, name) = match &subject {
        Subject::ThisNode => ("v1", "Node", None, node),
        Subject::Node(name) => ("v1", "Node", None, name.as_ref()),
        Subject::Service(key) => match key.split_once('/') {
            Some((namespace, name)) => ("v1", "Service", Some(namespace), name),
            None => ("v1", "Service", None, key.as_ref()),
        },
        Subject::Policy(key) => {
            ("networking.k8s.io/v1", "NetworkPolicy", Some(key.namespace.as_ref()), key.name.as_ref())
        }
    };
    let message = problem.to_string();
    let author = if problem.is_of_node() { node } else { "" };
    let hash = StableHasher::new().text(&message).text(author).finish();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{hash:016x}")),
            namespace: Some(namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            // kubectl finds a node's Events by its name in this field.
            uid: namespace.is_none().then(|| name.to_owned()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(problem.reason().to_owned()),
        message: Some(message),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.to_owned()),
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
        let event_of = |problem: &Problem, node: &str| event(problem, node, Timestamp::UNIX_EPOCH);
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
