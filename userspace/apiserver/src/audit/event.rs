//! One event, in the form of `audit.k8s.io/v1`.

use std::collections::BTreeMap;

use axum::extract::Request;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::policy::{Level, Stage, Verdict};
use crate::identity::Identity;
use crate::identity::PeerAddress;
use crate::request_info::RequestInfo;

/// Longer ones are cut, as upstream cuts them.
const USER_AGENT_MAX: usize = 1_024;

pub(super) struct Event {
    verdict: Verdict,
    id: String,
    fields: Map<String, Value>,
}

impl Event {
    pub(super) fn new(
        request: &Request,
        identity: &Identity,
        info: &RequestInfo<'_>,
        verdict: Verdict,
    ) -> Event {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        // A proxy in front may have given the request an id already.
        let id = text("audit-id").filter(|id| !id.is_empty() && id.len() <= 64).map(str::to_owned);
        let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let mut fields = Map::new();
        fields.insert("auditID".into(), id.as_str().into());
        fields.insert(
            "requestURI".into(),
            request.uri().path_and_query().map_or("", |uri| uri.as_str()).into(),
        );
        fields.insert("verb".into(), info.verb.into());
        fields.insert("user".into(), identity.told());
        if let Some(user) = text("impersonate-user") {
            let groups: Vec<&str> = values(headers, "impersonate-group");
            let mut impersonated = json!({"username": user});
            if !groups.is_empty() {
                impersonated["groups"] = json!(groups);
            }
            fields.insert("impersonatedUser".into(), impersonated);
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
            fields.insert("userAgent".into(), agent.chars().take(USER_AGENT_MAX).collect::<String>().into());
        }
        if !info.resource.is_empty() {
            fields.insert("objectRef".into(), reference(info));
        }
        fields.insert("requestReceivedTimestamp".into(), now().into());
        Event { verdict, id, fields }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The body of the request.
    pub(super) fn sent(&mut self, mut object: Value) {
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
        if self.verdict.level >= Level::Request {
            self.slim(&mut object);
            self.fields.insert("requestObject".into(), object);
        }
    }

    pub(super) fn annotated(&mut self, annotations: BTreeMap<String, String>) {
        self.fields.insert("annotations".into(), json!(annotations));
    }

    /// What came of it; `whole` with what was answered.
    pub(super) fn answered(&mut self, code: StatusCode, body: Option<Value>, whole: bool) {
        let mut status = json!({"metadata": {}, "code": code.as_u16()});
        if let Some(told) = body.as_ref().filter(|body| body["kind"] == "Status") {
            for field in ["status", "message", "reason", "details"] {
                if let Some(value) = told.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        self.fields.insert("responseStatus".into(), status);
        if let Some(mut object) = body.filter(|_| whole) {
            self.slim(&mut object);
            self.fields.insert("responseObject".into(), object);
        }
    }

    fn slim(&self, object: &mut Value) {
        if !self.verdict.omit_managed_fields {
            return;
        }
        let slim = |object: &mut Value| {
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("managedFields");
            }
        };
        slim(object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(slim);
        let rows = object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
        rows.filter_map(|row| row.get_mut("object")).for_each(slim);
    }

    /// The event's line at a stage, unless the policy omits that.
    pub(super) fn line(&self, stage: Stage) -> Option<Vec<u8>> {
        if self.verdict.omit_stages.contains(&stage) {
            return None;
        }
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1",
            "level": format!("{:?}", self.verdict.level), "stage": format!("{stage:?}"),
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

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
}

fn reference(info: &RequestInfo<'_>) -> Value {
    let fields = [
        ("resource", info.resource),
        ("namespace", info.namespace),
        ("name", info.name),
        ("apiGroup", info.group),
        ("apiVersion", info.version),
        ("subresource", info.subresource),
    ];
    let there = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(there.map(|(field, value)| (field.to_owned(), value.into())).collect())
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
