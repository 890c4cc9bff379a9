//! `scale`: the number of replicas of a workload.

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep_api::custom::Scale;
use skep_api::field::Path;
use skep_api::kinds::Part;
use skep_api::{Errors, Kind, Status, apply, meta};

use super::edit::{Wanted, edit};
use crate::admission::{self, Operation, Shape};
use crate::body;
use crate::body_checks::{check_identity, check_part};
use crate::call::Call;
use crate::field_manager::as_writer;
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
    if !matches!(call.method, Method::PUT | Method::PATCH) {
        return Err(Status::method_not_supported(kind, call.method.as_str()));
    }
    let options = Options::parse(&call)?;
    let bytes = body::read(request.into_body()).await?;
    let wanted = admitted(writer, &call, Wanted::read(&call, &bytes)?, options.dry_run).await?;
    wanted.report_duplicates(&call, &bytes, &options)?;
    let stored = edit(writer, &call, Part::Whole, &options.recorded(), |old| {
        let before = of(kind, old)?;
        let (mut scale, applied) = scaled(&call, &wanted, old, &before)?;
        check_part(SHAPE, &mut scale)?;
        check_identity(&call, &mut scale)?;
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if i32::try_from(replicas).is_err() || replicas < 0 {
            let mut errors = Errors::default();
            let path = Path::new("spec").child("replicas");
            errors.invalid(&path, &replicas.into(), "must be greater than or equal to 0");
            return Err(Status::invalid_as("autoscaling", "Scale", &call.target.name, &errors));
        }
        let managers = match applied {
            Some(managers) => managers,
            None => as_writer(&call, |writer| apply::track_scale(kind, old, before, &scale, writer)),
        };
        let mut new = old.clone();
        match custom(kind) {
            Some(scale) => scale.set(&mut new, replicas),
            None => new["spec"]["replicas"] = replicas.into(),
        }
        let metadata = meta::of_mut(&mut new);
        match managers {
            Some(managers) => drop(metadata.insert("managedFields".into(), managers)),
            None => drop(metadata.remove("managedFields")),
        }
        if let Some(revision) = scale["metadata"].get("resourceVersion") {
            metadata.insert("resourceVersion".into(), revision.clone());
        }
        Ok(new)
    })
    .await?;
    Ok(respond_value(StatusCode::OK, &of(kind, &stored.value())?))
}

/// The Scale that a write wants, and after an apply the parent's managers.
fn scaled(
    call: &Call,
    wanted: &Wanted,
    parent: &Value,
    before: &Value,
) -> Result<(Value, Option<Option<Value>>), Status> {
    let kind = &call.target.kind;
    match wanted {
        Wanted::Whole(scale) => Ok((scale.clone(), None)),
        Wanted::Patch(form, patch) => Ok((form.apply(kind, before.clone(), patch)?, None)),
        Wanted::Apply(config) => {
            let force = call.query.is_true("force");
            let (scale, managers) = as_writer(call, |writer| {
                apply::apply_scale(kind, parent, before.clone(), config, writer, force)
            })?;
            Ok((scale, Some(managers)))
        }
    }
}

/// Admits the requested Scale. If admission changes it, the changed Scale replaces the patch or configuration.
async fn admitted(writer: &Writer, call: &Call, wanted: Wanted, dry_run: bool) -> Result<Wanted, Status> {
    let (kind, target) = (&call.target.kind, &call.target);
    let parent = writer.storage.latest(kind, &target.namespace, &target.name).await?.value();
    let old = of(kind, &parent)?;
    let (mut requested, _) = scaled(call, &wanted, &parent, &old)?;
    check_part(SHAPE, &mut requested)?;
    let mut admitted = requested.clone();
    admission::part(&writer.admission, call, Operation::Update, SHAPE, &mut admitted, Some(&old), dry_run)
        .await?;
    Ok(if admitted == requested { wanted } else { Wanted::Whole(admitted) })
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
