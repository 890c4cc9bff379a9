//! The cases in `tests/api/fidelity`: what is sent is written by hand, what is answered is recorded of a real Kubernetes API server.
//!
//! A group is a file `NAME.yaml` with `bases` (objects by name), `definitions` (custom kinds) and `cases`. A case is one of
//! - `BASE: {PATH: VALUE}`: the base with changes; a path has dots, and the value `<absent>` removes the field;
//! - `object: {...}`: a whole object; - `text: |`: an object as YAML text, sent as it is;
//! - `flow: [{VERB: BODY, manager: M, force: true}]`: requests one after the other. VERB is create, apply, update, merge, strategic
//!   or json; BODY is a case of the forms above, or the patch.
//!
//! A case that is no flow is created, and deleted; then applied, and applied again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::compare::{Difference, compare};
use super::normal::normalise;
use super::run::{delete, escaped};
use super::target::{Resource, Resources, Target};

/// The namespace of the cases.
pub const NAMESPACE: &str = "fidelity";
const MANAGER: &str = "fidelity";
const ABSENT: &str = "<absent>";
const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(30);
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    #[serde(skip)]
    pub name: String,
    #[serde(default)]
    bases: Map<String, Value>,
    #[serde(default)]
    definitions: Vec<Value>,
    pub cases: Vec<Value>,
}

/// One request of a case.
struct Step {
    verb: String,
    manager: String,
    force: bool,
    body: Body,
}

enum Body {
    Object(Value),
    /// YAML, and the object in it.
    Text(String, Value),
    Patch(Value),
}

/// What was answered to one step.
#[derive(Clone, Debug)]
pub struct Played {
    pub step: String,
    pub answer: Answer,
    /// The resourceVersion stayed.
    pub unchanged: bool,
}

/// Where the cases are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("api/fidelity")
}

/// All groups, by name.
pub fn groups() -> Result<Vec<Group>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<Group> {
    let text = std::fs::read_to_string(file)?;
    let mut group: Group =
        serde_saphyr::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    group.name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(group)
}

/// Asks a reference server, and writes what it answers.
pub async fn record(oracle: &Target) -> Result<()> {
    for group in groups()? {
        let mut lines = Vec::new();
        for (case, played) in group.cases.iter().zip(group.play(oracle).await?) {
            lines.push(serde_json::to_string(&json!({"case": case, "answers": written(&played)}))?);
        }
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        std::fs::write(group.recorded_file(), text)?;
        println!("{}: {} cases", group.name, group.cases.len());
    }
    Ok(())
}

impl Group {
    fn recorded_file(&self) -> PathBuf {
        folder().join("recorded").join(format!("{}.json", self.name))
    }

    /// What was recorded, for each case; an error if the cases have changed since.
    pub fn recorded(&self) -> Result<Vec<Vec<Played>>> {
        let file = self.recorded_file();
        let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let entries: Vec<Value> = serde_json::from_slice(&text)?;
        let same = entries.iter().map(|entry| &entry["case"]).eq(&self.cases);
        ensure!(same, "{}: the cases have changed; run `cargo xtask diff --record`", self.name);
        entries.iter().map(|entry| read_played(&entry["answers"])).collect()
    }

