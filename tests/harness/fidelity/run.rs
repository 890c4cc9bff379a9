//! Sends each object to both servers, by create and by server-side apply, and compares the answers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::Answer;
use super::compare::{Aspect, Difference, compare};
use super::manifests::Manifest;
use super::normal::normalise;
use super::target::{Resource, Resources, Target};

const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(60);
/// Objects between two lines of progress.
const PROGRESS_OBJECTS: usize = 500;
const PROGRESS_DEFINITIONS: usize = 50;
const APPLY: &str = "application/apply-patch+yaml";

/// Objects that change what the server answers to others; they are sent by dry run only.
const INFLUENCES_OTHERS: &[&str] = &[
    "APIService",
    "FlowSchema",
    "IngressClass",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    // Without a controller a deleted namespace never ends.
    "Namespace",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];

#[derive(Clone)]
pub struct Pair {
    pub oracle: Target,
    pub skep: Target,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Write the objects, in place of dry runs.
    pub real: bool,
    /// Objects under way at once, each in a namespace of its worker.
    pub workers: usize,
}

/// What both servers answered to one request.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub file: PathBuf,
    pub document: usize,
    pub kind: String,
    pub name: String,
    pub operation: &'static str,
    pub oracle_code: u16,
    pub skep_code: u16,
    pub differences: Vec<Difference>,
}

#[derive(Default)]
pub struct Outcomes {
    pub all: Vec<Outcome>,
    /// Objects of kinds that the reference does not serve.
    pub unserved: usize,
}

impl Pair {
    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<(Answer, Answer)> {
        // A task each: Skep may work in place, and must not delay the reading of the other answer.
        let ask = |target: &Target| {
            let (target, method, path) = (target.clone(), method.clone(), path.to_owned());
            let (media_type, body) = (media_type.to_owned(), body.to_vec());
            tokio::spawn(async move { target.send(method, &path, &media_type, body).await })
        };
        let (oracle, skep) = (ask(&self.oracle), ask(&self.skep));
        Ok((oracle.await??, skep.await??))
    }

    async fn both(&self, method: Method, path: &str, body: &Value) -> Result<(Answer, Answer)> {
        self.send(method, path, "application/json", &serde_json::to_vec(body)?).await
    }
}

/// Definitions first, then the other objects once the kinds are served.
pub async fn run(pair: &Pair, manifests: Vec<Manifest>, options: &Options) -> Result<Outcomes> {
    let (definitions, objects): (Vec<_>, Vec<_>) = manifests.into_iter().partition(Manifest::is_definition);
    let mut outcomes = Outcomes::default();
    let used = objects.iter().map(|manifest| {
        let group = manifest.text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        (group.to_owned(), manifest.text("kind").to_owned())
    });
    define(pair, definitions, &used.collect(), &mut outcomes).await?;
    let resources = Arc::new(pair.oracle.resources().await?);
    let namespaces = make_namespaces(pair, options.workers, &objects).await?;
    let objects = Arc::new(objects);
    // Names of objects without a namespace would meet: one worker has them all.
    let (everywhere, cluster) = (Arc::new(AtomicUsize::new(0)), resources.clone());
    let is_cluster =
        move |manifest: &Manifest| find(&cluster, manifest).is_none_or(|found| !found.namespaced);
    let is_cluster = Arc::new(is_cluster);
    let mut tasks = tokio::task::JoinSet::new();
    for (worker, namespace) in namespaces.into_iter().enumerate() {
        let (pair, options) = (pair.clone(), options.clone());
        let (objects, resources) = (objects.clone(), resources.clone());
        let (next, is_cluster) = (everywhere.clone(), is_cluster.clone());
        tasks.spawn(async move {
            let mut outcomes = Outcomes::default();
            let one = One { pair: &pair, resources: &resources, namespace: &namespace, options: &options };
            if worker == 0 {
                for manifest in objects.iter().filter(|manifest| is_cluster(manifest)) {
                    one.compare(manifest, &mut outcomes).await?;
                }
            }
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(manifest) = objects.get(index) else { break };
                if index.is_multiple_of(PROGRESS_OBJECTS) {
                    eprintln!("{index} of {} objects", objects.len());
                }
                if !is_cluster(manifest) {
                    one.compare(manifest, &mut outcomes).await?;
                }
            }
            anyhow::Ok(outcomes)
        });
    }
    while let Some(done) = tasks.join_next().await {
        let done = done??;
        outcomes.all.extend(done.all);
        outcomes.unserved += done.unserved;
    }
    // Stable: requests to one object stay in their order.
    outcomes.all.sort_by(|a, b| (&a.file, a.document).cmp(&(&b.file, b.document)));
    Ok(outcomes)
}

