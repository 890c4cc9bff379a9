//! The history of pod templates that DaemonSets and StatefulSets keep as ControllerRevisions. PURE.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;

use super::pods::{self, Claim};
use crate::action::Action;
use crate::cache::{Key, Kind, Object, View};
use crate::meta;

/// Label that connects pods with their revision.
pub const HASH: &str = "controller-revision-hash";

/// The owner's revisions, and which of them has the present template.
pub struct History {
    /// Oldest first.
    pub all: Vec<Arc<ControllerRevision>>,
    /// Name of the revision of the present template; its creation may be among the actions. Empty while revisions are
    /// adopted.
    pub current: String,
}

pub struct RevisionOwner<'a> {
    pub kind: Kind,
    pub meta: &'a ObjectMeta,
    pub selector: &'a LabelSelector,
    pub template: &'a PodTemplateSpec,
    pub collisions: i32,
    pub limit: Option<i32>,
}

impl RevisionOwner<'_> {
    /// Finds the history; adds the writes that it needs (a new revision, a raised number, adoptions) to the actions.
    pub fn history(&self, view: &View, actions: &mut Vec<Action>) -> History {
        let mut all = Vec::new();
        let mut adopts = false;
        for (_, revision) in view.revisions.in_namespace(meta::namespace(self.meta)) {
            match pods::claim(&revision.metadata, self.meta, self.selector) {
                Claim::Mine => all.push(revision.clone()),
                Claim::Adopt => {
                    adopts = true;
                    let owner = meta::controlled_by(self.kind, self.meta);
                    actions.push(pods::set_controller(
                        Kind::ControllerRevision,
                        &revision.metadata,
                        Some(owner),
                        "",
                    ));
                }
                Claim::Release | Claim::Foreign => {}
            }
        }
        all.sort_by_key(|r| r.revision);
        let data = self.data();
        let newest = all.last().map_or(0, |r| r.revision);
        let same = |r: &&Arc<ControllerRevision>| r.data.as_ref().is_some_and(|d| d.0 == data);
        let found = all.iter().rev().find(same).or_else(|| self.find_restored(&all)).cloned();
        let current = match found {
            Some(revision) => {
                if revision.revision < newest {
                    let mut raised = revision.as_ref().clone();
                    raised.revision = newest.saturating_add(1);
                    actions.push(Action::update(raised));
                }
                meta::name(&revision.metadata).to_owned()
            }
            // The revision may be among those that are adopted.
            None if adopts => String::new(),
            None => {
                let (name, hash) = self.free_name(view, &data);
                actions.push(self.create(name.clone(), hash, data, newest.saturating_add(1)));
                name
            }
        };
        History { all, current }
    }

    /// The revision of the present template, if another version of the server stored one of both.
    fn find_restored<'a>(&self, all: &'a [Arc<ControllerRevision>]) -> Option<&'a Arc<ControllerRevision>> {
        let present = (!all.is_empty()).then(|| restored(self.template))?;
        all.iter().rev().find(|revision| template_in(revision).is_some_and(|old| restored(&old) == present))
    }

    /// A strategic patch that restores the template, as `kubectl rollout undo` applies it. Clients compute the same text and
    /// compare bytes, so its fields are in the order of their names.
    fn data(&self) -> serde_json::Value {
        let mut template = serde_json::to_value(self.template).unwrap_or_default();
        if let Some(fields) = template.as_object_mut() {
            fields.insert("$patch".into(), json!("replace"));
        }
        let mut data = json!({"spec": {"template": template}});
        data.sort_all_objects();
        data
    }

    /// A name that no other revision has, and its hash. An owner of another kind with the same name and template has
    /// revisions of the same hash.
    fn free_name(&self, view: &View, data: &serde_json::Value) -> (String, String) {
        let bytes = serde_json::to_vec(data).unwrap_or_default();
        let mut collisions = self.collisions;
        loop {
            let hash = meta::short_code(meta::stable_hash(&[&bytes, &collisions.to_le_bytes()]), 10);
            let name = format!("{}-{hash}", meta::name(self.meta));
            if view.revisions.get(&Key::new(meta::namespace(self.meta), &name)).is_none() {
                return (name, hash);
            }
            // The names are finite, so the loop ends.
            collisions = collisions.wrapping_add(1);
        }
    }

    fn create(&self, name: String, hash: String, data: serde_json::Value, number: i64) -> Action {
        let mut labels = self.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(HASH.into(), hash);
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.meta.namespace.clone(),
                labels: Some(labels),
                annotations: self.meta.annotations.clone(),
                owner_references: Some(vec![meta::controlled_by(self.kind, self.meta)]),
                ..Default::default()
            },
            data: Some(RawExtension(data)),
            revision: number,
        };
        Action::Create(revision.into())
    }

    /// Deletes the oldest revisions beyond the limit that no pod uses.
    pub fn clean_up(&self, history: &History, pods: &[&Arc<Pod>], keep: &[&str], actions: &mut Vec<Action>) {
        let hashes: Vec<&str> = pods.iter().filter_map(|p| meta::label(&p.metadata, HASH)).collect();
        let unused: Vec<&Arc<ControllerRevision>> = history
            .all
            .iter()
            .filter(|r| {
                let name = meta::name(&r.metadata);
                name != history.current
                    && !keep.contains(&name)
                    && !hashes.contains(&hash_of(self.meta, name))
            })
            .collect();
        let limit = usize::try_from(self.limit.unwrap_or(10)).unwrap_or(0);
        let surplus = unused.len().saturating_sub(limit);
        actions.extend(
            unused.into_iter().take(surplus).map(|r| Action::delete(Object::ControllerRevision(r.clone()))),
        );
    }
}

/// The hash in a revision's name.
pub fn hash_of<'a>(owner: &ObjectMeta, revision: &'a str) -> &'a str {
    revision.strip_prefix(meta::name(owner)).and_then(|r| r.strip_prefix('-')).unwrap_or(revision)
}

/// The template in a revision.
pub fn template_of(view: &View, namespace: &str, name: &str) -> Option<PodTemplateSpec> {
    template_in(view.revisions.get(&Key::new(namespace, name))?)
}

/// A template in the form in which a write of today stores it.
pub fn restored(template: &PodTemplateSpec) -> serde_json::Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    skep_api::kinds::restore_template(&mut value);
    value
}

fn template_in(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_revision_are_the_bytes_that_clients_compute() {
        let template = json!({
            "spec": {"restartPolicy": "Always", "containers": [{"name": "app", "image": "i", "args": ["a"], "resources": {}}]},
            "metadata": {"labels": {"b": "1", "a": "2"}},
        });
        let template: PodTemplateSpec = serde_json::from_value(template).expect("a template");
        let owner = RevisionOwner {
            kind: Kind::DaemonSet,
            meta: &ObjectMeta::default(),
            selector: &LabelSelector::default(),
            template: &template,
            collisions: 0,
            limit: None,
        };
        // What Go's encoding/json makes of the maps in pkg/controller/daemon's getPatch.
        let wanted = r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"2","b":"1"}},"spec":{"containers":[{"args":["a"],"image":"i","name":"app","resources":{}}],"restartPolicy":"Always"}}}}"#;
        assert_eq!(owner.data().to_string(), wanted);
    }
}
