//! The Status object: the answer to a failed request. In: a kind and what failed. Out: JSON in upstream's words.

use serde_json::{Value, json};

use crate::field::Errors;
use crate::kinds::Kind;

/// Why a request failed: upstream's `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Sent as an empty text.
    Unknown,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    Invalid,
    TooManyRequests,
    InternalError,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
}

impl Reason {
    /// Each reason with its text and the HTTP status that it comes with.
    const ALL: [(Reason, &'static str, u16); 19] = [
        (Reason::Unknown, "", 500),
        (Reason::BadRequest, "BadRequest", 400),
        (Reason::Unauthorized, "Unauthorized", 401),
        (Reason::Forbidden, "Forbidden", 403),
        (Reason::NotFound, "NotFound", 404),
        (Reason::MethodNotAllowed, "MethodNotAllowed", 405),
        (Reason::NotAcceptable, "NotAcceptable", 406),
        (Reason::AlreadyExists, "AlreadyExists", 409),
        (Reason::Conflict, "Conflict", 409),
        (Reason::Gone, "Gone", 410),
        (Reason::Expired, "Expired", 410),
        (Reason::RequestEntityTooLarge, "RequestEntityTooLarge", 413),
        (Reason::UnsupportedMediaType, "UnsupportedMediaType", 415),
        (Reason::Invalid, "Invalid", 422),
        (Reason::TooManyRequests, "TooManyRequests", 429),
        (Reason::InternalError, "InternalError", 500),
        (Reason::ServerTimeout, "ServerTimeout", 500),
        (Reason::ServiceUnavailable, "ServiceUnavailable", 503),
        (Reason::Timeout, "Timeout", 504),
    ];

    /// The reason of this text; `Unknown` for a text that is not in the list.
    pub fn parse(text: &str) -> Reason {
        let found = Reason::ALL.into_iter().find(|(_, known, _)| *known == text);
        found.map_or(Reason::Unknown, |(reason, ..)| reason)
    }

    /// Its text in a Status.
    pub fn as_str(self) -> &'static str {
        Reason::ALL[self as usize].1
    }

    /// The HTTP status.
    pub fn code(self) -> u16 {
        Reason::ALL[self as usize].2
    }
}