fn find<'a>(resources: &'a Resources, manifest: &Manifest) -> Option<&'a Resource> {
    resources.get(&(manifest.text("apiVersion").to_owned(), manifest.text("kind").to_owned()))
}

/// A dry run of each, so that copies of one definition are all compared; then, for real, the first of each name whose kind
/// (group and kind) is used.
async fn define(
    pair: &Pair,
    definitions: Vec<Manifest>,
    used: &BTreeSet<(String, String)>,
    outcomes: &mut Outcomes,
) -> Result<()> {
    let path =
        |manifest: &Manifest| format!("/apis/{}/customresourcedefinitions", manifest.text("apiVersion"));
    let current =
        definitions.iter().filter(|manifest| manifest.text("apiVersion") == "apiextensions.k8s.io/v1");
    let current: Vec<&Manifest> = current.collect();
    outcomes.unserved += definitions.len() - current.len();
    for (index, manifest) in current.iter().enumerate() {
        if index.is_multiple_of(PROGRESS_DEFINITIONS) {
            eprintln!("{index} of {} definitions", current.len());
        }
        let (path, object) = (path(manifest), &manifest.object);
        let query = "?dryRun=All&fieldManager=fidelity-create&fieldValidation=Warn";
        let mut answers = pair.both(Method::POST, &format!("{path}{query}"), object).await?;
        outcomes.add(manifest, "create definition", &mut answers);
        let query = "?dryRun=All&fieldManager=fidelity-apply&force=true";
        let path = format!("{path}/{}{query}", manifest.name());
        let mut answers = pair.send(Method::PATCH, &path, APPLY, &serde_json::to_vec(object)?).await?;
        outcomes.add(manifest, "apply definition", &mut answers);
    }
    let mut made = BTreeSet::new();
    for manifest in &current {
        let spec = &manifest.object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = (text(&spec["group"]), text(&spec["names"]["kind"]));
        if !used.contains(&kind) || made.contains(manifest.name()) {
            continue;
        }
        let query = "?fieldManager=fidelity-create";
        let path = format!("{}{query}", path(manifest));
        let mut object = manifest.object.clone();
        // No webhook of the corpus runs; objects in other versions than the stored one are left as they are.
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.shift_remove("conversion");
        }
        let (oracle, _) = pair.both(Method::POST, &path, &object).await?;
        if oracle.succeeded() || oracle.code == 409 {
            made.insert(manifest.name().to_owned());
        }
    }
    for name in made {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let established = |object: &Value| {
            let conditions = object["status"]["conditions"].as_array();
            conditions
                .is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
        };
        pair.oracle.wait(&path, ESTABLISHED_TIMEOUT, established).await?;
        if pair.skep.get(&path).await?.succeeded() {
            pair.skep.wait(&path, ESTABLISHED_TIMEOUT, established).await?;
        }
    }
    Ok(())
}

/// A fresh namespace for each worker, with the accounts that the pods name.
async fn make_namespaces(pair: &Pair, workers: usize, objects: &[Manifest]) -> Result<Vec<String>> {
    let mut accounts: BTreeSet<&str> = BTreeSet::from(["default"]);
    let pods = objects.iter().filter(|manifest| manifest.text("kind") == "Pod");
    accounts.extend(pods.filter_map(|manifest| manifest.object["spec"]["serviceAccountName"].as_str()));
    let mut namespaces = Vec::new();
    for worker in 0..workers.max(1) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("fidelity-{worker}-{}", std::process::id())}});
        let (oracle, skep) = pair.both(Method::POST, "/api/v1/namespaces", &body).await?;
        ensure!(oracle.succeeded(), "oracle: no namespace: {}", oracle.message());
        ensure!(skep.succeeded(), "Skep: no namespace: {}", skep.message());
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        for account in &accounts {
            let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
            pair.both(Method::POST, &format!("/api/v1/namespaces/{name}/serviceaccounts"), &body).await?;
        }
        namespaces.push(name);
    }
    Ok(namespaces)
}

/// What the comparison of one object needs.
struct One<'a> {
    pair: &'a Pair,
    resources: &'a Resources,
    namespace: &'a str,
    options: &'a Options,
}

