//! Converts custom resources between the stored and the requested version.
//!
//! Objects of built-in kinds, and those that have the version already, pass unchanged.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use skep_api::custom::{Conversion, Custom};
use skep_api::{Kind, Reason, Status, conversion, meta};

use crate::cache::Change;
use crate::object::{self, Object};
use crate::webhook;

/// Converts one object to the version of `kind`.
pub(crate) async fn one(
    webhooks: &webhook::Client,
    kind: &Kind,
    object: Arc<Object>,
) -> Result<Arc<Object>, Status> {
    let converted = all(webhooks, kind, vec![object]).await?;
    converted.into_iter().next().ok_or_else(|| Status::internal("a conversion returned no object"))
}

/// Converts objects to the version of `kind`, all in one review.
pub(crate) async fn all(
    webhooks: &webhook::Client,
    kind: &Kind,
    mut objects: Vec<Arc<Object>>,
) -> Result<Vec<Arc<Object>>, Status> {
    let Some(custom) = &kind.custom else { return Ok(objects) };
    let is_other = |object: &Arc<Object>| object.version != kind.version;
    let others: Vec<usize> = (0..objects.len()).filter(|at| is_other(&objects[*at])).collect();
    if others.is_empty() {
        return Ok(objects);
    }
    let values = others.iter().map(|at| objects[*at].value()).collect();
    let converted = values_to(webhooks, custom, &kind.api_version(), values).await?;
    for (at, value) in others.into_iter().zip(converted) {
        objects[at] = Arc::new(objects[at].converted(kind, &value));
    }
    Ok(objects)
}

/// Converts both objects of a change to the version of `kind`.
pub(crate) async fn change(
    webhooks: &webhook::Client,
    kind: &Kind,
    change: Arc<Change>,
) -> Result<Arc<Change>, Status> {
    let is_ours = |object: &Arc<Object>| object.version == kind.version;
    if kind.custom.is_none() || is_ours(&change.object) && change.previous.as_ref().is_none_or(is_ours) {
        return Ok(change);
    }
    let objects = change.previous.iter().chain([&change.object]).cloned().collect();
    let mut objects = all(webhooks, kind, objects).await?.into_iter();
    let previous = change.previous.as_ref().and_then(|_| objects.next());
    let object = objects.next().ok_or_else(|| Status::internal("a conversion returned no object"))?;
    Ok(Arc::new(Change::new(change.kind, object, previous)))
}

/// Whether objects of this kind are stored in another version.
pub(crate) fn is_converted(kind: &Kind) -> bool {
    kind.custom.as_ref().is_some_and(|custom| custom.definition.storage_version != kind.version)
}

/// The bytes to store, in the storage version.
pub(crate) async fn to_stored(
    webhooks: &webhook::Client,
    kind: &Kind,
    value: &Value,
) -> Result<Bytes, Status> {
    match &kind.custom {
        Some(custom) if is_converted(kind) => {
            let wanted = format!("{}/{}", kind.group, custom.definition.storage_version);
            let converted = values_to(webhooks, custom, &wanted, vec![value.clone()]).await?;
            Ok(object::to_stored(converted.first().unwrap_or(value)))
        }
        _ => Ok(object::to_stored(value)),
    }
}

/// Converts one value from a served version to another.
pub(crate) async fn value(
    webhooks: &webhook::Client,
    from: &Kind,
    to: &Kind,
    value: Value,
) -> Result<Value, Status> {
    match &from.custom {
        Some(custom) => {
            let converted = values_to(webhooks, custom, &to.api_version(), vec![value]).await?;
            let first = converted.into_iter().next();
            first.ok_or_else(|| Status::internal("a conversion returned no object"))
        }
        None => Ok(conversion::from_storage(to, conversion::to_storage(from, value))),
    }
}

/// Converts values to `wanted`, in the same order.
async fn values_to(
    webhooks: &webhook::Client,
    custom: &Custom,
    wanted: &str,
    mut values: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    match &custom.definition.conversion {
        Conversion::Nothing => values.iter_mut().for_each(|value| value["apiVersion"] = wanted.into()),
        Conversion::Webhook { client, reviews } => {
            let called = by_webhook(webhooks, client, reviews, wanted, &values).await;
            values = called.map_err(|why| {
                let first = &values[0];
                let (version, kind) = (&first["apiVersion"], &first["kind"]);
                let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let message = format!("conversion webhook for {}, Kind={} {why}", of(version), of(kind));
                Status::new(Reason::Unknown, message)
            })?;
        }
    }
    values.iter_mut().for_each(|value| custom.prune(value));
    Ok(values)
}

