//! AdmissionReview of `admission.k8s.io/v1` and `v1beta1`: the request, the response, and the checks of a response.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_api::{Reason, Status, patch};

use super::Hook;
use super::hook::ReviewVersion;
use crate::admission::request::{Operation, Request};
use crate::admission::variables::request_fields;
use crate::admission::versioned_attributes::VersionedAttributes;

/// Why a webhook gave no valid answer. The text is the API's.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("failed to call webhook: {0}")]
    Call(String),
    #[error("{0}")]
    InvalidResponse(String),
}

pub(super) struct Answer {
    pub(super) refusal: Option<Status>,
    /// A JSON patch.
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

pub(super) async fn call(
    hook: &Hook,
    request: &Request<'_>,
    versioned: &VersionedAttributes,
    mutating: bool,
) -> Result<Answer, CallError> {
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": hook.version.api_version(), "request": review_request(request, versioned, &uid),
    });
    let webhooks = &request.admission.storage.webhooks;
    let called = webhooks.post_review(&hook.client, &review, Some(hook.timeout)).await;
    let answer = called.map_err(|why| CallError::Call(why.to_string()))?;
    read(&answer, hook.version, &uid, &hook.name, mutating).map_err(CallError::InvalidResponse)
}

fn review_request(request: &Request<'_>, versioned: &VersionedAttributes, uid: &str) -> Value {
    let mut fields = json!({"uid": uid});
    if let (Some(own), Value::Object(shared)) = (fields.as_object_mut(), request_fields(request, versioned)) {
        own.extend(shared);
    }
    fields["object"] =
        if request.operation == Operation::Delete { Value::Null } else { versioned.object.clone() };
    fields["oldObject"] = versioned.old_object.clone();
    fields
}

