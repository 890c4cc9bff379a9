//! Makes actions true, in their order. Neighbouring creates go out together in batches of 1, 2, 4 ..., so that a
//! server which refuses the first is not asked a thousand times; deletes go out together. The first failure ends the task.

use std::sync::Arc;

use futures::{StreamExt, future::join_all, stream};
use kube::Client;

use super::{
    core::{Effect, Outcome, Task},
    events::Recorder,
    io,
};
use crate::{
    action::{Action, Delete, Failure},
    view::{Key, Kind, Object},
};

/// Writes of one task that are under way at once.
const MOST_TOGETHER: usize = 32;

pub(crate) async fn perform(client: Client, recorder: Arc<Recorder>, task: Task) -> Outcome {
    let mut effects = Vec::new();
    let (mut failure, mut unsure) = (None, Vec::new());
    let mut rest = task.actions.as_slice();
    let mut batch = 1;
    while let Some(first) = rest.first()
        && failure.is_none()
    {
        let alike = rest.iter().take_while(|a| together(first, a)).count().max(1);
        let size = match first {
            Action::Create(_) => alike.min(batch).min(MOST_TOGETHER),
            _ => alike.min(MOST_TOGETHER),
        };
        batch = if matches!(first, Action::Create(_)) { batch * 2 } else { 1 };
        let (now, later) = rest.split_at(size);
        let answers = join_all(now.iter().map(|a| one(&client, &recorder, a))).await;
        for (action, (answered, failed)) in now.iter().zip(answers) {
            effects.extend(answered);
            if matches!(failed, Some(Failure::Unknown(_) | Failure::Conflict)) {
                unsure.extend(action.unsure());
            }
            failure = failure.or(failed);
        }
        rest = later;
    }
    Outcome { item: task.item, effects, failure, unsure }
}

fn together(first: &Action, other: &Action) -> bool {
    matches!((first, other), (Action::Create(_), Action::Create(_)) | (Action::Delete(_), Action::Delete(_)))
}

async fn one(client: &Client, recorder: &Recorder, action: &Action) -> (Option<Effect>, Option<Failure>) {
    match action {
        Action::Create(object) => match io::create(client, object).await {
            Ok(object) => (Some(Effect::Written(object)), None),
            Err(error) => create_failed(client, object, error).await,
        },
        Action::Update { object, subresource } => {
            written(io::update(client, object, subresource).await, object.kind(), &Key::of(object.meta()))
        }
        Action::Patch { kind, key, patch, subresource } => {
            written(io::patch(client, *kind, key, patch, subresource).await, *kind, key)
        }
        Action::Delete(delete) => deleted(io::delete(client, delete).await, delete),
        Action::EnsureMissing { kind, key } => match io::get(client, *kind, key).await {
            Ok(object) => (Some(Effect::Written(object)), Some(Failure::Conflict)),
            Err(kube::Error::Api(status)) if status.code == 404 => (None, None),
            Err(error) => (None, Some(failure(error))),
        },
        Action::Confirm { kind, key } => match io::get(client, *kind, key).await {
            Ok(object) => (Some(Effect::Written(object)), None),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                (Some(Effect::Missing { kind: *kind, key: key.clone() }), None)
            }
            Err(error) => (None, Some(Failure::Unknown(error.to_string()))),
        },
        Action::Record(record) => {
            recorder.record(client, record).await;
            (None, None)
        }
        Action::RequeueAt(_) => (None, None),
    }
}

/// A name that is taken may be our own earlier create whose answer was lost: ask, so that the view knows it.
async fn create_failed(
    client: &Client,
    object: &Object,
    error: kube::Error,
) -> (Option<Effect>, Option<Failure>) {
    if matches!(&error, kube::Error::Api(status) if status.code == 409 && status.reason == "AlreadyExists") {
        let found = io::get(client, object.kind(), &Key::of(object.meta())).await;
        return (found.ok().map(Effect::Written), Some(Failure::Conflict));
    }
    (None, Some(failure(error)))
}

fn written(answer: kube::Result<Object>, kind: Kind, key: &Key) -> (Option<Effect>, Option<Failure>) {
    match answer {
        Ok(object) => (Some(Effect::Written(object)), None),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            (Some(Effect::Missing { kind, key: key.clone() }), None)
        }
        Err(error) => (None, Some(failure(error))),
    }
}

fn deleted(answer: kube::Result<Option<Object>>, delete: &Delete) -> (Option<Effect>, Option<Failure>) {
    let (kind, key) = (delete.kind, delete.key.clone());
    match answer {
        Ok(Some(object)) if object.meta().deletion_timestamp.is_some() => {
            (Some(Effect::Written(object)), None)
        }
        Ok(_) => (Some(Effect::DeleteAccepted { kind, key, uid: delete.uid.clone() }), None),
        Err(kube::Error::Api(status)) if status.code == 404 => (Some(Effect::Missing { kind, key }), None),
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

/// Asks what became of objects that a relist did not show though we had just written them.
pub(crate) async fn ask(client: Client, asked: Vec<(Kind, Key)>) -> Vec<Effect> {
    stream::iter(asked)
        .map(|(kind, key)| {
            let client = client.clone();
            async move {
                match io::get(&client, kind, &key).await {
                    Ok(object) => Some(Effect::Written(object)),
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        Some(Effect::Missing { kind, key })
                    }
                    Err(_) => None,
                }
            }
        })
        .buffer_unordered(MOST_TOGETHER)
        .filter_map(|effect| async move { effect })
        .collect()
        .await
}
