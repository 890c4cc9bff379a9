//! Events for users (`kubectl describe`): repeats within ten minutes raise the count of one Event instead of making more.
//! A lost Event harms nobody, so failures are only logged.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{action::Record, meta};

const AGGREGATE: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 1024;

struct Seen {
    name: String,
    count: i32,
    last: Timestamp,
}

#[derive(Default)]
pub(crate) struct Recorder {
    seen: Mutex<HashMap<u64, Seen>>,
}

/// Whether to make an Event or to count one up.
enum Step {
    Make(String),
    Count(String, i32),
}

impl Recorder {
    pub(crate) async fn record(&self, client: &Client, record: &Record) {
        let now = Timestamp::now();
        let namespace =
            if record.key.namespace.is_empty() { "default" } else { record.key.namespace.as_ref() };
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let done = match self.step(record, now) {
            Step::Make(name) => {
                api.create(&PostParams::default(), &event(record, name, namespace, now)).await.map(drop)
            }
            Step::Count(name, count) => {
                let patch = json!({"count": count, "lastTimestamp": meta::time(now)});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        };
        if let Err(error) = done {
            tracing::debug!(object = %record.key, reason = record.reason, %error, "event not recorded");
        }
    }

    fn step(&self, record: &Record, now: Timestamp) -> Step {
        let id =
            meta::stable_hash(&[record.uid.as_bytes(), record.reason.as_bytes(), record.message.as_bytes()]);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = |s: &Seen| now.duration_since(s.last).unsigned_abs() < AGGREGATE;
        if let Some(known) = seen.get_mut(&id).filter(|s| fresh(s)) {
            known.count += 1;
            known.last = now;
            return Step::Count(known.name.clone(), known.count);
        }
        if seen.len() >= REMEMBERED {
            seen.retain(|_, s| fresh(s));
        }
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        let name = format!("{}.{:x}", record.key.name, now.as_nanosecond());
        seen.insert(id, Seen { name: name.clone(), count: 1, last: now });
        Step::Make(name)
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