impl One<'_> {
    async fn compare(&self, manifest: &Manifest, outcomes: &mut Outcomes) -> Result<()> {
        let Some(resource) = find(self.resources, manifest).filter(|resource| resource.can_create) else {
            outcomes.unserved += 1;
            return Ok(());
        };
        let mut manifest = manifest.clone();
        if resource.namespaced && manifest.object["metadata"].is_object() {
            manifest.object["metadata"]["namespace"] = self.namespace.into();
        }
        let path = resource.collection(self.namespace);
        if self.options.real && !INFLUENCES_OTHERS.contains(&manifest.text("kind")) {
            return self.write(&manifest, &path, outcomes).await;
        }
        self.create(&manifest, &path, "&dryRun=All", outcomes).await?;
        if !manifest.name().is_empty() {
            self.apply(&manifest, &path, "&dryRun=All", "apply", outcomes).await?;
        }
        Ok(())
    }

    /// Create, apply over it; then both of nothing, and apply again.
    async fn write(&self, manifest: &Manifest, path: &str, outcomes: &mut Outcomes) -> Result<()> {
        let created = self.create(manifest, path, "", outcomes).await?;
        let name = |answer: &Answer| answer.body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let name = Some(name(&created.0)).filter(|name| !name.is_empty()).unwrap_or_else(|| name(&created.1));
        if !created.0.succeeded() || !created.1.succeeded() {
            return self.delete(path, &name).await;
        }
        if manifest.name().is_empty() {
            return self.delete(path, &name).await;
        }
        self.apply(manifest, path, "", "apply over create", outcomes).await?;
        self.delete(path, &name).await?;
        let first = self.apply(manifest, path, "", "apply", outcomes).await?;
        let second = self.apply(manifest, path, "", "apply again", outcomes).await?;
        let wrote = |first: &Answer, second: &Answer| {
            second.succeeded() && first.resource_version() != second.resource_version()
        };
        let (oracle, skep) = (wrote(&first.0, &second.0), wrote(&first.1, &second.1));
        if oracle != skep
            && let Some(last) = outcomes.all.last_mut()
        {
            let aspect = Aspect::NotIdempotent;
            last.differences.push(Difference {
                aspect,
                path: String::new(),
                oracle: oracle.into(),
                skep: skep.into(),
            });
        }
        self.delete(path, &name).await
    }

    async fn create(
        &self,
        manifest: &Manifest,
        path: &str,
        query: &str,
        outcomes: &mut Outcomes,
    ) -> Result<(Answer, Answer)> {
        let path = format!("{path}?fieldManager=fidelity-create&fieldValidation=Warn{query}");
        let mut answers = self.pair.both(Method::POST, &path, &manifest.object).await?;
        let unchanged = answers.clone();
        outcomes.add(manifest, "create", &mut answers);
        Ok(unchanged)
    }

    async fn apply(
        &self,
        manifest: &Manifest,
        path: &str,
        query: &str,
        operation: &'static str,
        outcomes: &mut Outcomes,
    ) -> Result<(Answer, Answer)> {
        let path =
            format!("{path}/{}?fieldManager=fidelity-apply&force=true{query}", escaped(manifest.name()));
        let body = serde_json::to_vec(&manifest.object)?;
        let mut answers = self.pair.send(Method::PATCH, &path, APPLY, &body).await?;
        let unchanged = answers.clone();
        outcomes.add(manifest, operation, &mut answers);
        Ok(unchanged)
    }

    /// Finalizers go with it: no controller removes them.
    async fn delete(&self, path: &str, name: &str) -> Result<()> {
        if name.is_empty() {
            return Ok(());
        }
        delete(&self.pair.oracle, path, name).await?;
        delete(&self.pair.skep, path, name).await
    }
}

pub async fn delete(target: &Target, path: &str, name: &str) -> Result<()> {
    let path = format!("{path}/{}", escaped(name));
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"});
    target.send_json(Method::DELETE, &path, &options).await?;
    if target.get(&path).await?.succeeded() {
        let patch = br#"{"metadata":{"finalizers":null}}"#.to_vec();
        target.send(Method::PATCH, &path, "application/merge-patch+json", patch).await?;
    }
    Ok(())
}

/// A name as a segment of a path.
pub fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' => {
                text.push(char::from(byte))
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

impl Outcomes {
    fn add(&mut self, manifest: &Manifest, operation: &'static str, answers: &mut (Answer, Answer)) {
        let generated = manifest.name().is_empty();
        normalise(&mut answers.0, generated);
        normalise(&mut answers.1, generated);
        self.all.push(Outcome {
            file: manifest.file.clone(),
            document: manifest.document,
            kind: manifest.text("kind").to_owned(),
            name: manifest.name().to_owned(),
            operation,
            oracle_code: answers.0.code,
            skep_code: answers.1.code,
            differences: compare(&answers.0, &answers.1),
        });
    }
}
