//! The Status object: every answer that is not the object asked for.

use serde_json::{Value, json};

use crate::field::Errors;
use crate::kinds::Kind;

/// A `v1.Status` of a failure. `code` is the HTTP status.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    details: Option<Value>,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Status {
        self.details = Some(details(kind.group, kind.plural, name));
        self
    }

    pub fn with_details(mut self, details: Value) -> Status {
        self.details = Some(details);
        self
    }

    /// As this, with one more cause.
    pub fn with_cause(mut self, cause: Value) -> Status {
        let details = self.details.get_or_insert_with(|| json!({}));
        match details["causes"].as_array_mut() {
            Some(causes) => causes.push(cause),
            None => details["causes"] = json!([cause]),
        }
        self
    }

    pub fn not_found(kind: &Kind, name: &str) -> Status {
        Status::new(404, "NotFound", format!("{} \"{name}\" not found", kind.group_resource()))
            .about(kind, name)
    }

    /// A path that leads nowhere.
    pub fn no_such_path() -> Status {
        Status::new(404, "NotFound", "the server could not find the requested resource")
            .with_details(json!({}))
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        Status::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", kind.group_resource()))
            .about(kind, name)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let what = kind.group_resource();
        Status::new(409, "Conflict", format!("Operation cannot be fulfilled on {what} \"{name}\": {why}"))
            .about(kind, name)
    }

    pub fn stale(kind: &Kind, name: &str) -> Status {
        Status::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn invalid(kind: &Kind, name: &str, errors: &Errors) -> Status {
        let all: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let what = match all.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if kind.group.is_empty() {
            kind.kind.to_owned()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let causes: Vec<Value> = errors
            .0
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect();
        let mut details = details(kind.group, kind.kind, name);
        details["causes"] = causes.into();
        Status::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {what}"))
            .with_details(details)
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    /// `message` as the authoriser words it.
    pub fn forbidden(group: &str, plural: &str, name: &str, message: impl Into<String>) -> Status {
        let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let what = if name.is_empty() { qualified } else { format!("{qualified} \"{name}\"") };
        Status::new(403, "Forbidden", format!("{what} is forbidden: {}", message.into()))
            .with_details(details(group, plural, name))
    }

    pub fn method_not_supported(kind: &Kind, verb: &str) -> Status {
        let what = kind.group_resource();
        Status::new(
            405,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind \"{what}\""),
        )
        .about(kind, "")
    }

    pub fn not_acceptable(accepted: &str) -> Status {
        Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
    }

    pub fn unsupported_media_type(supported: &str) -> Status {
        Status::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {supported}"
            ),
        )
    }

    pub fn too_large(limit: usize) -> Status {
        Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::new(429, "TooManyRequests", message)
            .with_details(json!({"retryAfterSeconds": retry_after_seconds}))
    }

    pub fn internal(message: impl std::fmt::Display) -> Status {
        Status::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(json!({"causes": [{"message": message.to_string()}]}))
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl Into<String>) -> Status {
        Status::new(504, "Timeout", message)
    }

    /// The object as it is sent.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = self.code.into();
        status
    }

    /// The answer to a delete that left nothing to show.
    pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
        let mut details = details(kind.group, kind.plural, name);
        details["uid"] = uid.into();
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({});
    for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details[field] = value.into();
        }
    }
    details
}
