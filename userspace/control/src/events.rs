//! Events for users (`kubectl describe`): repeats within ten minutes raise the count of one Event instead of making more.
//! A lost Event does no harm, so failures are only logged.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::action::Record;
use crate::meta;

/// Repeats within this time are counted in one Event.
const AGGREGATION_WINDOW: Duration = Duration::from_secs(600);
const MAX_REMEMBERED_EVENTS: usize = 1024;

struct Sent {
    name: String,
    count: i32,
    last: Timestamp,
}

/// Writes Events, and remembers the latest ones to count their repeats.
#[derive(Default)]
pub(crate) struct Recorder {
    sent: Mutex<HashMap<u64, Sent>>,
}

enum EventWrite {
    Create(String),
    /// Raise the count of the Event of this name.
    Count(String, i32),
}

impl Recorder {
    pub(crate) async fn record(&self, client: &Client, record: &Record) {
        let now = Timestamp::now();
        let namespace =
            if record.key.namespace.is_empty() { "default" } else { record.key.namespace.as_ref() };
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let result = match self.next_write(record, now) {
            EventWrite::Create(name) => {
                api.create(&PostParams::default(), &event(record, name, namespace, now)).await.map(drop)
            }
            EventWrite::Count(name, count) => {
                let patch = json!({"count": count, "lastTimestamp": meta::time(now)});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        };
        if let Err(error) = result {
            tracing::debug!(object = %record.key, reason = record.reason, %error, "record event failed");
        }
    }

    fn next_write(&self, record: &Record, now: Timestamp) -> EventWrite {
        let id =
            meta::stable_hash(&[record.uid.as_bytes(), record.reason.as_bytes(), record.message.as_bytes()]);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |s: &Sent| now.duration_since(s.last).unsigned_abs() < AGGREGATION_WINDOW;
        if let Some(known) = sent.get_mut(&id).filter(|s| recent(s)) {
            known.count += 1;
            known.last = now;
            return EventWrite::Count(known.name.clone(), known.count);
        }
        if sent.len() >= MAX_REMEMBERED_EVENTS {
            sent.retain(|_, s| recent(s));
        }
        if sent.len() >= MAX_REMEMBERED_EVENTS {
            sent.clear();
        }
        let name = format!("{}.{:x}", record.key.name, now.as_nanosecond());
        sent.insert(id, Sent { name: name.clone(), count: 1, last: now });
        EventWrite::Create(name)
    }
}

fn event(record: &Record, name: String, namespace: &str, now: Timestamp) -> Event {
    const COMPONENT: &str = "skep-controller-manager";
    let at: Time = meta::time(now);
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.into()), ..Default::default() },
        involved_object: ObjectReference {
            api_version: Some(record.kind.api_version().into()),
            kind: Some(record.kind.name().into()),
            name: Some(record.key.name.to_string()),
            namespace: Some(record.key.namespace.to_string()).filter(|ns| !ns.is_empty()),
            uid: Some(record.uid.clone()),
            ..Default::default()
        },
        reason: Some(record.reason.into()),
        message: Some(record.message.clone()),
        type_: Some(if record.warning { "Warning" } else { "Normal" }.into()),
        count: Some(1),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: None }),
        reporting_component: Some(COMPONENT.into()),
        ..Default::default()
    }
}
