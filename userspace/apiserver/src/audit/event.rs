//! One event, in the form of `audit.k8s.io/v1`.

use std::collections::BTreeMap;

use axum::extract::Request;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::{EventScope, Level, Stage};
use crate::authn::wanted_user;
use crate::identity::Identity;
use crate::identity::PeerAddress;
use crate::request_info::RequestInfo;

/// Characters; a longer one is cut, as upstream cuts it.
const MAX_USER_AGENT_LENGTH: usize = 1_024;

pub(super) struct Event {
    scope: EventScope,
    id: String,
    fields: Map<String, Value>,
}

impl Event {
    pub(super) fn new(
        request: &Request,
        identity: &Identity,
        info: &RequestInfo<'_>,
        scope: EventScope,
    ) -> Event {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // A proxy in front may have set an id already.
        let id = text("audit-id").filter(|id| !id.is_empty() && id.len() <= 64).map(str::to_owned);
        let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let mut fields = Map::new();
        fields.insert("auditID".into(), id.as_str().into());
        fields.insert(
            "requestURI".into(),
            request.uri().path_and_query().map_or("", |uri| uri.as_str()).into(),
        );
        fields.insert("verb".into(), (*info.verb).into());
        fields.insert("user".into(), event_user(identity));
        if let Ok(Some(user)) = wanted_user(headers) {
            fields.insert("impersonatedUser".into(), event_user(&user));
        }
        let mut sources: Vec<String> = values(headers, "x-forwarded-for")
            .iter()
            .flat_map(|list| list.split(','))
            .map(|source| source.trim().to_owned())
            .collect();
        sources.extend(request.extensions().get::<PeerAddress>().map(|peer| peer.0.ip().to_string()));
        if !sources.is_empty() {
            fields.insert("sourceIPs".into(), json!(sources));
        }
        if let Some(agent) = text("user-agent") {
            fields.insert(
                "userAgent".into(),
                agent.chars().take(MAX_USER_AGENT_LENGTH).collect::<String>().into(),
            );
        }
        if !info.resource.is_empty() {
            fields.insert("objectRef".into(), reference(info));
        }
        fields.insert("requestReceivedTimestamp".into(), now().into());
        Event { scope, id, fields }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Adds the body of the request.
    pub(super) fn set_request(&mut self, mut object: Value) {
        if let Some(Value::Object(reference)) = self.fields.get_mut("objectRef") {
            for (field, from) in [
                ("namespace", "namespace"),
                ("name", "name"),
                ("uid", "uid"),
                ("resourceVersion", "resourceVersion"),
            ] {
                let value = object["metadata"][from].as_str().filter(|value| !value.is_empty());
                if let Some(value) = value.filter(|_| !reference.contains_key(field)) {
                    reference.insert(field.into(), value.into());
                }
            }
        }
        if self.scope.level >= Level::Request {
            self.remove_managed_fields(&mut object);
            self.fields.insert("requestObject".into(), object);
        }
    }

    pub(super) fn set_annotations(&mut self, annotations: BTreeMap<String, String>) {
        self.fields.insert("annotations".into(), json!(annotations));
    }

    /// Adds the response's status, and its body if `whole`.
    pub(super) fn set_response(&mut self, code: StatusCode, body: Option<Value>, whole: bool) {
        let mut status = json!({"metadata": {}, "code": code.as_u16()});
        if let Some(result) = body.as_ref().filter(|body| body["kind"] == "Status") {
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = result.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        self.fields.insert("responseStatus".into(), status);
        if let Some(mut object) = body.filter(|_| whole) {
            self.remove_managed_fields(&mut object);
            self.fields.insert("responseObject".into(), object);
        }
    }

    fn remove_managed_fields(&self, object: &mut Value) {
        if !self.scope.omit_managed_fields {
            return;
        }
        let remove = |object: &mut Value| {
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("managedFields");
            }
        };
        remove(object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(remove);
        let rows = object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
        rows.filter_map(|row| row.get_mut("object")).for_each(remove);
    }

    /// The event's line at a stage; `None` if the policy omits the stage.
    pub(super) fn line(&self, stage: Stage) -> Option<Vec<u8>> {
        if self.scope.omit_stages.contains(&stage) {
            return None;
        }
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1",
            "level": format!("{:?}", self.scope.level), "stage": format!("{stage:?}"),
        });
        if let Value::Object(event) = &mut event {
            event.extend(self.fields.clone());
        }
        event["stageTimestamp"] = now().into();
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        Some(line)
    }
}

/// The `user` of an event.
fn event_user(identity: &Identity) -> Value {
    let mut user = json!({"username": identity.user});
    if !identity.groups.is_empty() {
        user["groups"] = identity.groups.clone().into();
    }
    if !identity.uid.is_empty() {
        user["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        user["extra"] = json!(identity.extra);
    }
    user
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
}

fn reference(info: &RequestInfo<'_>) -> Value {
    let fields = [
        ("resource", &*info.resource),
        ("namespace", &*info.namespace),
        ("name", &*info.name),
        ("apiGroup", &*info.group),
        ("apiVersion", &*info.version),
        ("subresource", &*info.subresource),
    ];
    let present = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(present.map(|(field, value)| (field.to_owned(), value.into())).collect())
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
