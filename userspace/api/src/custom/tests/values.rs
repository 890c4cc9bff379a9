//! Values against a schema: in upstream's words, recorded from a kube-apiserver of v1.36 where they are not in its sources.

use serde_json::{Value, json};

use super::{error_texts, instance, kind, of_spec};
use crate::kinds::{Kind, Part};

fn validated_kind() -> std::sync::Arc<Kind> {
    kind(of_spec(json!({
        "type": "object", "required": ["cron"],
        "properties": {
            "cron": {"type": "string", "pattern": "^\\d+$", "maxLength": 4},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "multipleOf": 2},
            "color": {"type": "string", "enum": ["red", "blue"]},
            "list": {"type": "array", "maxItems": 1, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "port": {"x-kubernetes-int-or-string": true},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        },
    })))
}

#[test]
fn custom_resources_are_validated_in_upstreams_words() {
    let kind = validated_kind();
    let mut failures = Vec::new();
    for (spec, wanted) in [
        (json!({}), "spec.cron: Required value"),
        (
            json!({"cron": 1}),
            "spec.cron: Invalid value: \"integer\": spec.cron in body must be of type string: \"integer\"",
        ),
        (json!({"cron": "x"}), "spec.cron: Invalid value: \"x\": spec.cron in body should match '^\\d+$'"),
        (json!({"cron": "12345"}), "spec.cron: Too long: may not be more than 4 bytes"),
        (
            json!({"cron": "1", "replicas": 12}),
            "spec.replicas: Invalid value: 12: spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"cron": "1", "replicas": 3}),
            "spec.replicas: Invalid value: 3: spec.replicas in body should be a multiple of 2",
        ),
        (
            json!({"cron": "1", "replicas": "2"}),
            "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            json!({"cron": "1", "color": "green"}),
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (json!({"cron": "1", "list": ["a", "b"]}), "spec.list: Too many: 2: must have at most 1 item"),
        (
            json!({"cron": "1", "port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"cron": "1", "map": {"k": "v"}}),
            "spec.map.k: Invalid value: \"string\": spec.map.k in body must be of type integer: \"string\"",
        ),
        (
            json!({"cron": "1", "one": {}}),
            "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
        ),
    ] {
        let found = error_texts(kind.validate_create(&instance(spec.clone())));
        if !found.iter().any(|error| error == wanted) {
            failures.push(format!("{spec}: wanted {wanted}\ngot {found:#?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let good = json!({"cron": "1", "replicas": 2.0, "color": "red", "port": "http", "map": {"k": 1}, "one": {"a": "x"}});
    assert_eq!(error_texts(kind.validate_create(&instance(good))), [""; 0]);
}

#[test]
fn an_update_may_keep_invalid_values() {
    let kind = kind(of_spec(
        json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1}}}),
    ));
    let old = instance(json!({"a": "long", "b": "x"}));
    let new = instance(json!({"a": "long", "b": "y"}));
    assert_eq!(error_texts(kind.validate_update(&new, &old, Part::Main)), [""; 0]);
    let worse = instance(json!({"a": "longer", "b": "x"}));
    assert_eq!(
        error_texts(kind.validate_update(&worse, &old, Part::Main)),
        ["spec.a: Too long: may not be more than 1 bytes"]
    );
}

/// The errors of an instance that was sent by a create, or is the result of an apply.
fn errors(kind: &Kind, spec: &Value, applied: bool) -> Vec<String> {
    let mut object = instance(spec.clone());
    let problems = if applied { kind.check_applied(&mut object) } else { kind.check_schema(&mut object) };
    assert!(problems.is_empty(), "{problems:?}");
    kind.complete_new(&mut object);
    error_texts(kind.validate_create(&object))
}

#[test]
fn numbers_and_bounds_beyond_the_range_of_their_type_are_refused() {
    let number = |rest: Value| {
        let mut schema = json!({"type": "integer"});
        rest.as_object().into_iter().flatten().for_each(|(name, value)| schema[name] = value.clone());
        kind(of_spec(json!({"type": "object", "properties": {"n": schema}})))
    };
    let wide = number(json!({"format": "int32", "minimum": -1, "maximum": 4_294_967_295_u32}));
    let bound = "<nil>: Invalid value: \"\": Maximum boundary value must be of type integer with format int32 in spec.n";
    assert_eq!(errors(&wide, &json!({"n": 7}), false), [bound]);
    assert_eq!(errors(&wide, &json!({}), false), [] as [&str; 0]);
    let plain = number(json!({}));
    let range =
        "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.n";
    assert_eq!(errors(&plain, &json!({"n": 1e20}), false), [range]);
    assert_eq!(errors(&plain, &json!({"n": i64::MAX}), false), [] as [&str; 0]);
    let narrow = number(json!({"format": "int32"}));
    assert_eq!(errors(&narrow, &json!({"n": i32::MIN}), false), [] as [&str; 0]);
    let range =
        "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec.n";
    assert_eq!(errors(&narrow, &json!({"n": 2_147_483_648_u32}), false), [range]);
}

#[test]
fn a_null_is_an_absent_field_when_it_is_sent_and_refused_when_it_is_applied() {
    let kind = kind(of_spec(json!({
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["Allow", "Deny"]},
            "kept": {"type": "string", "nullable": true},
            "size": {"type": "integer", "default": 3},
        },
        "x-kubernetes-validations": [{"rule": "!has(self.action) || self.action != 'Deny'"}],
    })));
    let nulls = json!({"action": null, "kept": null, "size": null});
    assert_eq!(errors(&kind, &nulls, false), [] as [&str; 0]);
    let why = "spec.action in body must be of type string: \"null\"";
    assert_eq!(errors(&kind, &nulls, true), [
        format!("spec.action: Invalid value: \"null\": {why}"),
        "spec.action: Unsupported value: null: supported values: \"Allow\", \"Deny\"".to_owned(),
        "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
         correct the existing errors to complete validation"
            .to_owned(),
    ]);
}

#[test]
fn a_status_does_not_count_in_what_is_applied_to_the_object() {
    let mut definition = super::definition(json!({"type": "object", "properties": {
        "status": {"type": "object", "properties": {"server": {"type": "string"}}},
    }}));
    definition["spec"]["versions"][0]["subresources"] = json!({"status": {}});
    let kind = super::kind_of(definition);
    let mut object = instance(json!({}));
    object["status"] = json!({"server": null});
    kind.check_applied(&mut object);
    kind.complete_new(&mut object);
    assert_eq!(error_texts(kind.validate_create(&object)), [] as [&str; 0]);
}

#[test]
fn new_finalizers_without_a_domain_or_a_path_are_warned_of() {
    let kind = kind(of_spec(json!({"type": "object"})));
    let with = |finalizers: &[&str]| {
        let mut object = instance(json!({}));
        object["metadata"]["finalizers"] = json!(finalizers);
        object
    };
    let new = with(&["plain", "a.example.com", "a.example.com/done", "orphan"]);
    let rest = "to avoid accidental conflicts with other finalizer writers";
    let dotted = "prefer a domain-qualified finalizer name including a path (/)";
    assert_eq!(
        kind.warnings(&new, None),
        [
            format!("metadata.finalizers: \"a.example.com\": {dotted} {rest}"),
            format!("metadata.finalizers: \"plain\": prefer a domain-qualified finalizer name {rest}"),
        ]
    );
    assert_eq!(kind.warnings(&new, Some(&with(&["plain", "a.example.com"]))), [] as [&str; 0]);
}