/// A `v1.Status` of a failure. `code` is the HTTP status.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    details: Option<Value>,
    /// Where a list that has expired can go on.
    continue_token: Option<Box<str>>,
    stale: bool,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A failure with the HTTP status of its reason and without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Status {
        Status {
            code: reason.code(),
            reason,
            message: message.into(),
            details: None,
            continue_token: None,
            stale: false,
        }
    }

    /// Replaces the HTTP status.
    pub fn with_code(mut self, code: u16) -> Status {
        self.code = code;
        self
    }

    /// Adds the token with which an expired list can go on at the present revision.
    pub fn with_continue(mut self, token: String) -> Status {
        self.continue_token = Some(token.into());
        self
    }

    fn about(mut self, kind: &Kind, name: &str) -> Status {
        self.details = Some(details(&kind.group, &kind.plural, name));
        self
    }

    /// Replaces the details.
    pub fn with_details(mut self, details: Value) -> Status {
        self.details = Some(details);
        self
    }

    /// Appends a cause to the details.
    pub fn with_cause(mut self, cause: Value) -> Status {
        let details = self.details.get_or_insert_with(|| json!({}));
        match details["causes"].as_array_mut() {
            Some(causes) => causes.push(cause),
            None => details["causes"] = json!([cause]),
        }
        self
    }

    /// Whether another writer changed the object first ([`Status::stale`]). Read the object again and retry.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// No object of this name.
    pub fn not_found(kind: &Kind, name: &str) -> Status {
        Status::new(Reason::NotFound, format!("{} {name:?} not found", kind.group_resource()))
            .about(kind, name)
    }

    /// A path that the server does not serve.
    pub fn no_such_path() -> Status {
        Status::new(Reason::NotFound, "the server could not find the requested resource")
            .with_details(json!({}))
    }

    /// An object of this name exists.
    pub fn already_exists(kind: &Kind, name: &str) -> Status {
        Status::new(Reason::AlreadyExists, format!("{} {name:?} already exists", kind.group_resource()))
            .about(kind, name)
    }

    /// The write conflicts with the object's state.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Status {
        let what = kind.group_resource();
        Status::new(Reason::Conflict, format!("Operation cannot be fulfilled on {what} {name:?}: {why}"))
            .about(kind, name)
    }

    /// The update names a resourceVersion that is no longer the newest.
    pub fn stale(kind: &Kind, name: &str) -> Status {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Status { stale: true, ..Status::conflict(kind, name, why) }
    }

    /// The object has invalid fields; each is a cause.
    pub fn invalid(kind: &Kind, name: &str, errors: &Errors) -> Status {
        Status::invalid_as(&kind.group, &kind.kind, name, errors)
    }

    /// As [`Self::invalid`], for what is no object of a served kind, such as options or a Scale.
    pub fn invalid_as(group: &str, kind: &str, name: &str, errors: &Errors) -> Status {
        let all: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let what = match all.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes: Vec<Value> = errors
            .0
            .iter()
            .map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field}))
            .collect();
        let mut details = details(group, kind, name);
        details["causes"] = causes.into();
        Status::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {what}")).with_details(details)
    }

    /// `<kind> "<name>" is invalid: <why>`, for a body that is no object of a served kind. Without details.
    pub fn invalid_body(kind: &str, name: &str, why: &str) -> Status {
        Status::new(Reason::Invalid, format!("{kind} {name:?} is invalid: {why}"))
    }

    /// `<field>: <why>`, for an option of a request or a field of a subresource. Without details.
    pub fn invalid_option(field: &str, why: &str) -> Status {
        Status::new(Reason::Invalid, format!("{field}: {why}"))
    }

    /// An option whose value is not one of `supported`.
    pub fn unsupported_option(field: &str, value: &str, supported: &[&str]) -> Status {
        let supported: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        let supported = supported.join(", ");
        Status::invalid_option(
            field,
            &format!("Unsupported value: \"{value}\": supported values: {supported}"),
        )
    }

    /// The request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(Reason::BadRequest, message)
    }

    /// The requester is not authenticated.
    pub fn unauthorized() -> Status {
        Status::new(Reason::Unauthorized, "Unauthorized")
    }

    /// The requester lacks permission; `message` is the authorizer's.
    pub fn forbidden(group: &str, plural: &str, name: &str, message: impl Into<String>) -> Status {
        let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let what = if name.is_empty() { qualified } else { format!("{qualified} {name:?}") };
        Status::new(Reason::Forbidden, format!("{what} is forbidden: {}", message.into()))
            .with_details(details(group, plural, name))
    }

    /// The resource does not support the verb.
    pub fn method_not_supported(kind: &Kind, verb: &str) -> Status {
        let what = kind.group_resource();
        Status::new(
            Reason::MethodNotAllowed,
            format!("{verb} is not supported on resources of kind \"{what}\""),
        )
        .about(kind, "")
    }

    /// No media type of the Accept header is available.
    pub fn not_acceptable(accepted: &str) -> Status {
        Status::new(Reason::NotAcceptable, format!("only the following media types are accepted: {accepted}"))
    }

    /// The body's media type is unknown.
    pub fn unsupported_media_type(supported: &str) -> Status {
        Status::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: {supported}"
            ),
        )
    }

    /// The body exceeds `limit` bytes.
    pub fn too_large(limit: usize) -> Status {
        Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit}"))
    }

    /// The resource version or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(Reason::Expired, message)
    }

    /// The requester must wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::new(Reason::TooManyRequests, message)
            .with_details(json!({"retryAfterSeconds": retry_after_seconds}))
    }

    /// The server failed.
    pub fn internal(message: impl std::fmt::Display) -> Status {
        Status::new(Reason::InternalError, format!("Internal error occurred: {message}"))
            .with_details(json!({"causes": [{"message": message.to_string()}]}))
    }

    /// The server cannot answer now.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::new(Reason::ServiceUnavailable, message)
    }

    /// The request took too long.
    pub fn timeout(message: impl Into<String>) -> Status {
        Status::new(Reason::Timeout, message)
    }

    /// The Status object as JSON.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        // The unknown reason has no text, and is left out.
        if !self.reason.as_str().is_empty() {
            status["reason"] = self.reason.as_str().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = (**token).into();
        }
        status["code"] = self.code.into();
        status
    }

    /// The answer to a successful delete.
    pub fn success(kind: &Kind, name: &str, uid: &str) -> Value {
        let mut details = details(&kind.group, &kind.plural, name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_found_by_its_text() {
        for (index, (reason, text, code)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{text}");
            assert_eq!((Reason::parse(text), reason.as_str(), reason.code()), (reason, text, code));
        }
        assert_eq!(Reason::parse("Teapot"), Reason::Unknown);
    }

    #[test]
    fn only_a_stale_write_is_a_stale_conflict() {
        let kind = crate::find("", "v1", "pods").expect("pods are built in");
        assert!(Status::stale(kind, "a").with_details(json!({})).is_stale());
        assert!(!Status::conflict(kind, "a", "Precondition failed").is_stale());
    }
}
