//! IPAddresses: a cluster address and the object that holds it.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::names::{self, NameForm};
use crate::table::cell::text_or;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    schema: "api.networking.v1.IPAddress",
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, name: NameForm::Address, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[NAME, Column::text("ParentRef", parent), AGE];

fn validate(object: &Value, errors: &mut Errors) {
    let (parent, path) = (&object["spec"]["parentRef"], Path::new("spec").child("parentRef"));
    if !parent.is_object() {
        return errors.required(&path, "");
    }
    names::validate_optional_name(parent, "group", names::NameForm::Subdomain, &path, errors);
    for (field, required) in [("resource", true), ("name", true), ("namespace", false)] {
        match parent[field].as_str() {
            None | Some("") if required => errors.required(&path.child(field), ""),
            None | Some("") => {}
            Some(name) => {
                names::validate_name(name, names::NameForm::PathSegment, &path.child(field), errors);
            }
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
    if new != old {
        errors.invalid(&Path::new("spec").child("parentRef"), new, "field is immutable");
    }
}

fn parent(object: &Value, _: Timestamp) -> Value {
    let parent = &object["spec"]["parentRef"];
    let part = |field: &str| text_or(&parent[field], "").to_owned();
    let mut out = part("resource");
    if !part("group").is_empty() {
        out += &format!(".{}", part("group"));
    }
    out.make_ascii_lowercase();
    if !part("namespace").is_empty() {
        out += &format!("/{}", part("namespace"));
    }
    format!("{out}/{}", part("name")).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors_of(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_ip_address_says_whose_it_is() {
        let parent =
            |parent: Value| errors_of(|errors| validate(&json!({"spec": {"parentRef": parent}}), errors));
        assert!(parent(json!({"resource": "services", "name": "a", "namespace": "b"})).is_empty());
        assert_eq!(parent(Value::Null), ["spec.parentRef: Required value"]);
        assert_eq!(parent(json!({"resource": "services"})), ["spec.parentRef.name: Required value"]);
    }
}