    /// The objects of the cases that are no flow and no text.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        for case in &self.cases {
            let case = case.as_object().context("a case is a mapping")?;
            if !case.contains_key("flow")
                && let Body::Object(object) = self.body(case)?
            {
                found.push(object);
            }
        }
        Ok(found)
    }

    /// The answers to all steps of all cases.
    pub async fn play(&self, target: &Target) -> Result<Vec<Vec<Played>>> {
        self.prepare(target).await?;
        let resources = target.resources().await?;
        let mut played = Vec::new();
        for case in &self.cases {
            let context = || format!("{}: {case}", self.name);
            played.push(self.play_case(target, &resources, case).await.with_context(context)?);
        }
        Ok(played)
    }

    /// Makes what the cases need: a namespace with its account, and the custom kinds.
    pub async fn prepare(&self, target: &Target) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        target.send_json(Method::POST, "/api/v1/namespaces", &namespace).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        target.send_json(Method::POST, &accounts, &account).await?;
        for definition in &self.definitions {
            define(target, definition).await?;
        }
        Ok(())
    }

    async fn play_case(&self, target: &Target, resources: &Resources, case: &Value) -> Result<Vec<Played>> {
        let mut played: Vec<Played> = Vec::new();
        let mut at = None;
        let mut version = String::new();
        for step in self.steps(case)? {
            let object = match &step.body {
                Body::Object(object) | Body::Text(_, object) => Some(object),
                Body::Patch(_) => None,
            };
            if let Some(object) = object {
                at = Some((resource(resources, object)?, name(object)));
            }
            let (resource, name) = at.as_ref().context("the first step names no object")?;
            let path = resource.collection(NAMESPACE);
            if step.verb == "delete" {
                delete(target, &path, name).await?;
                version.clear();
                continue;
            }
            let mut answer = step.send(target, &path, name, &version).await?;
            let unchanged = answer.succeeded() && answer.resource_version() == version;
            if answer.succeeded() {
                version = answer.resource_version().to_owned();
            }
            normalise(&mut answer, name.is_empty());
            if step.verb == "create" {
                // They follow from the object.
                answer.managers = Value::Null;
            }
            played.push(Played { step: step.verb, answer, unchanged });
        }
        if let Some((resource, name)) = &at {
            delete(target, &resource.collection(NAMESPACE), name).await?;
        }
        Ok(played)
    }

    fn steps(&self, case: &Value) -> Result<Vec<Step>> {
        let case = case.as_object().context("a case is a mapping")?;
        if let Some(flow) = case.get("flow") {
            return flow.as_array().context("a flow is a list")?.iter().map(|step| self.step(step)).collect();
        }
        let step = |verb: &str| -> Result<Step> {
            Ok(Step {
                verb: verb.to_owned(),
                manager: MANAGER.to_owned(),
                force: true,
                body: self.body(case)?,
            })
        };
        let mut steps = vec![step("create")?];
        let named = match &steps[0].body {
            Body::Object(object) | Body::Text(_, object) => !name(object).is_empty(),
            Body::Patch(_) => false,
        };
        if named {
            steps.extend([step("delete")?, step("apply")?, step("apply")?]);
        }
        Ok(steps)
    }

    fn step(&self, step: &Value) -> Result<Step> {
        let step = step.as_object().context("a step is a mapping")?;
        let is_option = |key: &str| matches!(key, "manager" | "force");
        let (verb, body) = step.iter().find(|(key, _)| !is_option(key)).context("a step without a verb")?;
        let manager = step.get("manager").and_then(Value::as_str).unwrap_or(MANAGER).to_owned();
        let force = step.get("force").and_then(Value::as_bool).unwrap_or(false);
        let body = match verb.as_str() {
            "create" | "apply" | "update" | "delete" => self.body(body.as_object().context("no body")?)?,
            "merge" | "strategic" | "json" => Body::Patch(body.clone()),
            other => bail!("unknown verb {other}"),
        };
        Ok(Step { verb: verb.clone(), manager, force, body })
    }

    fn body(&self, case: &Map<String, Value>) -> Result<Body> {
        let (form, value) = case.iter().next().context("an empty case")?;
        match form.as_str() {
            "object" => Ok(Body::Object(value.clone())),
            "text" => {
                let text = value.as_str().context("text is a string")?;
                Ok(Body::Text(text.to_owned(), serde_saphyr::from_str(text)?))
            }
            base => {
                let mut object = self.bases.get(base).with_context(|| format!("no base {base}"))?.clone();
                for (path, value) in value.as_object().into_iter().flatten() {
                    set(&mut object, path, value);
                }
                Ok(Body::Object(object))
            }
        }
    }
}

impl Step {
    async fn send(&self, target: &Target, path: &str, name: &str, version: &str) -> Result<Answer> {
        let (manager, one) = (&self.manager, format!("{path}/{}", escaped(name)));
        let (method, path, media_type) = match self.verb.as_str() {
            "create" => (Method::POST, path.to_owned(), "application/json"),
            "update" => (Method::PUT, one, "application/json"),
            "apply" => (Method::PATCH, one, "application/apply-patch+yaml"),
            "merge" => (Method::PATCH, one, "application/merge-patch+json"),
            "strategic" => (Method::PATCH, one, "application/strategic-merge-patch+json"),
            _ => (Method::PATCH, one, "application/json-patch+json"),
        };
        let validation = if self.verb == "apply" { "" } else { "&fieldValidation=Warn" };
        let force = if self.verb == "apply" && self.force { "&force=true" } else { "" };
        let path = format!("{path}?fieldManager={manager}{validation}{force}");
        match &self.body {
            Body::Text(text, _) => {
                let media_type = if self.verb == "apply" { media_type } else { "application/yaml" };
                target.send(method, &path, media_type, text.clone().into_bytes()).await
            }
            Body::Object(object) if self.verb == "update" => {
                let mut object = object.clone();
                object["metadata"]["resourceVersion"] = version.into();
                target.send(method, &path, media_type, serde_json::to_vec(&object)?).await
            }
            Body::Object(value) | Body::Patch(value) => {
                target.send(method, &path, media_type, serde_json::to_vec(value)?).await
            }
        }
    }
}

