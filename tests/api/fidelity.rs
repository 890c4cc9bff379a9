//! The comparison of two API servers, on small answers.

use serde_json::{Value, json};
use skep_tests::fidelity::answer::{Answer, warning_text};
use skep_tests::fidelity::compare::{Aspect, compare};
use skep_tests::fidelity::manifests::{Manifests, parse};
use skep_tests::fidelity::normal::normalise;
use skep_tests::fidelity::report::title;

fn answer(code: u16, warnings: &[&str], body: Value) -> Answer {
    let warnings = warnings.iter().map(|text| (*text).to_owned()).collect();
    let mut answer = Answer { code, warnings, body, managers: Value::Null };
    normalise(&mut answer, false);
    answer
}

#[test]
fn each_aspect_of_an_answer_is_compared() {
    let pod = |spec: Value| json!({"metadata": {"name": "p", "uid": "1"}, "spec": spec});
    let managed = |fields: Value| {
        json!({"metadata": {"managedFields": [
            {"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsV1": fields}]}})
    };
    let status = |reason: &str, message: &str, field: &str| json!({"reason": reason, "message": message, "details": {"causes": [{"field": field}]}});
    let ok = |body: Value| answer(201, &[], body);
    let refused = |body: Value| answer(422, &[], body);
    let rows = [
        ("equal", ok(pod(json!({"a": 1}))), ok(pod(json!({"a": 1.0}))), vec![]),
        ("absent", ok(pod(json!({"a": 1}))), ok(pod(json!({}))), vec![(Aspect::FieldMissing, "spec.a")]),
        ("more", ok(pod(json!({}))), ok(pod(json!({"a": null}))), vec![(Aspect::FieldExtra, "spec.a")]),
        (
            "other",
            ok(pod(json!({"a": [{"b": "1"}]}))),
            ok(pod(json!({"a": [{"b": 1}]}))),
            vec![(Aspect::Value, "spec.a[0].b")],
        ),
        ("length", ok(pod(json!({"a": [1]}))), ok(pod(json!({"a": []}))), vec![(Aspect::Value, "spec.a")]),
        (
            "a key with dots",
            ok(pod(json!({"a.b/c": 1}))),
            ok(pod(json!({}))),
            vec![(Aspect::FieldMissing, "spec[a.b/c]")],
        ),
        ("code", ok(json!({})), refused(json!({})), vec![(Aspect::Code, "")]),
        (
            "status",
            refused(status("Invalid", "a is bad", "a")),
            refused(status("BadRequest", "b is bad", "b")),
            vec![(Aspect::Reason, ""), (Aspect::Causes, ""), (Aspect::Message, "")],
        ),
        (
            "warnings",
            answer(200, &["a", "b"], json!({})),
            answer(200, &["b", "c"], json!({})),
            vec![(Aspect::WarningMissing, ""), (Aspect::WarningExtra, "")],
        ),
        (
            "managers",
            ok(managed(json!({"f:spec": {"f:a": {}}}))),
            ok(managed(json!({"f:spec": {"f:b": {}}}))),
            vec![(Aspect::Managers, "m Apply v1.f:spec.f:a"), (Aspect::Managers, "m Apply v1.f:spec.f:b")],
        ),
    ];
    let failed: Vec<String> = rows
        .into_iter()
        .filter_map(|(name, oracle, skep, wanted)| {
            let found = compare(&oracle, &skep);
            let found: Vec<_> = found.iter().map(|one| (one.aspect, one.path.as_str())).collect();
            (found != wanted).then(|| format!("{name}: {found:?}"))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn only_what_legitimately_differs_is_made_equal() {
    let object = |uid: &str, address: &str, volume: &str, policy: &str| {
        json!({"metadata": {"uid": uid, "labels": {"batch.kubernetes.io/controller-uid": uid}, "managedFields": []},
            "spec": {"clusterIP": address, "policy": policy, "volumes": [{"name": format!("kube-api-access-{volume}")}]}})
    };
    let first = answer(201, &[], object("1", "10.0.0.1", "abcde", "a"));
    let second = answer(201, &[], object("2", "10.0.0.2", "fghij", "b"));
    let found: Vec<String> = compare(&first, &second).into_iter().map(|difference| difference.path).collect();
    assert_eq!(found, ["spec.policy"]);
    let headless = answer(201, &[], object("1", "None", "abcde", "a"));
    assert_eq!(compare(&first, &headless).len(), 1, "None is no address");
}

#[test]
fn equal_differences_have_one_title() {
    let spec = |path: &str, value: Value| {
        let mut object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "labels": {}}});
        object.pointer_mut(path).unwrap()["x"] = value;
        answer(201, &[], object)
    };
    let titles =
        |first: &Answer, second: &Answer| compare(first, second).iter().map(title).collect::<Vec<_>>();
    let none =
        answer(201, &[], json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "labels": {}}}));
    for index in 0..2 {
        let one = spec(&format!("/spec/containers/{index}"), json!(1));
        assert_eq!(titles(&one, &none), ["field only in oracle: spec.containers[].x"]);
    }
    assert_eq!(titles(&spec("/spec/labels", json!("a")), &none), ["field only in oracle: spec.labels{}"]);
    let refused = |name: &str| {
        answer(422, &[], json!({"message": format!("Pod \"{name}\" is invalid: spec.a[3]: Required")}))
    };
    assert_eq!(
        titles(&refused("a"), &none),
        ["code differs: N _ is invalid: spec.a[]: Required vs N"],
        "{:?}",
        titles(&refused("b"), &none)
    );
}

#[test]
fn manifests_are_documents_lists_and_json() {
    let mut found = Manifests::default();
    let text = "# none\n---\napiVersion: v1\nkind: A\n---\n{{ template }}\n---\napiVersion: v1\nkind: List\nitems:\n- {kind: B}\n- {kind: C}\n";
    parse(std::path::Path::new("x.yaml"), text, &mut found);
    parse(std::path::Path::new("x.json"), "{\"apiVersion\": \"v1\", \"kind\": \"D\"}", &mut found);
    let kinds: Vec<&str> = found.objects.iter().map(|manifest| manifest.text("kind")).collect();
    assert_eq!((kinds, found.unreadable), (vec!["A", "B", "C", "D"], 1));
    assert_eq!(warning_text(r#"299 - "a \"b\" \\ c" "date""#), r#"a "b" \ c"#);
}
