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
use crate::cache::Key;
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

/// What an Event is about, of any kind, and who records it.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The component that the Event names, as upstream's: `kubectl describe` shows it.
    pub(crate) source: &'static str,
    pub(crate) api_version: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) key: &'a Key,
    pub(crate) uid: &'a str,
}

enum EventWrite {
    Create(String),
    /// Raise the count of the Event of this name.
    Count(String, i32),
}

impl Recorder {
    /// `source`: the component that the Event names.
    pub(crate) async fn record(&self, client: &Client, source: &'static str, record: &Record) {
        let subject = Subject {
            source,
            api_version: record.kind.api_version(),
            kind: record.kind.name(),
            key: &record.key,
            uid: &record.uid,
        };
        self.record_about(client, subject, record.warning, record.reason, record.message.clone()).await;
    }

    pub(crate) async fn record_about(
        &self,
        client: &Client,
        subject: Subject<'_>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let now = Timestamp::now();
        let namespace =
            if subject.key.namespace.is_empty() { "default" } else { subject.key.namespace.as_ref() };
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let result = match self.next_write(subject, reason, &message, now) {
            EventWrite::Create(name) => {
                let metadata =
                    ObjectMeta { name: Some(name), namespace: Some(namespace.into()), ..Default::default() };
                let event = Event {
                    reason: Some(reason.into()),
                    message: Some(message),
                    type_: Some(if warning { "Warning" } else { "Normal" }.into()),
                    ..event(subject, metadata, now)
                };
                api.create(&PostParams::default(), &event).await.map(drop)
            }
            EventWrite::Count(name, count) => {
                let patch = json!({"count": count, "lastTimestamp": meta::time(now)});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        };
        if let Err(error) = result {
            tracing::debug!(object = %subject.key, reason, %error, "record event failed");
        }
    }

    fn next_write(&self, subject: Subject<'_>, reason: &str, message: &str, now: Timestamp) -> EventWrite {
        let id = meta::stable_hash(&[subject.uid.as_bytes(), reason.as_bytes(), message.as_bytes()]);
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
        let name = format!("{}.{:x}", subject.key.name, now.as_nanosecond());
        sent.insert(id, Sent { name: name.clone(), count: 1, last: now });
        EventWrite::Create(name)
    }
}

/// An Event without its reason, message and type.
fn event(subject: Subject<'_>, metadata: ObjectMeta, now: Timestamp) -> Event {
    let at: Time = meta::time(now);
    Event {
        metadata,
        involved_object: ObjectReference {
            api_version: Some(subject.api_version.into()),
            kind: Some(subject.kind.into()),
            name: Some(subject.key.name.to_string()),
            namespace: Some(subject.key.namespace.to_string()).filter(|ns| !ns.is_empty()),
            uid: Some(subject.uid.into()),
            ..Default::default()
        },
        count: Some(1),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        source: Some(EventSource { component: Some(subject.source.into()), host: None }),
        reporting_component: Some(subject.source.into()),
        ..Default::default()
    }
}
