//! What a write is applied to: the type of the objects, and their group, version and kind.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::empty::empty_object;
use super::merge_type::MergeType;
use super::merger::Merger;
use super::ownable::Ownable;
use super::validate::validate;
use super::writer::Writer;
use crate::kinds::Kind;
use crate::{Reason, Status, meta, schema};

pub(super) struct Target<'a> {
    pub(super) merger: Merger<'a>,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    /// The served kind; `None` for the Scale of one.
    served: Option<&'a Kind>,
}

impl<'a> Target<'a> {
    /// Objects of a served kind.
    pub(super) fn of(kind: &'a Kind, writer: &Writer<'a>) -> Target<'a> {
        let merger = Merger {
            root: MergeType::root(kind),
            ownable: Ownable::of(kind, writer.subresource),
            version: kind.api_version(),
            now: writer.now,
        };
        Target { merger, group: &kind.group, version: &kind.version, kind: &kind.kind, served: Some(kind) }
    }

    /// The `autoscaling/v1` Scale of an object.
    pub(super) fn scale(writer: &Writer<'a>) -> Target<'a> {
        let merger = Merger {
            root: schema::of_kind("autoscaling/v1/Scale")
                .map_or(MergeType::Deduced, |schema| MergeType::Struct { schema, atomic: schema.atomic }),
            ownable: Ownable::default(),
            version: "autoscaling/v1".to_owned(),
            now: writer.now,
        };
        Target { merger, group: "autoscaling", version: "v1", kind: "Scale", served: None }
    }

    /// The object before its first write.
    pub(super) fn empty(&self) -> Cow<'static, Value> {
        match (self.served, self.merger.root) {
            (Some(kind), _) => Cow::Borrowed(empty_object(kind)),
            (None, MergeType::Struct { schema, .. }) => Cow::Owned(schema::zero::of_struct(schema)),
            (None, _) => Cow::Owned(json!({})),
        }
    }

    /// Refuses a configuration of another kind, with managers, or with values of other types.
    pub(super) fn check(&self, config: &Value) -> Result<(), Status> {
        if config["apiVersion"] != self.merger.version || config["kind"] != *self.kind {
            let version = config["apiVersion"].as_str().unwrap_or_default();
            let slash = if version.contains('/') { "" } else { "/" };
            let kind = config["kind"].as_str().unwrap_or_default();
            return Err(Status::bad_request(format!("invalid object type: {slash}{version}, Kind={kind}")));
        }
        if !config["metadata"]["managedFields"].is_null() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        validate(self.merger.root, config).map_err(|why| {
            let (namespace, name) = (meta::namespace(config), meta::name(config));
            Status::new(
                Reason::Unknown,
                format!(
                    "failed to create typed patch object ({namespace}/{name}; {}/{}, Kind={}): {why}",
                    self.group, self.version, self.kind
                ),
            )
        })
    }
}
