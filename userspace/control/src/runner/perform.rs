//! Performs the actions of a task in order. Neighbouring creates are sent together in batches of 1, 2, 4 ..., so that a
//! server that refuses the first does not get a thousand requests. Neighbouring deletes are sent together. The first failure
//! ends the task.

use std::sync::Arc;

use futures::future::join_all;
use kube::Client;

use super::core::{Outcome, Task};
use crate::action::{Action, Delete, Failure};
use crate::cache::{Answer, Key, Kind, Object};
use crate::events::Recorder;
use crate::guard::caught_async;
use crate::requests;

const MAX_CONCURRENT_WRITES: usize = 32;

/// The writer of a controller's Events, and the component that they name.
pub(crate) struct Events {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) source: &'static str,
}

/// Performs a task. A panic on the way is a failure of the task: what its actions did is unknown.
pub(crate) async fn perform(client: Client, events: Events, task: Task) -> Outcome {
    let (item, unsure) = (task.item.clone(), task.actions.iter().filter_map(Action::unsure).collect());
    let performed = caught_async(perform_in_order(client, events, task)).await;
    performed.unwrap_or_else(|fault| {
        let failure = Some(Failure::Panicked(fault.0));
        Outcome { item, answers: Vec::new(), failure, unsure }
    })
}

async fn perform_in_order(client: Client, events: Events, task: Task) -> Outcome {
    let mut answers = Vec::new();
    let (mut failure, mut unsure) = (None, Vec::new());
    let mut rest = task.actions.as_slice();
    let mut batch = 1;
    while let Some(first) = rest.first()
        && failure.is_none()
    {
        let alike = rest.iter().take_while(|a| batchable(first, a)).count().max(1);
        let size = match first {
            Action::Create(_) => alike.min(batch).min(MAX_CONCURRENT_WRITES),
            _ => alike.min(MAX_CONCURRENT_WRITES),
        };
        batch = if matches!(first, Action::Create(_)) { batch * 2 } else { 1 };
        let (now, later) = rest.split_at(size);
        let results = join_all(now.iter().map(|a| one(&client, &events, a))).await;
        for (action, (answer, failed)) in now.iter().zip(results) {
            answers.extend(answer);
            if matches!(failed, Some(Failure::Unknown(_) | Failure::Conflict)) {
                unsure.extend(action.unsure());
            }
            failure = failure.or(failed);
        }
        rest = later;
    }
    Outcome { item: task.item, answers, failure: task.failure.or(failure), unsure }
}

fn batchable(first: &Action, other: &Action) -> bool {
    matches!((first, other), (Action::Create(_), Action::Create(_)) | (Action::Delete(_), Action::Delete(_)))
}

async fn one(client: &Client, events: &Events, action: &Action) -> (Option<Answer>, Option<Failure>) {
    match action {
        Action::Create(object) => match requests::create(client, object).await {
            Ok(object) => (Some(Answer::Written(object)), None),
            Err(error) => create_failed(client, object, error).await,
        },
        Action::Update { object, subresource } => written(
            requests::update(client, object, subresource).await,
            object.kind(),
            &Key::of(object.meta()),
        ),
        Action::Patch { kind, key, patch, subresource } => {
            written(requests::patch(client, *kind, key, patch, subresource).await, *kind, key)
        }
        Action::Delete(delete) => deleted(requests::delete(client, delete).await, delete),
        Action::EnsureMissing { kind, key } => match requests::get(client, *kind, key).await {
            Ok(object) => (Some(Answer::Written(object)), Some(Failure::Conflict)),
            Err(kube::Error::Api(status)) if status.code == 404 => (None, None),
            Err(error) => (None, Some(failure(error))),
        },
        Action::Confirm { kind, key } => match requests::get(client, *kind, key).await {
            Ok(object) => (Some(Answer::Written(object)), None),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                (Some(Answer::Missing { kind: *kind, key: key.clone() }), None)
            }
            Err(error) => (None, Some(Failure::Unknown(error.to_string()))),
        },
        Action::Record(record) => {
            events.recorder.record(client, events.source, record).await;
            (None, None)
        }
        Action::RequeueAt(_) => (None, None),
    }
}

/// The name may be taken by our own earlier create whose answer was lost: the view must get that object.
async fn create_failed(
    client: &Client,
    object: &Object,
    error: kube::Error,
) -> (Option<Answer>, Option<Failure>) {
    if matches!(&error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists") {
        let found = requests::get(client, object.kind(), &Key::of(object.meta())).await;
        return (found.ok().map(Answer::Written), Some(Failure::Conflict));
    }
    (None, Some(failure(error)))
}

fn written(answer: kube::Result<Object>, kind: Kind, key: &Key) -> (Option<Answer>, Option<Failure>) {
    match answer {
        Ok(object) => (Some(Answer::Written(object)), None),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            (Some(Answer::Missing { kind, key: key.clone() }), None)
        }
        Err(error) => (None, Some(failure(error))),
    }
}

fn deleted(answer: kube::Result<Option<Object>>, delete: &Delete) -> (Option<Answer>, Option<Failure>) {
    let (kind, key) = (delete.kind, delete.key.clone());
    match answer {
        Ok(Some(object)) if object.meta().deletion_timestamp.is_some() => {
            (Some(Answer::Written(object)), None)
        }
        Ok(_) => (Some(Answer::DeleteAccepted { kind, key, uid: delete.uid.clone() }), None),
        Err(kube::Error::Api(status)) if status.code == 404 => (Some(Answer::Missing { kind, key }), None),
        Err(error) => (None, Some(failure(error))),
    }
}

fn failure(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 409 => Failure::Conflict,
        kube::Error::Api(status) if status.code < 500 => Failure::Refused {
            code: status.code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        other => Failure::Unknown(other.to_string()),
    }
}