async fn define(target: &Target, definition: &Value) -> Result<()> {
    let name = name(definition);
    delete(target, DEFINITIONS, &name).await?;
    let path = format!("{DEFINITIONS}/{name}");
    while target.get(&path).await?.succeeded() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = target.send_json(Method::POST, DEFINITIONS, definition).await?;
    ensure!(answer.succeeded(), "{name}: {}", answer.message());
    let established = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
    };
    ensure!(target.wait(&path, ESTABLISHED_TIMEOUT, established).await?, "{name} is not established");
    let api_version = format!(
        "{}/{}",
        definition["spec"]["group"].as_str().unwrap_or_default(),
        definition["spec"]["versions"][0]["name"].as_str().unwrap_or_default()
    );
    let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let deadline = std::time::Instant::now() + ESTABLISHED_TIMEOUT;
    while !target.resources().await?.contains_key(&(api_version.clone(), kind.clone())) {
        ensure!(std::time::Instant::now() < deadline, "{name} is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Where the objects of this kind are.
pub fn resource(resources: &Resources, object: &Value) -> Result<Resource> {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let found = resources.get(&(text("apiVersion"), text("kind")));
    found.cloned().with_context(|| format!("{} {} is not served", text("apiVersion"), text("kind")))
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Sets a field by a path with dots; numbers are indexes of lists.
fn set(object: &mut Value, path: &str, value: &Value) {
    let mut at = object;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        if let Value::Array(items) = at {
            let Ok(index) = name.parse::<usize>() else { return };
            if last && value == ABSENT && index < items.len() {
                items.remove(index);
                return;
            }
            if index == items.len() {
                items.push(Value::Null);
            }
            let Some(item) = items.get_mut(index) else { return };
            at = item;
        } else {
            if !at.is_object() {
                *at = json!({});
            }
            let Some(fields) = at.as_object_mut() else { return };
            if last && value == ABSENT {
                fields.shift_remove(name);
                return;
            }
            at = fields.entry(name).or_insert(Value::Null);
        }
    }
    *at = value.clone();
}

/// An object or managers that are those of the step before are left out.
fn written(played: &[Played]) -> Vec<Value> {
    let (mut object, mut managers) = (&Value::Null, &Value::Null);
    let mut entries = Vec::new();
    for Played { step, answer, unchanged } in played {
        let mut entry = json!({"step": step, "code": answer.code});
        if !answer.warnings.is_empty() {
            entry["warnings"] = answer.warnings.clone().into();
        }
        if answer.succeeded() {
            if *unchanged {
                entry["unchanged"] = true.into();
            }
            if answer.body != *object {
                entry["object"] = answer.body.clone();
            }
            if answer.managers != *managers {
                entry["managers"] = answer.managers.clone();
            }
            (object, managers) = (&answer.body, &answer.managers);
        } else {
            for field in ["reason", "message", "details"] {
                entry[field] = answer.body[field].clone();
            }
        }
        entries.push(entry);
    }
    entries
}

fn read_played(entries: &Value) -> Result<Vec<Played>> {
    let (mut object, mut managers) = (Value::Null, Value::Null);
    let mut played = Vec::new();
    for entry in entries.as_array().context("no answers")? {
        let code = u16::try_from(entry["code"].as_u64().context("no code")?)?;
        let warnings = entry["warnings"].as_array().into_iter().flatten();
        let warnings = warnings.filter_map(|text| Some(text.as_str()?.to_owned())).collect();
        let mut answer = Answer { code, warnings, ..Answer::default() };
        if answer.succeeded() {
            object = entry.get("object").cloned().unwrap_or(object);
            managers = entry.get("managers").cloned().unwrap_or(managers);
            (answer.body, answer.managers) = (object.clone(), managers.clone());
        } else {
            answer.body =
                json!({"reason": entry["reason"], "message": entry["message"], "details": entry["details"]});
        }
        let step = entry["step"].as_str().unwrap_or_default().to_owned();
        played.push(Played { step, answer, unchanged: entry["unchanged"] == true });
    }
    Ok(played)
}

/// What one case answers otherwise than recorded, step by step.
pub fn differences(wanted: &[Played], found: &[Played]) -> Vec<(String, Difference)> {
    let mut all = Vec::new();
    for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
        let step = format!("{} {}", index + 1, wanted.step);
        all.extend(
            compare(&wanted.answer, &found.answer).into_iter().map(|difference| (step.clone(), difference)),
        );
        if wanted.unchanged != found.unchanged && found.answer.succeeded() && wanted.answer.succeeded() {
            let (oracle, skep) = (wanted.unchanged.into(), found.unchanged.into());
            let difference = Difference {
                aspect: super::compare::Aspect::NotIdempotent,
                path: "unchanged".to_owned(),
                oracle,
                skep,
            };
            all.push((step, difference));
        }
    }
    all
}
