//! Empties namespaces that are being deleted and finalizes them. One job a namespace. It waits for deletions of objects
//! in the namespace instead of polling, and checks at least every half minute, since the hub does not watch every kind.

mod conditions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::cache::{Change, Object};
use crate::discovery::{Resource, discover};
use crate::guard::caught_async;
use crate::hub::{InformerEvent, Subscription};
use crate::meta;
use conditions::{Remainder, Round, conditions, finalized, is_ending};

const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Objects are often deleted in bursts; one check answers a burst.
const BURST_PAUSE: Duration = Duration::from_millis(50);
const MIN_FAILURE_PAUSE: Duration = Duration::from_secs(1);
const MAX_FAILURE_PAUSE: Duration = Duration::from_secs(10);
const MAX_CONCURRENT_RESOURCES: usize = 8;

/// Empties namespaces until the future is dropped or the hub is gone.
pub(crate) async fn run(client: Client, mut subscription: Subscription) {
    let mut emptier = Emptier { client, ending: HashMap::new(), jobs: JoinSet::new() };
    loop {
        tokio::select! {
            event = subscription.next() => match event {
                Some(InformerEvent::Change(change)) => emptier.accept(&change),
                Some(InformerEvent::Listed(_)) => {}
                None => return,
            },
            Some(done) = emptier.jobs.join_next() => match done {
                Ok(name) => drop(emptier.ending.remove(&name)),
                Err(error) => tracing::error!(%error, "empty namespace failed"),
            },
        }
    }
}

struct Emptier {
    client: Client,
    /// Namespaces with a job, and what wakes it.
    ending: HashMap<String, Arc<Notify>>,
    jobs: JoinSet<String>,
}

impl Emptier {
    fn accept(&mut self, change: &Change) {
        if let Some(Object::Namespace(namespace)) = &change.new
            && is_ending(namespace)
        {
            let name = meta::name(&namespace.metadata);
            if !self.ending.contains_key(name) {
                let wake = Arc::new(Notify::new());
                self.ending.insert(name.to_owned(), wake.clone());
                let (client, name) = (self.client.clone(), name.to_owned());
                self.jobs.spawn(async move {
                    while let Err(error) = caught_async(finish(&client, &name, &wake)).await {
                        tracing::error!(namespace = name, %error, "empty namespace failed; it is retried");
                        tokio::time::sleep(MAX_CHECK_INTERVAL).await;
                    }
                    name
                });
            }
        }
        if let (Some(old), None) = (&change.old, &change.new)
            && let Some(wake) = self.ending.get(meta::namespace(old.meta()))
        {
            wake.notify_one();
        }
    }
}

/// Works until the namespace is gone.
async fn finish(client: &Client, name: &str, wake: &Notify) {
    let mut remaining: Option<Vec<String>> = None;
    let mut failure_pause = MIN_FAILURE_PAUSE;
    loop {
        match step(client, name, remaining.as_deref()).await {
            Ok(Progress::Gone) => return,
            Ok(Progress::Remaining(resources)) => {
                remaining = Some(resources).filter(|r| !r.is_empty());
                failure_pause = MIN_FAILURE_PAUSE;
            }
            Ok(Progress::Failed) => {
                remaining = None;
                tokio::time::sleep(failure_pause).await;
                failure_pause = (failure_pause * 2).min(MAX_FAILURE_PAUSE);
            }
            Err(error) => {
                tracing::info!(namespace = name, %error, "empty namespace failed; it is retried");
                remaining = None;
                tokio::time::sleep(failure_pause).await;
                failure_pause = (failure_pause * 2).min(MAX_FAILURE_PAUSE);
            }
        }
        if remaining.is_some() && tokio::time::timeout(MAX_CHECK_INTERVAL, wake.notified()).await.is_err() {
            // No deletion was seen: check every resource again.
            remaining = None;
        }
        tokio::time::sleep(BURST_PAUSE).await;
    }
}

enum Progress {
    Gone,
    /// Titles of the resources with objects left; empty: check every resource once more.
    Remaining(Vec<String>),
    /// Not every resource could be found or emptied.
    Failed,
}