/// Converts by the webhook. The error is text for the API's answer.
async fn by_webhook(
    webhooks: &webhook::Client,
    client: &Value,
    reviews: &[String],
    wanted: &str,
    values: &[Value],
) -> Result<Vec<Value>, String> {
    let known = reviews.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
    let version = known.ok_or("failed: no supported conversion review versions")?;
    let api_version = format!("apiextensions.k8s.io/{version}");
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview", "apiVersion": api_version,
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": values},
    });
    let answer = webhooks.post_review(client, &review, None).await.map_err(|why| format!("failed: {why}"))?;
    let converted = converted_objects(&answer, &api_version, &uid).map_err(|why| format!("failed: {why}"))?;
    if converted.len() != values.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), values.len()));
    }
    let mut out = Vec::with_capacity(values.len());
    for (at, (before, after)) in values.iter().zip(converted).enumerate() {
        let invalid = |why: String| format!("returned invalid converted object at index {at}: {why}");
        out.push(accept(before, after.clone(), wanted).map_err(invalid)?);
    }
    Ok(out)
}

fn converted_objects<'a>(answer: &'a Value, api_version: &str, uid: &str) -> Result<&'a Vec<Value>, String> {
    let response = &answer["response"];
    if answer["apiVersion"] != api_version || answer["kind"] != "ConversionReview" {
        return Err(format!(
            "expected webhook response of {api_version}, Kind=ConversionReview, got {}, Kind={}",
            answer["apiVersion"].as_str().unwrap_or_default(),
            answer["kind"].as_str().unwrap_or_default()
        ));
    }
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    if response["uid"] != uid && api_version.ends_with("/v1") {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    let result = &response["result"];
    if result["status"] != "Success" {
        let status = result["status"].as_str().unwrap_or_default();
        let message = result["message"].as_str().filter(|message| !message.is_empty());
        return Err(
            message.map_or(format!("response.result.status was '{status}', not 'Success'"), str::to_owned)
        );
    }
    static NONE: Vec<Value> = Vec::new();
    Ok(response["convertedObjects"].as_array().unwrap_or(&NONE))
}

/// A converted object. Of the metadata, only changes of labels and annotations are accepted; the identity must stay.
fn accept(before: &Value, mut after: Value, wanted: &str) -> Result<Value, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if after["apiVersion"] != wanted {
        let found = text(&after["apiVersion"]);
        return Err(format!("invalid groupVersion (expected {wanted}, received {found})"));
    }
    if after["kind"] != before["kind"] {
        let (expected, found) = (text(&before["kind"]), text(&after["kind"]));
        return Err(format!("invalid kind (expected {expected}, received {found})"));
    }
    for (field, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, found) = (text(&before["metadata"][field]), text(&after["metadata"][field]));
        if expected != found {
            return Err(format!("must have the same {shown}: {expected} != {found}"));
        }
    }
    if !after["metadata"].is_object() {
        return Err("missing metadata in converted object".to_owned());
    }
    let metadata = std::mem::replace(&mut after["metadata"], before["metadata"].clone());
    for field in ["labels", "annotations"] {
        match &metadata[field] {
            Value::Null => drop(meta::of_mut(&mut after).remove(field)),
            Value::Object(entries) => {
                if let Some((key, _)) = entries.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
                }
                meta::of_mut(&mut after).insert(field.to_owned(), metadata[field].clone());
            }
            _ => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_keeps_what_the_object_is() {
        let before = json!({"apiVersion": "g.io/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}}});
        let mut after = before.clone();
        after["apiVersion"] = "g.io/v2".into();
        after["metadata"] =
            json!({"name": "a", "uid": "u", "annotations": {"n": "m"}, "finalizers": ["evil/x"]});
        let accepted = accept(&before, after.clone(), "g.io/v2").unwrap();
        assert_eq!(accepted["metadata"], json!({"name": "a", "uid": "u", "annotations": {"n": "m"}}));
        after["metadata"]["uid"] = "other".into();
        assert_eq!(
            super::accept(&before, after, "g.io/v2").unwrap_err(),
            "must have the same UID: u != other"
        );
    }
}
