//! `metrics.k8s.io`: what nodes and pods use now, from the nodes' own statistics.
//!
//! In: nodes and pods of the caches, answers of kubelets. Out: NodeMetrics and PodMetrics. An APIService that names a Service
//! (metrics-server's) takes the group over.

pub(crate) mod collect;
mod summary;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use skep_api::kinds::METRICS_GROUP;
use skep_api::selector::FieldSelector;
use skep_api::{Kind, Reason, Status, find};

use crate::call::Call;
use crate::clock::now;
use crate::handlers::list::Selection;
use crate::negotiate::{View, render_value, respond_large, respond_value, table_of, view};
use crate::object::Object;
use crate::state::Inner;
use crate::subresources::proxy::kubelet_of;
use summary::NodeUsage;

/// Whether the kind's objects are made here.
pub(crate) fn serves(kind: &Kind) -> bool {
    kind.group == *METRICS_GROUP && kind.custom.is_none()
}

/// Answers `get` and `list`.
pub(crate) async fn handle(server: &Inner, call: Call) -> Result<Response, Status> {
    let kind = &call.target.kind;
    let view = view(&call.headers, call.query.get("includeObject"))?;
    let subjects = subjects(server, &call)?;
    let of_pods = kind.namespaced();
    let nodes: BTreeSet<String> = subjects.iter().map(|object| node_of(object, of_pods).to_owned()).collect();
    let node_kind = find("", "v1", "nodes").ok_or_else(Status::no_such_path)?;
    let caches = &server.storage.caches;
    let exists = |name: &str| caches.get_or_404(node_kind, "", name).is_ok();
    let known = (caches.of(node_kind).map_or(0, |resource| resource.len()), exists);
    let destination = |name: &str| kubelet_of(server, name, collect::PATH, collect::QUERY).ok();
    let usages = server.usage.of_nodes(&server.dialer, nodes, destination, known).await;
    let mut items = subjects.iter().filter_map(|object| metrics(object, of_pods, &usages));
    if !call.target.name.is_empty() {
        let item = items.next().ok_or_else(|| not_known(&call))?;
        return Ok(respond_value(StatusCode::OK, &render_value(view, kind, item)));
    }
    let list = match view {
        View::Table(rows) => table_of(kind, rows, &Value::Null, items, true),
        View::Whole => list(&kind.list_kind(), &kind.api_version(), items),
        View::Metadata => {
            let metadata = items.map(|item| render_value(view, kind, item));
            list("PartialObjectMetadataList", "meta.k8s.io/v1", metadata)
        }
    };
    Ok(respond_large(&call.headers, list.to_string().into()))
}

fn list(kind: &str, api_version: &str, items: impl Iterator<Item = Value>) -> Value {
    json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": items.collect::<Vec<_>>()})
}

/// The nodes or running pods that are asked for.
fn subjects(server: &Inner, call: &Call) -> Result<Vec<Arc<Object>>, Status> {
    let (caches, target) = (&server.storage.caches, &call.target);
    let kind = find("", "v1", &target.kind.plural).ok_or_else(Status::no_such_path)?;
    let mut objects = if target.name.is_empty() {
        // Of the fields of nodes and pods, only those of their metrics can be selected.
        FieldSelector::parse(&target.kind, call.query.get("fieldSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(error.0))?;
        let selection = Selection::of(kind, &target.namespace, &call.query)?;
        let resource = caches.of(kind).ok_or_else(Status::no_such_path)?;
        let mut objects = resource.list(&selection.prefix);
        objects.retain(|object| selection.selects(object));
        objects
    } else {
        vec![caches.get_or_404(kind, &target.namespace, &target.name)?]
    };
    if target.kind.namespaced() {
        objects.retain(|pod| pod.selectable.field("status.phase") == "Running");
    }
    Ok(objects)
}

/// The node that knows what the object uses.
fn node_of(object: &Object, is_pod: bool) -> &str {
    object.selectable.field(if is_pod { "spec.nodeName" } else { "metadata.name" })
}

fn metrics(object: &Object, is_pod: bool, usages: &HashMap<String, Arc<NodeUsage>>) -> Option<Value> {
    let usage = usages.get(node_of(object, is_pod))?;
    let (namespace, name) =
        (object.selectable.field("metadata.namespace"), object.selectable.field("metadata.name"));
    let mut metadata = json!({"name": name, "creationTimestamp": now()});
    if is_pod {
        metadata["namespace"] = namespace.into();
    }
    let labels: serde_json::Map<String, Value> =
        object.selectable.labels().map(|(key, value)| (key.to_owned(), value.into())).collect();
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    match is_pod {
        true => usage.pod_metrics(namespace, name, metadata),
        false => usage.node_metrics(metadata),
    }
}

/// As metrics-server answers.
fn not_known(call: &Call) -> Status {
    let target = &call.target;
    let (resource, name) = match target.kind.namespaced() {
        true => ("podmetrics", format!("{}/{}", target.namespace, target.name)),
        false => ("nodemetrics", target.name.clone()),
    };
    let status = Status::new(Reason::NotFound, format!("{resource}.{METRICS_GROUP} {name:?} not found"));
    status.with_details(json!({"name": name, "group": METRICS_GROUP, "kind": resource}))
}
