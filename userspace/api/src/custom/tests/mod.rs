//! Definitions and custom resources, validated as upstream does.

mod values;

use serde_json::{Value, json};

use super::definition::{self, AcceptedNames, Verdict, judge};
use crate::kinds::{Kind, Part, Registry, defined_kinds};
use crate::value::items;
use crate::{Errors, find};

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com", "uid": "u"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn judged(mut object: Value) -> Vec<String> {
    let kind = find("apiextensions.k8s.io", "v1", "customresourcedefinitions").unwrap();
    let problems = kind.check_schema(&mut object);
    assert!(problems.is_empty(), "{problems:?}");
    kind.complete_new(&mut object);
    kind.validate_create(&object).0.iter().map(ToString::to_string).collect()
}

fn refusals(schema: Value) -> Vec<String> {
    judged(definition(schema))
}

fn kind_of(mut object: Value) -> std::sync::Arc<Kind> {
    let crd = find("apiextensions.k8s.io", "v1", "customresourcedefinitions").unwrap();
    crd.complete_new(&mut object);
    assert_eq!(crd.validate_create(&object).0, []);
    let Verdict::Changed(new) = judge(&object, [&AcceptedNames::of(&object)], "2026-01-01T00:00:00Z") else {
        panic!("it was not judged");
    };
    defined_kinds(&new).served[0].clone()
}

fn kind(schema: Value) -> std::sync::Arc<Kind> {
    kind_of(definition(schema))
}

fn instance(spec: Value) -> Value {
    json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "metadata": {"name": "a", "namespace": "n"}, "spec": spec,
    })
}

fn error_texts(errors: Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

fn of_spec(spec: Value) -> Value {
    json!({"type": "object", "properties": {"spec": spec}})
}

#[test]
fn a_definition_is_defaulted_and_accepted() {
    let kind = kind(of_spec(json!({"type": "object"})));
    assert_eq!((&*kind.singular, kind.list_kind()), ("crontab", "CronTabList".to_owned()));
    assert_eq!((&*kind.plural, &*kind.group), ("crontabs", "stable.example.com"));
    assert_eq!(kind.short_names.iter().collect::<Vec<_>>(), ["ct"]);
}

#[test]
fn names_of_another_definition_are_not_accepted() {
    let mut first = definition(of_spec(json!({"type": "object"})));
    definition::default(&mut first);
    let Verdict::Changed(first) = judge(&first.clone(), [], "t") else { panic!() };
    let mut second = definition(of_spec(json!({"type": "object"})));
    second["spec"]["names"]["plural"] = "others".into();
    second["metadata"]["name"] = "others.stable.example.com".into();
    definition::default(&mut second);
    let Verdict::Changed(second) = judge(&second.clone(), [&AcceptedNames::of(&first)], "t") else {
        panic!()
    };
    let conditions = &second["status"]["conditions"];
    assert_eq!(conditions[0]["reason"], "ListKindConflict");
    assert_eq!(conditions[0]["message"], "\"CronTabList\" is already in use");
    assert_eq!(conditions[1]["reason"], "NotAccepted");
    assert!(defined_kinds(&second).served.is_empty());
    assert_eq!(judge(&first, [&AcceptedNames::of(&first)], "later"), Verdict::Same);
}

/// Checks that each schema is refused with an error that begins with the text; reports every row that fails.
fn check_refused_schemas(rows: &[(Value, &str)]) {
    let mut failures = Vec::new();
    for (schema, wanted) in rows {
        let (found, wanted) = (refusals(schema.clone()), format!("spec.validation.openAPIV3Schema{wanted}"));
        if !found.iter().any(|error| error.starts_with(&wanted)) {
            failures.push(format!("{schema}: wanted {wanted}\ngot {found:#?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    check_refused_schemas(&[
        (
            json!({"type": "array", "items": {"type": "string"}}),
            ".type: Invalid value: \"array\": must be object at the root",
        ),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            ".properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            ".properties[a].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}}}),
            ".properties[a].properties[b]: Required value: because it is defined in spec.validation.openAPIV3Schema.properties[a].anyOf[0].properties[b]",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "allOf": [{"type": "string"}]}}}),
            ".properties[a].allOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "int"}}}),
            ".properties[a].type: Unsupported value: \"int\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
    ]);
}

