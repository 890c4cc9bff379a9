//! `scale`: the number of replicas of a workload.

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep_api::custom::Scale;
use skep_api::{Kind, Status, meta};

use super::edit::edit;
use crate::admission::{self, Operation, Shape};
use crate::body;
use crate::body_checks::check_part;
use crate::call::Call;
use crate::handlers::patch::{Form, decode};
use crate::negotiate::respond_value;
use crate::write::Writer;
use crate::write_options::Options;

const SHAPE: Shape = ("autoscaling", "v1", "Scale");

pub(super) async fn handle(writer: &Writer, call: Call, request: Request) -> Result<Response, Status> {
    let kind = &call.target.kind;
    if call.method == Method::GET {
        let object = writer.storage.latest(kind, &call.target.namespace, &call.target.name).await?;
        return Ok(respond_value(StatusCode::OK, &of(kind, &object.value())?));
    }
    let options = Options::parse(&call.query)?;
    let bytes = body::read(request.into_body()).await?;
    let (whole, patch) = match call.method {
        Method::PUT => (body::decode(&call.headers, &bytes)?, None),
        Method::PATCH => (Value::Null, Some((Form::of(&call)?, decode(&bytes)?))),
        _ => return Err(Status::method_not_supported(kind, call.method.as_str())),
    };
    let (whole, patch) = admitted(writer, &call, whole, patch, options.dry_run).await?;
    let stored = edit(writer, &call, &options, |old| {
        let mut scale = match &patch {
            Some((form, patch)) => form.apply(kind, of(kind, old)?, patch)?,
            None => whole.clone(),
        };
        check_part(SHAPE, &mut scale)?;
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if i32::try_from(replicas).is_err() || replicas < 0 {
            let why = format!("spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0");
            return Err(Status::invalid_body("Scale.autoscaling", &call.target.name, &why));
        }
        let mut new = old.clone();
        match custom(kind) {
            Some(scale) => scale.set(&mut new, replicas),
            None => new["spec"]["replicas"] = replicas.into(),
        }
        if let Some(revision) = scale["metadata"].get("resourceVersion") {
            meta::of_mut(&mut new).insert("resourceVersion".into(), revision.clone());
        }
        Ok(new)
    })
    .await?;
    Ok(respond_value(StatusCode::OK, &of(kind, &stored.value())?))
}

/// Admits the requested Scale. If admission changes the result of a patch, the changed Scale replaces the patch.
async fn admitted(
    writer: &Writer,
    call: &Call,
    whole: Value,
    patch: Option<(Form, Value)>,
    dry_run: bool,
) -> Result<(Value, Option<(Form, Value)>), Status> {
    let (kind, target) = (&call.target.kind, &call.target);
    let old = writer.storage.latest(kind, &target.namespace, &target.name).await?;
    let old = of(kind, &old.value())?;
    let mut requested = match &patch {
        Some((form, patch)) => form.apply(kind, old.clone(), patch)?,
        None => whole.clone(),
    };
    check_part(SHAPE, &mut requested)?;
    let mut admitted = requested.clone();
    admission::part(&writer.admission, call, Operation::Update, SHAPE, &mut admitted, Some(&old), dry_run)
        .await?;
    Ok(if admitted == requested { (whole, patch) } else { (admitted, None) })
}

/// The paths of a custom resource's replicas.
fn custom(kind: &Kind) -> Option<&Scale> {
    kind.custom.as_ref()?.version.scale.as_ref()
}

fn of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    if let Some(scale) = custom(kind) {
        if !scale.is_set(object) {
            let path = scale.path();
            return Err(Status::internal(format!("the spec replicas field {path:?} does not exist")));
        }
        return Ok(scale.of(object));
    }
    Ok(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta::of_scale(object),
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector(&object["spec"]["selector"]),
        },
    }))
}

/// A selector as text; a ReplicationController's is a plain map.
fn selector(selector: &Value) -> String {
    let labels = if selector["matchLabels"].is_object() { &selector["matchLabels"] } else { selector };
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    pairs.join(",")
}
