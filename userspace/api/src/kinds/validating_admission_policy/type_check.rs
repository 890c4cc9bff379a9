//! Type-checks a policy's expressions against the kinds that its rules name; the results are warnings in its status.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cel::{Declared, REQUEST, Type, escape};
use crate::custom;
use crate::field::{Errors, Path};
use crate::kinds::expression::{Environment, ExpectedType};
use crate::kinds::kind::{Kind, KindRef};
use crate::kinds::name::Name;
use crate::kinds::registry::Registry;
use crate::schema::{self, Scalar, Shape};
use crate::value::items;

/// Kinds that one policy is checked against.
const MAX_KINDS: usize = 10;
const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `expressionWarnings` of a policy's status.
pub fn type_warnings(policy: &Value, registry: &Registry) -> Vec<Value> {
    let spec = &policy["spec"];
    let kinds = named_kinds(&spec["matchConstraints"], registry);
    let params = param_kind(&spec["paramKind"], registry).map_or(Type::Dyn.into(), |kind| type_of(&kind));
    let mut warnings = Vec::new();
    let environments: Vec<(String, Environment)> = kinds
        .values()
        .map(|kind| {
            let mut environments = Environment::of_policies().with_object(&type_of(kind));
            if spec["paramKind"].is_object() {
                environments = environments.with_params(params.clone());
            }
            for variable in items(spec, "variables") {
                environments.add_checked(variable, &Path::new(""), &mut Errors::default());
            }
            (format!("{}, Kind={}", kind.api_version(), kind.kind), environments)
        })
        .collect();
    for (i, validation) in items(spec, "validations").enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(source) = validation[field].as_str().filter(|source| !source.is_empty()) else {
                continue;
            };
            let wrong = environments.iter().filter_map(|(kind, environments)| {
                let error = environments.check(source, ExpectedType::Any).err()?;
                Some(format!("{kind}: {error}\n"))
            });
            let wrong: Vec<String> = wrong.collect();
            if !wrong.is_empty() {
                let at = Path::new("spec").child("validations").index(i).child(field);
                warnings.push(json!({"fieldRef": at.to_string(), "warning": wrong.join("\n")}));
            }
        }
    }
    warnings
}

fn param_kind(kind: &Value, registry: &Registry) -> Option<KindRef> {
    let version = kind["apiVersion"].as_str()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    registry.find_kind(group, version, kind["kind"].as_str()?)
}

/// The kinds that the rules name without wildcards, by group, version and kind.
fn named_kinds(matched: &Value, registry: &Registry) -> BTreeMap<[Name; 3], KindRef> {
    let mut found = BTreeMap::new();
    for rule in items(matched, "resourceRules") {
        let texts = |list| items(rule, list).filter_map(Value::as_str);
        // A wildcard for groups or versions names no type to check against.
        if texts("apiGroups").chain(texts("apiVersions")).any(|text| text.contains('*')) {
            continue;
        }
        for group in texts("apiGroups") {
            for version in texts("apiVersions") {
                for kind in texts("resources").filter_map(|plural| registry.find(group, version, plural)) {
                    if found.len() < MAX_KINDS {
                        let key = [&kind.group, &kind.version, &kind.kind].map(Name::clone);
                        found.insert(key, kind);
                    }
                }
            }
        }
    }
    found
}

/// The CEL type of the kind's objects.
fn type_of(kind: &Kind) -> Declared {
    match &kind.custom {
        Some(custom) => {
            let of = custom::declared(custom.version.schema(), &kind.kind, true).unwrap_or(Type::Dyn.into());
            let Type::Object(object) = &of.of else { return of };
            let mut fields = object.fields.clone();
            fields.insert("metadata".to_owned(), of_named(OBJECT_META, &mut Vec::new()));
            Declared::object(&object.name, fields, of.min_bytes)
        }
        None => of_named(kind.schema, &mut Vec::new()),
    }
}