#[test]
fn lists_metadata_and_defaults_of_schemas_are_refused() {
    check_refused_schemas(&[
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}),
            ".properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            ".properties[a].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            ".properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
            ".properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "default": {"b": 1}}}}),
            ".properties[a].default: Invalid value: {\"b\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            ".properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
        ),
    ]);
}

#[test]
fn schemas_without_a_type_are_accepted_where_upstream_allows_them() {
    assert_eq!(refusals(of_spec(json!({"x-kubernetes-preserve-unknown-fields": true}))), [""; 0]);
    assert_eq!(
        refusals(of_spec(
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})
        )),
        [""; 0]
    );
}

/// The errors of a definition with this change.
fn with(change: fn(&mut Value)) -> String {
    let mut object = definition(of_spec(
        json!({"type": "object", "properties": {"color": {"type": "string"}, "n": {"type": "object"}}}),
    ));
    change(&mut object);
    judged(object).join("; ")
}

/// Checks that each text contains the other; reports every row that fails.
fn check_errors(rows: &[(String, &str)]) {
    let failed = rows.iter().filter(|(found, wanted)| !found.contains(wanted));
    let failures: Vec<String> =
        failed.map(|(found, wanted)| format!("wanted {wanted}\ngot {found}")).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn names_scope_and_versions_are_checked() {
    check_errors(&[
        (
            with(|o| o["metadata"]["name"] = "x".into()),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            with(|o| o["spec"]["scope"] = "Global".into()),
            "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            with(|o| o["spec"]["versions"][0]["storage"] = false.into()),
            "must have exactly one version marked as storage version",
        ),
        (
            with(|o| o["spec"]["names"]["listKind"] = "CronTab".into()),
            "spec.names.listKind: Invalid value: \"CronTab\": kind and listKind may not be the same",
        ),
    ]);
}

#[test]
fn paths_conversion_and_approval_are_checked() {
    check_errors(&[
        (
            with(|o| o["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.n"}])),
            "must point to a field of type string, boolean or integer",
        ),
        (
            with(|o| o["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.x"}])),
            "is an invalid path: does not refer to a valid field",
        ),
        (
            with(|o| {
                o["spec"]["versions"][0]["subresources"] =
                    json!({"scale": {"specReplicasPath": ".x", "statusReplicasPath": ".status.r"}})
            }),
            "spec.subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec",
        ),
        (
            with(|o| {
                o["spec"]["versions"][0]["additionalPrinterColumns"] =
                    json!([{"name": "A", "type": "text", "jsonPath": ".a"}])
            }),
            "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        ),
        (
            with(|o| o["spec"]["conversion"] = json!({"strategy": "Webhook"})),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            with(|o| {
                o["spec"]["group"] = "x.k8s.io".into();
                o["metadata"]["name"] = "crontabs.x.k8s.io".into();
            }),
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation",
        ),
    ]);
}