/// One round. `only` limits it to the resources that the last round left.
async fn step(client: &Client, name: &str, only: Option<&[String]>) -> kube::Result<Progress> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(ns) = namespaces.get_opt(name).await?.filter(is_ending) else { return Ok(Progress::Gone) };
    let round = delete_content(client, name, only).await;
    if let Some(conditions) = conditions(&ns, &round, Timestamp::now()) {
        let patch = json!({"status": {"conditions": conditions}});
        namespaces.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    if !round.is_empty() {
        if round.discovery_failure.is_some() || !round.delete_failures.is_empty() {
            return Ok(Progress::Failed);
        }
        return Ok(Progress::Remaining(round.remainders.into_iter().map(|r| r.resource).collect()));
    }
    if only.is_some() {
        return Ok(Progress::Remaining(Vec::new()));
    }
    let Some(ns) = namespaces.get_opt(name).await?.filter(is_ending) else { return Ok(Progress::Gone) };
    let finalized = finalized(&ns);
    let sent: kube::Result<Namespace> =
        namespaces.replace_subresource("finalize", name, &PostParams::default(), &finalized).await;
    match sent {
        Ok(_) => Ok(Progress::Gone),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Progress::Gone),
        Err(error) => Err(error),
    }
}

/// Pods go first, so that none runs without the NetworkPolicies and Secrets of its namespace (KEP-5080).
const PODS: &str = "pods.";

/// Deletes the content of every namespaced resource and counts what remains. While pods remain, nothing else is deleted.
async fn delete_content(client: &Client, name: &str, only: Option<&[String]>) -> Round {
    let discovered = match discover(client).await {
        Ok(discovered) => discovered,
        Err(error) => return Round { discovery_failure: Some(error.to_string()), ..Default::default() },
    };
    let deletable: Vec<Resource> = discovered
        .preferred()
        .filter(|r| r.namespaced && r.can(&["delete", "list"]))
        .filter(|r| only.is_none_or(|only| only.contains(&r.title())))
        .cloned()
        .collect();
    let (pods, others): (Vec<Resource>, Vec<Resource>) =
        deletable.into_iter().partition(|r| r.title() == PODS);
    let mut round = Round { discovery_failure: discovered.failure_message(), ..Default::default() };
    for resources in [pods, others] {
        let results: Vec<Result<Option<Remainder>, DeleteFailure>> = stream::iter(resources)
            .map(|r| delete_resource(client, name, r))
            .buffer_unordered(MAX_CONCURRENT_RESOURCES)
            .collect()
            .await;
        for result in results {
            match result {
                Ok(remainder) => round.remainders.extend(remainder),
                Err(failure) => round.delete_failures.push(failure.to_string()),
            }
        }
        if round.remainders.iter().any(|r| r.resource == PODS) {
            break;
        }
    }
    round.remainders.sort_by(|a, b| a.resource.cmp(&b.resource));
    round.delete_failures.sort();
    round
}

/// The text is part of a condition of the namespace.
#[derive(Debug, thiserror::Error)]
#[error("{resource}: {source}")]
struct DeleteFailure {
    resource: String,
    source: kube::Error,
}

async fn delete_resource(
    client: &Client,
    name: &str,
    resource: Resource,
) -> Result<Option<Remainder>, DeleteFailure> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, resource.api.as_ref());
    let failure = |source: kube::Error| DeleteFailure { resource: resource.title(), source };
    let list = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => return Ok(None),
        Err(error) => return Err(failure(error)),
    };
    if list.is_empty() {
        return Ok(None);
    }
    let params = DeleteParams::background();
    if resource.can(&["deletecollection"]) {
        if list.iter().any(|o| !meta::terminating(&o.metadata)) {
            api.delete_collection(&params, &ListParams::default()).await.map_err(failure)?;
        }
    } else {
        for object in list.iter().filter(|o| !meta::terminating(&o.metadata)) {
            match api.delete(meta::name(&object.metadata), &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }
    let left = api.list_metadata(&ListParams::default()).await.map_err(failure)?.items;
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    for finalizer in left.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok((!left.is_empty()).then(|| Remainder {
        resource: resource.title(),
        count: left.len(),
        finalizers: finalizers.into_iter().collect(),
    }))
}
