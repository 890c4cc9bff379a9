//! Empties namespaces that are ending and lets them go. One job a namespace; it waits for the ends of objects in it
//! rather than asking again and again, and asks every half minute at the latest, since not every kind is watched here.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    Heard,
    discovery::{Resource, discover},
};
use crate::{
    controllers::namespace::{self, Remainder, Round},
    meta,
    view::Object,
};

const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Objects often end in bursts; one look answers a burst.
const SETTLE: Duration = Duration::from_millis(50);
const TOGETHER: usize = 8;

pub(crate) async fn run(client: Client, mut heard: mpsc::UnboundedReceiver<Heard>) {
    let mut ending: HashMap<String, Arc<Notify>> = HashMap::new();
    let mut jobs: JoinSet<String> = JoinSet::new();
    loop {
        tokio::select! {
            told = heard.recv() => match told {
                Some(Heard::Change(change)) => {
                    if let Some(Object::Namespace(ns)) = &change.new
                        && namespace::ending(ns)
                        && !ending.contains_key(meta::name(&ns.metadata))
                    {
                        let (name, wake) = (meta::name(&ns.metadata).to_owned(), Arc::new(Notify::new()));
                        ending.insert(name.clone(), wake.clone());
                        jobs.spawn(end(client.clone(), name, wake));
                    }
                    if let (Some(old), None) = (&change.old, &change.new)
                        && let Some(wake) = ending.get(meta::namespace(old.meta()))
                    {
                        wake.notify_one();
                    }
                }
                Some(Heard::Synced) => {}
                None => return,
            },
            Some(done) = jobs.join_next() => match done {
                Ok(name) => drop(ending.remove(&name)),
                Err(error) => tracing::error!(%error, "emptying a namespace ended without an answer"),
            },
        }
    }
}

/// Works until the namespace is gone; answers its name.
async fn end(client: Client, name: String, wake: Arc<Notify>) -> String {
    let mut left: Option<Vec<String>> = None;
    loop {
        match step(&client, &name, left.as_deref()).await {
            Ok(Step::Gone) => return name,
            Ok(Step::Left(resources)) => left = Some(resources).filter(|r| !r.is_empty()),
            Err(error) => {
                tracing::info!(namespace = name, %error, "not emptied yet");
                left = None;
            }
        }
        if left.is_some() && tokio::time::timeout(LONGEST_WAIT, wake.notified()).await.is_err() {
            // Nothing was heard: look at everything again.
            left = None;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

enum Step {
    Gone,
    /// Titles of the resources of which something is left; empty: look at all of them once more.
    Left(Vec<String>),
}

/// One round. `only` limits it to what the last round left.
async fn step(client: &Client, name: &str, only: Option<&[String]>) -> kube::Result<Step> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(ns) = namespaces.get_opt(name).await?.filter(namespace::ending) else { return Ok(Step::Gone) };
    let round = empty(client, name, only).await;
    if let Some(conditions) = namespace::conditions(&ns, &round, Timestamp::now()) {
        let patch = json!({"status": {"conditions": conditions}});
        namespaces.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    if !round.empty() {
        let mut left: Vec<String> = round.remainders.into_iter().map(|r| r.resource).collect();
        if !round.discovery_failures.is_empty() || !round.delete_failures.is_empty() {
            // A failure is worth a wait too, but then everything is looked at.
            tokio::time::sleep(Duration::from_secs(1)).await;
            left.clear();
        }
        return Ok(Step::Left(left));
    }
    if only.is_some() {
        return Ok(Step::Left(Vec::new()));
    }
    let Some(ns) = namespaces.get_opt(name).await?.filter(namespace::ending) else { return Ok(Step::Gone) };
    let done = namespace::finalized(&ns);
    let sent: kube::Result<Namespace> =
        namespaces.replace_subresource("finalize", name, &PostParams::default(), &done).await;
    match sent {
        Ok(_) => Ok(Step::Gone),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Step::Gone),
        Err(error) => Err(error),
    }
}

/// Deletes the content of every namespaced resource and counts what is left.
async fn empty(client: &Client, name: &str, only: Option<&[String]>) -> Round {
    let resources = match discover(client).await {
        Ok(resources) => resources,
        Err(error) => return Round { discovery_failures: vec![error.to_string()], ..Default::default() },
    };
    let wanted = resources
        .into_iter()
        .filter(|r| r.namespaced && r.can(&["delete", "list"]))
        .filter(|r| only.is_none_or(|only| only.contains(&r.title())));
    let answers: Vec<Result<Option<Remainder>, String>> =
        stream::iter(wanted).map(|r| empty_one(client, name, r)).buffer_unordered(TOGETHER).collect().await;
    let mut round = Round::default();
    for answer in answers {
        match answer {
            Ok(remainder) => round.remainders.extend(remainder),
            Err(problem) => round.delete_failures.push(problem),
        }
    }
    round.remainders.sort_by(|a, b| a.resource.cmp(&b.resource));
    round.delete_failures.sort();
    round
}

async fn empty_one(client: &Client, name: &str, resource: Resource) -> Result<Option<Remainder>, String> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, resource.api.as_ref());
    let problem = |error: kube::Error| format!("{}: {error}", resource.title());
    let list = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => return Ok(None),
        Err(error) => return Err(problem(error)),
    };
    if list.is_empty() {
        return Ok(None);
    }
    let params = DeleteParams::background();
    if resource.can(&["deletecollection"]) {
        if list.iter().any(|o| !meta::terminating(&o.metadata)) {
            api.delete_collection(&params, &ListParams::default()).await.map_err(problem)?;
        }
    } else {
        for object in list.iter().filter(|o| !meta::terminating(&o.metadata)) {
            match api.delete(meta::name(&object.metadata), &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(problem(error)),
            }
        }
    }
    let left = api.list_metadata(&ListParams::default()).await.map_err(problem)?.items;
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