fn read(
    answer: &Value,
    version: ReviewVersion,
    uid: &str,
    name: &str,
    mutating: bool,
) -> Result<Answer, String> {
    let (kind, found) = (text(&answer["kind"]), text(&answer["apiVersion"]));
    if version == ReviewVersion::V1 && (kind != "AdmissionReview" || found != version.api_version()) {
        return Err(format!(
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {found}, Kind={kind}"
        ));
    }
    let response = &answer["response"];
    if !response.is_object() {
        return Err("received invalid webhook response: webhook response was absent".to_owned());
    }
    let found = text(&response["uid"]);
    if version == ReviewVersion::V1 && found != uid {
        return Err(format!(
            "received invalid webhook response: expected response.uid=\"{uid}\", got \"{found}\""
        ));
    }
    let patch = if mutating { read_patch(response, version)? } else { None };
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Answer {
        refusal: (response["allowed"] != true).then(|| refusal(name, &response["status"])),
        patch,
        warnings: warnings.map(text).collect(),
        annotations: annotations.map(|(key, value)| (key.clone(), text(value))).collect(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn read_patch(response: &Value, version: ReviewVersion) -> Result<Option<Value>, String> {
    let (patch, form) = (text(&response["patch"]), &response["patchType"]);
    let invalid = |why: String| format!("received invalid webhook response: {why}");
    match (patch.is_empty(), form.as_str()) {
        (true, _) if version == ReviewVersion::V1Beta1 => return Ok(None),
        (false, _) if version == ReviewVersion::V1Beta1 => {}
        (true, None) => return Ok(None),
        (true, Some(_)) => {
            return Err(invalid("webhook returned response.patchType but not response.patch".to_owned()));
        }
        (false, None) => {
            return Err(invalid("webhook returned response.patch but not response.patchType".to_owned()));
        }
        (false, Some("JSONPatch")) => {}
        (false, Some(form)) => {
            return Err(invalid(format!("webhook returned invalid response.patchType of \"{form}\"")));
        }
    }
    let bytes = STANDARD.decode(patch).map_err(|error| invalid(format!("response.patch: {error}")))?;
    let patch = serde_json::from_slice(&bytes).map_err(|error| format!("decode response.patch: {error}"))?;
    Ok(Some(patch))
}

/// The code is always one of an error, whatever the webhook returns.
fn refusal(name: &str, status: &Value) -> Status {
    let (message, reason) = (text(&status["message"]), text(&status["reason"]));
    let why = match (message.as_str(), reason.as_str()) {
        ("", "") => " without explanation".to_owned(),
        ("", reason) => format!(": {reason}"),
        (message, _) => format!(": {message}"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let message = format!("admission webhook \"{name}\" denied the request{why}");
    let refusal = Status::new(Reason::parse(&reason), message).with_code(code);
    match &status["details"] {
        Value::Object(_) => refusal.with_details(status["details"].clone()),
        _ => refusal,
    }
}

/// The object with the webhook's patch applied.
pub(super) fn patched(
    request: &Request<'_>,
    versioned: &VersionedAttributes,
    change: &Value,
) -> Result<Value, String> {
    let mut new = versioned.object.clone();
    patch::json(&mut new, change.clone()).map_err(|error| format!("apply the webhook's patch: {error}"))?;
    let (new, _) = versioned.complete(request, new).map_err(|why| format!("the webhook's patch: {why}"))?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Result<Answer, String> {
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        read(&review, ReviewVersion::V1, "u", "w.example.com", true)
    }

    #[test]
    fn a_refusal_has_upstreams_words() {
        let refused = |status: Value| {
            answer(json!({"uid": "u", "allowed": false, "status": status})).unwrap().refusal.unwrap()
        };
        for (status, code, reason, message) in [
            (
                json!(null),
                400,
                "",
                "admission webhook \"w.example.com\" denied the request without explanation",
            ),
            (json!({"message": "no"}), 400, "", "admission webhook \"w.example.com\" denied the request: no"),
            (
                json!({"reason": "Forbidden", "code": 403}),
                403,
                "Forbidden",
                "admission webhook \"w.example.com\" denied the request: Forbidden",
            ),
            (
                json!({"message": "no", "code": 200, "reason": "Mine"}),
                400,
                "",
                "admission webhook \"w.example.com\" denied the request: no",
            ),
        ] {
            let found = refused(status.clone());
            assert_eq!(
                (found.code, found.reason.as_str(), found.message.as_str()),
                (code, reason, message),
                "{status}"
            );
        }
    }

    #[test]
    fn invalid_responses_are_errors() {
        for (response, wanted) in [
            (json!(null), "webhook response was absent"),
            (json!({"uid": "x", "allowed": true}), "expected response.uid=\"u\", got \"x\""),
            (
                json!({"uid": "u", "allowed": true, "patch": "W10="}),
                "response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "Merge"}),
                "invalid response.patchType of \"Merge\"",
            ),
            (json!({"uid": "u", "allowed": true, "patch": "!", "patchType": "JSONPatch"}), "response.patch"),
        ] {
            let Err(why) = answer(response.clone()) else { panic!("{response}") };
            assert!(why.contains(wanted), "{response}: {why}");
        }
        let other = read(&json!({"kind": "Status", "apiVersion": "v1"}), ReviewVersion::V1, "u", "w", true);
        assert!(other.is_err_and(|why| why.contains("got v1, Kind=Status")));
    }

    #[test]
    fn an_answer_of_v1beta1_needs_neither_version_nor_uid_nor_type_of_patch() {
        let review = json!({"response": {"allowed": true, "patch": STANDARD.encode("[]")}});
        let found = read(&review, ReviewVersion::V1Beta1, "u", "w", true).unwrap();
        assert!(found.refusal.is_none() && found.patch == Some(json!([])));
        assert!(read(&json!({}), ReviewVersion::V1Beta1, "u", "w", true).is_err());
    }

    #[test]
    fn an_answer_has_a_patch_warnings_and_annotations() {
        let patch = STANDARD.encode("[{\"op\":\"add\",\"path\":\"/a\",\"value\":1}]");
        let found = answer(json!({
            "uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch", "warnings": ["w"],
            "auditAnnotations": {"k": "v"},
        }));
        let found = found.unwrap();
        assert_eq!(found.patch, Some(json!([{"op": "add", "path": "/a", "value": 1}])));
        assert_eq!(
            (found.warnings, found.annotations),
            (vec!["w".to_owned()], vec![("k".to_owned(), "v".to_owned())])
        );
    }
}