/// A recursive type is dynamic where it contains itself.
fn of_named(name: &'static str, above: &mut Vec<&'static str>) -> Declared {
    let Some(found) = schema::named(name).filter(|_| !above.contains(&name)) else { return Type::Dyn.into() };
    above.push(name);
    let of = match found.shape {
        Some(shape) => of_shape(shape, above),
        None => {
            let fields = found.fields.iter();
            let fields = fields.filter_map(|field| Some((escape(field.name)?, of_shape(field.shape, above))));
            Declared::object(name, fields.collect(), 2)
        }
    };
    above.pop();
    of
}

fn of_shape(shape: Shape, above: &mut Vec<&'static str>) -> Declared {
    match shape {
        Shape::Type(name) => of_named(name, above),
        Shape::List(inner) => Declared::list(of_shape(Shape::of(inner), above), REQUEST),
        Shape::Map(inner) => Declared::map(of_shape(Shape::of(inner), above), REQUEST),
        Shape::Scalar(scalar) => Declared::from(match scalar {
            Scalar::String => Type::String,
            Scalar::Int32 | Scalar::Int64 => Type::Int,
            Scalar::Number => Type::Double,
            Scalar::Boolean => Type::Bool,
            Scalar::Time => Type::Timestamp,
            Scalar::Base64 => Type::Bytes,
            Scalar::Quantity | Scalar::IntOrString | Scalar::Object | Scalar::Any => Type::Dyn,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(resources: Value, more: Value) -> Vec<Value> {
        let mut policy = json!({"spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": resources},
        ]}}});
        for (field, value) in more.as_object().unwrap() {
            policy["spec"][field] = value.clone();
        }
        type_warnings(&policy, &Registry::with(Vec::new()))
    }

    fn one(expression: &str) -> Vec<Value> {
        warned(json!(["deployments"]), json!({"validations": [{"expression": expression}]}))
    }

    #[test]
    fn matching_types_give_no_warning() {
        for expression in [
            "object.spec.replicas > 1",
            "object.spec.template.spec.containers.all(c, c.image.startsWith('a') && has(c.resources.limits.cpu))",
            "object.metadata.labels['a'] == 'b' && object.metadata.creationTimestamp != null",
            "oldObject == null || oldObject.spec.replicas <= object.spec.replicas",
            "authorizer.requestResource.check('get').allowed()",
        ] {
            assert_eq!(one(expression), Vec::<Value>::new(), "{expression}");
        }
    }

    #[test]
    fn mismatches_are_reported_for_each_kind() {
        let found = one("object.spec.replicas > '1'");
        let wanted = "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'";
        assert_eq!(found[0]["fieldRef"], "spec.validations[0].expression");
        assert!(found[0]["warning"].as_str().unwrap().starts_with(wanted), "{found:?}");
        let more = json!({
            "variables": [{"name": "count", "expression": "object.spec.replicas"}],
            "validations": [{"expression": "variables.count == 'x'", "messageExpression": "object.spec.nothing"}],
        });
        let found = warned(json!(["deployments", "daemonsets", "pods", "deployments/status"]), more);
        let fields: Vec<&str> = found.iter().filter_map(|warning| warning["fieldRef"].as_str()).collect();
        assert_eq!(fields, ["spec.validations[0].expression", "spec.validations[0].messageExpression"]);
        let (variables, message) =
            (found[0]["warning"].as_str().unwrap(), found[1]["warning"].as_str().unwrap());
        // A variable whose expression fails for a kind is dynamic there.
        assert!(
            variables.contains("Kind=Deployment") && !variables.contains("Kind=DaemonSet"),
            "{variables}"
        );
        assert_eq!(message.matches("undefined field 'nothing'").count(), 2, "{message}");
        assert_eq!(
            warned(json!(["*"]), json!({"validations": [{"expression": "object.x"}]})),
            Vec::<Value>::new()
        );
    }
}
