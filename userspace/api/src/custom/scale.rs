//! The scale subresource of custom resources: the paths of the replicas and the selector.

use serde_json::{Value, json};

use super::jsonpath::JsonPath;
use crate::field::{Errors, Path};
use crate::meta;
use crate::value::text;

/// The field paths that `subresources.scale` names.
#[derive(Clone, Debug)]
pub struct Scale {
    spec: Vec<String>,
    status: Vec<String>,
    selector: Option<Vec<String>>,
}

impl Scale {
    pub(super) fn parse(scale: &Value) -> Option<Scale> {
        let path = |name: &str| -> Option<Vec<String>> {
            let parsed = JsonPath::parse(scale[name].as_str()?)?;
            Some(parsed.fields()?.into_iter().map(str::to_owned).collect())
        };
        Some(Scale {
            spec: path("specReplicasPath")?,
            status: path("statusReplicasPath")?,
            selector: path("labelSelectorPath"),
        })
    }

    /// The `autoscaling/v1` Scale of an object.
    pub fn of(&self, object: &Value) -> Value {
        let replicas = |path: &[String]| at(object, path).as_i64().unwrap_or(0);
        let mut status = json!({"replicas": replicas(&self.status)});
        if let Some(path) = &self.selector
            && let Some(selector) = at(object, path).as_str()
        {
            status["selector"] = selector.into();
        }
        let metadata = meta::of_scale(object);
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {"replicas": replicas(&self.spec)}, "status": status,
        })
    }

    /// Whether the object sets its replicas.
    pub fn is_set(&self, object: &Value) -> bool {
        !at(object, &self.spec).is_null()
    }

    /// The path of the replicas in messages.
    pub fn path(&self) -> String {
        format!(".{}", self.spec.join("."))
    }

    /// The fields that lead to the replicas.
    pub(crate) fn replicas(&self) -> &[String] {
        &self.spec
    }

    /// Sets the replicas of an object.
    pub fn set(&self, object: &mut Value, replicas: i64) {
        let mut target = object;
        for name in &self.spec {
            if !target.is_object() {
                *target = json!({});
            }
            target = &mut target[name.as_str()];
        }
        *target = replicas.into();
    }

    pub(super) fn validate(&self, object: &Value, errors: &mut Errors) {
        for path in [&self.spec, &self.status] {
            let (value, at) = (at(object, path), Path::new(&format!(".{}", path.join("."))));
            let Some(replicas) = value.as_i64() else { continue };
            if replicas < 0 {
                errors.invalid(&at, value, "should be a non-negative integer");
            } else if replicas > i64::from(i32::MAX) {
                errors.invalid(&at, value, &format!("should be less than or equal to {}", i32::MAX));
            }
        }
        if let Some(path) = &self.selector {
            let selector = text(at(object, path));
            if let Err(error) = crate::selector::LabelSelector::parse(selector) {
                let at = Path::new(&format!(".{}", path.join(".")));
                errors.invalid(&at, &Value::from(selector), &error.0);
            }
        }
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(object, |value, name| &value[name.as_str()])
}