/// A kind with a field for each kind of validation.
#[test]
fn unknown_fields_are_pruned_and_reported_and_defaults_applied() {
    let kind = kind(of_spec(json!({
        "type": "object",
        "properties": {
            "a": {"type": "string", "default": "x"}, "gone": {"type": "string"}, "null": {"type": "string", "nullable": true},
            "list": {"type": "array", "items": {"type": "object", "properties": {"b": {"type": "integer", "default": 7}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    })));
    let mut object = instance(
        json!({"a": null, "gone": null, "null": null, "list": [{"c": 1}], "free": {"z": 1}, "no": 1}),
    );
    object["metadata"]["nonsense"] = 1.into();
    let problems = kind.check_schema(&mut object);
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "unknown field \"metadata.nonsense\"",
            "unknown field \"spec.list[0].c\"",
            "unknown field \"spec.no\""
        ]
    );
    kind.default(&mut object);
    assert_eq!(object["spec"], json!({"a": "x", "null": null, "list": [{"b": 7}], "free": {"z": 1}}));
}

fn preserving(mut schema: Value) -> Value {
    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    schema
}

/// Rows: the schema of the spec, the spec as sent, and as it is kept.
#[test]
fn pruning_keeps_what_a_schema_preserves_and_what_it_specifies() {
    let (string, any) = (json!({"type": "string"}), json!({"x-kubernetes-preserve-unknown-fields": true}));
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let list = |items: Value| json!({"type": "array", "items": items});
    let rows = [
        (preserving(list(object(json!({})))), json!([{"x": {"y": 1}}]), json!([{"x": {"y": 1}}])),
        (
            preserving(list(object(json!({"a": object(json!({}))})))),
            json!([{"a": {"x": 1}, "b": {"y": 1}}]),
            json!([{"a": {}, "b": {"y": 1}}]),
        ),
        (preserving(list(list(object(json!({}))))), json!([[{"x": 1}]]), json!([[{"x": 1}]])),
        (
            list(preserving(object(json!({"a": object(json!({}))})))),
            json!([{"a": {"x": 1}, "b": 1}]),
            json!([{"a": {}, "b": 1}]),
        ),
        (
            preserving(object(json!({"a": object(json!({}))}))),
            json!({"a": {"x": 1}, "b": {"c": 1}}),
            json!({"a": {}, "b": {"c": 1}}),
        ),
        (
            json!({"type": "object", "additionalProperties": any}),
            json!({"a": {"x": [{"y": 1}]}}),
            json!({"a": {"x": [{"y": 1}]}}),
        ),
        (
            json!({"type": "object", "additionalProperties": true}),
            json!({"a": {"x": 1}, "b": 1}),
            json!({"a": {}, "b": 1}),
        ),
        (
            json!({"type": "object", "additionalProperties": object(json!({"s": string}))}),
            json!({"a": {"s": "", "x": 1}}),
            json!({"a": {"s": ""}}),
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer", "default": 3}}),
            json!({"a": null, "b": 1.0}),
            json!({"a": 3, "b": 1}),
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"a": null, "b": 1}),
            json!({"b": 1}),
        ),
        (list(json!({"type": "integer", "default": 3})), json!([null, 1]), json!([3, 1])),
    ];
    for (schema, sent, wanted) in rows {
        let kind = kind(of_spec(object(json!({"f": schema.clone()}))));
        let mut sent = instance(json!({"f": sent}));
        kind.check_schema(&mut sent);
        kind.default(&mut sent);
        assert_eq!(sent["spec"]["f"], wanted, "{schema}");
    }
}

#[test]
fn the_warning_of_a_deprecated_version_names_the_newest_one() {
    for (versions, wanted) in [
        (
            json!(["v1", "v1beta1!", "v2alpha1"]),
            "stable.example.com/v1beta1 CronTab is deprecated; use stable.example.com/v1 CronTab",
        ),
        (json!(["v1!", "v1beta1"]), "stable.example.com/v1 CronTab is deprecated"),
        (
            json!(["v1!", "v2", "v3!", "v10"]),
            "stable.example.com/v1 CronTab is deprecated; use stable.example.com/v10 CronTab",
        ),
    ] {
        let mut object = definition(of_spec(json!({"type": "object"})));
        let version = object["spec"]["versions"][0].clone();
        let made = items(&json!({"v": versions}), "v")
            .map(|name| {
                let (name, mut version) = (name.as_str().unwrap(), version.clone());
                version["name"] = name.trim_end_matches('!').into();
                version["deprecated"] = name.ends_with('!').into();
                version["storage"] = false.into();
                version
            })
            .collect::<Vec<_>>();
        object["spec"]["versions"] = made.into();
        object["spec"]["versions"][0]["storage"] = true.into();
        let deprecated = wanted.split([' ', '/']).nth(1).unwrap();
        let kind = kind_of(object);
        let custom = kind.custom.as_ref().unwrap();
        assert_eq!(custom.definition.version(deprecated).unwrap().warning.as_deref(), Some(wanted));
    }
}

/// What kubectl reads of v2: a list without items makes it refuse the whole document.
#[test]
fn published_schemas_are_what_clients_can_read() {
    let kind = kind(of_spec(json!({
        "type": "object", "required": ["n", "r"],
        "properties": {
            "l": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {"type": "object"}},
            "o": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
            "n": {"type": "string", "nullable": true}, "r": {"type": "string", "default": ""},
            "i": {"x-kubernetes-int-or-string": true},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
        },
    })));
    let registry = Registry::with(vec![kind]);
    let v2: Value = serde_json::from_str(&crate::openapi::v2(&registry)).unwrap();
    let spec = &v2["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["r"]));
    let fields = &spec["properties"];
    assert_eq!(fields["l"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(fields["o"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(fields["n"], json!({}));
    assert_eq!(fields["i"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(fields["e"]["required"], json!(["kind", "apiVersion"]));
    let list = &v2["definitions"]["com.example.stable.v1.CronTabList"];
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/definitions/com.example.stable.v1.CronTab");
    let v3: Value =
        serde_json::from_str(&crate::openapi::v3(&registry, "stable.example.com", "v1").unwrap()).unwrap();
    let schemas = &v3["components"]["schemas"];
    let fields = &schemas["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"];
    assert_eq!(fields["i"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!(fields["r"]["default"], "");
    assert_eq!(fields["n"]["nullable"], true);
}

#[test]
fn rules_validate_objects_and_transitions() {
    let kind = kind(of_spec(json!({
        "type": "object",
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "id": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
        },
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min is more than %d'.format([self.max])", "fieldPath": ".min", "reason": "FieldValueForbidden"},
            {"rule": "!has(self.id) || size(self.id) < 9"},
        ],
    })));
    let good = instance(json!({"min": 1, "max": 2, "id": "a"}));
    assert_eq!(error_texts(kind.validate_create(&good)), [""; 0]);
    let bad = instance(json!({"min": 3, "max": 2, "id": "a23456789"}));
    assert_eq!(
        error_texts(kind.validate_create(&bad)),
        [
            "spec.min: Forbidden: min is more than 2",
            "spec: Invalid value: failed rule: !has(self.id) || size(self.id) < 9"
        ]
    );
    let other = instance(json!({"min": 1, "max": 2, "id": "b"}));
    assert_eq!(
        error_texts(kind.validate_update(&other, &good, Part::Main)),
        ["spec.id: Invalid value: \"b\": is immutable"]
    );
}

#[test]
fn invalid_rules_are_refused_with_the_definition() {
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
    let with = |rule: &str| {
        refusals(of_spec(json!({
            "type": "object",
            "properties": {"x": {"type": "integer"}, "list": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
            "x-kubernetes-validations": [{"rule": rule}],
        })))
    };
    for (rule, wanted) in [
        ("self.z == 1", "undefined field 'z'"),
        ("self.x ==", "Syntax error"),
        ("self.x", "cel expression must evaluate to a bool"),
        ("self.x == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("other == 1", "undeclared reference to 'other'"),
        (
            "self.list.all(a, a.all(b, b.matches(b)))",
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
    ] {
        let found = with(rule).join("\n");
        assert!(found.contains(wanted) && found.contains(at), "{rule}: {found}");
    }
    assert_eq!(with("self.x > 1 || self.list.size() == 0"), [""; 0]);
}

#[test]
fn a_rule_that_costs_too_much_ends_the_validation() {
    let kind = kind(of_spec(json!({
        "type": "object", "properties": {"list": {"type": "array", "maxItems": 90, "items": {"type": "integer"}}},
        "x-kubernetes-validations": [{"rule": "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))"}],
    })));
    let many: Vec<u32> = (0..90).collect();
    let found = error_texts(kind.validate_create(&instance(json!({"list": many})))).join("\n");
    assert!(
        found.contains("no further validation rules will be run due to call cost exceeds limit"),
        "{found}"
    );
}

#[test]
fn applied_lists_merge_by_the_keys_of_the_definition() {
    let kind = kind(of_spec(json!({
        "type": "object",
        "properties": {
            "ports": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}},
            },
            "atomic": {"type": "array", "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        },
    })));
    let writer = |manager| crate::apply::Writer { manager, subresource: "", now: "2026-01-01T00:00:00Z" };
    let first = instance(json!({"ports": [{"name": "http", "port": 80}], "atomic": ["a"], "set": ["x"]}));
    let mut live = crate::apply::apply(&kind, &Value::Null, &first, &writer("one"), false).unwrap();
    live["metadata"]["uid"] = "u".into();
    let second = instance(json!({"ports": [{"name": "dns", "port": 53}], "set": ["y"]}));
    let merged = crate::apply::apply(&kind, &live, &second, &writer("two"), false).unwrap();
    assert_eq!(
        merged["spec"],
        json!({"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}], "atomic": ["a"], "set": ["x", "y"]})
    );
    let taken = instance(json!({"atomic": ["b"], "nothing": 1}));
    let refused = crate::apply::apply(&kind, &merged, &taken, &writer("two"), false).unwrap_err();
    assert!(refused.message.contains(".spec.nothing: field not declared in schema"), "{refused}");
    let taken = instance(json!({"atomic": ["b"]}));
    let refused = crate::apply::apply(&kind, &merged, &taken, &writer("two"), false).unwrap_err();
    assert!(refused.message.contains("conflict with \"one\": .spec.atomic"), "{refused}");
}
