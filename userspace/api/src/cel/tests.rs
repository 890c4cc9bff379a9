//! Properties of all expressions: none panics, none exceeds its budget; and messages of mutations.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const WORDS: [&str; 34] = [
    "self",
    ".spec",
    ".list",
    ".map",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "+",
    "-",
    "/",
    "%",
    "==",
    "<",
    "&&",
    "||",
    "!",
    "?",
    ":",
    ",",
    ".all(x, ",
    ".map(x, ",
    "x",
    "1",
    "'a'",
    "has(",
    ".?a",
    "[?",
    ".exists(x, y, ",
    ".optMap(x, ",
    ".sortBy(x, ",
    "optional.of(",
];

proptest! {
    #[test]
    fn any_text_is_checked_and_evaluated_without_panic(words in prop::collection::vec(0..WORDS.len(), 0..14)) {
        let text: String = words.into_iter().map(|at| WORDS[at]).collect();
        let _ = run(&text, 10_000);
    }
}

fn compiled(source: &str, scope: &Scope<'_>) -> Result<Program, CelError> {
    Ok(compile(source, scope)?.into_program())
}

fn run(source: &str, budget: u64) -> Result<bool, CelError> {
    let object = json!({
        "spec": {"replicas": 3, "name": "web", "list": [1, 2, 3], "map": {"a": 1, "b": 2}},
        "long": vec![1; 2_000], "big": "x".repeat(100_000),
    });
    let bindings = Bindings::from([("self", of_json(&object))]);
    let program = compiled(source, &Scope::new().with("self", Type::Dyn))?;
    let value = evaluate(&program, &bindings, &mut Budget(budget))?;
    Ok(matches!(value, Value::Bool(true)))
}

#[test]
fn nesting_is_bounded_and_needs_little_stack() {
    let nested =
        |open: &str, close: &str, times: usize| format!("{}1{}", open.repeat(times), close.repeat(times));
    let too_deep = "ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
    let check = move || {
        for (source, valid) in [
            (nested("(", ")", 240), true),
            (nested("(", ")", 260), false),
            (nested("[", "]", 240), true),
            (nested("[", "]", 100_000 / 2 - 1), false),
            (nested("-", "", 5_000), true),
            (vec!["1"; 240].join("+"), true),
            (vec!["1"; 260].join("+"), false),
            (vec!["true"; 5_000].join("&&"), true),
            (format!("{}1", "true ? 1 : ".repeat(240)), true),
            (format!("{}1", "true ? 1 : ".repeat(5_000)), false),
            (format!("[1]{}", ".map(x, [x])".repeat(120)), true),
            (format!("optional.of(1){}", ".optMap(x, x)".repeat(60)), false),
            (nested("[1].map(x, ", ")", 60), true),
        ] {
            match run(&source, PER_CALL) {
                Err(CelError::Compile(why)) => {
                    assert!(!valid && why == too_deep, "{}: {why}", &source[..40.min(source.len())]);
                }
                _ => assert!(valid, "{}", &source[..40.min(source.len())]),
            }
        }
    };
    // The stack of the server's threads.
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}

#[test]
fn messages_are_built_read_and_converted_to_json() {
    let object = json!({"name": "web", "none": null});
    let scope = Scope::new().with("object", Type::Dyn).of_mutations();
    let evaluated = |source: &str| {
        let program = compiled(source, &scope)?;
        let bindings = Bindings::from([("object", of_json(&object))]);
        to_json(&evaluate(&program, &bindings, &mut Budget(PER_CALL))?, &mut Budget(PER_CALL))
    };
    for (source, wanted) in [
        ("Object{}", json!({})),
        (
            "Object{spec: Object.spec{list: [Object.spec.list{name: object.name}], labels: {'a': 'b'}}}",
            json!({"spec": {"list": [{"name": "web"}], "labels": {"a": "b"}}}),
        ),
        ("Object{?a: object.?name, ?b: object.?other}", json!({"a": "web"})),
        (
            "Object{a: 1, b: 1.5, c: null, d: b'x', e: duration('90s'), f: timestamp('2026-01-01T00:00:00Z')}",
            json!({"a": 1, "b": 1.5, "c": null, "d": "eA==", "e": "90s", "f": "2026-01-01T00:00:00Z"}),
        ),
        ("Object{a: 1}.a + 1", json!(2)),
        ("has(Object{a: 1}.a) && !has(Object{a: 1}.b) && Object{a: 1} == Object{a: 1}", json!(true)),
        (
            "JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: Object.a{b: 1}}",
            json!({"op": "add", "path": "/a/b~1c", "value": {"b": 1}}),
        ),
        ("JSONPatch{op: 'remove', path: '/a'}.from", json!("")),
    ] {
        assert_eq!(evaluated(source), Ok(wanted), "{source}");
    }
    for (source, wanted) in [
        ("Object{spec: Object.other{}}", "unexpected type name \"Object.other\", expected \"Object.spec\""),
        ("JSONPatch{nonsense: 1}", "undefined field 'nonsense'"),
        ("JSONPatch{op: dyn(1)}", "unexpected type for JSONPatchType 'op' field"),
        ("{1: 2}", "map key 1 is not a string"),
        ("Other{}", "undeclared reference to 'Other'"),
    ] {
        let error = evaluated(source).unwrap_err().to_string();
        assert!(error.contains(wanted), "{source}: {error}");
    }
}

#[test]
fn what_grows_ends_with_the_budget() {
    let doubled = |times: usize| format!("[1]{}", ".map(x, [x, x, x, x])".repeat(times));
    let joined =
        |times: usize| (0..times).fold("[1]".to_owned(), |list, _| format!("[{list}].map(x, x + x)[0]"));
    for source in [
        format!("{0} == {0}", doubled(20)),
        format!("{}.size() > 0", joined(40)),
        "self.long.all(a, self.long.all(b, self.long.all(c, a == b && b == c)))".to_owned(),
        "self.long.map(a, self.big + self.big).size() > 0".to_owned(),
        "self.big.replace('', self.big).size() > 0".to_owned(),
        "self.long.all(a, self.big.matches('(x+x+)+y') || true)".to_owned(),
        "lists.range(1000000000).size() > 0".to_owned(),
        "self.long.map(a, self.long).flatten().distinct().size() > 0".to_owned(),
    ] {
        assert_eq!(run(&source, PER_CALL), Err(CelError::Budget), "{source}");
    }
    assert_eq!(run("self.long.all(a, a == 1)", PER_CALL), Ok(true));
    let program = compiled(&doubled(20), &Scope::new()).unwrap();
    let value = evaluate(&program, &Bindings::new(), &mut Budget(PER_CALL)).unwrap();
    assert_eq!(to_json(&value, &mut Budget(PER_CALL)), Err(CelError::Budget));
}

#[test]
fn costs_saturate() {
    let nested = (0..8).fold("1".to_owned(), |body, _| format!("self.map(x, {body})"));
    let of = Declared::list(Type::Dyn.into(), REQUEST);
    for source in [format!("[{nested}, {nested}]"), format!("{{'a': {nested}, 'b': {nested}}}")] {
        let checked = compile(&source, &Scope::new().with_borrowed("self", &of)).unwrap();
        assert_eq!(checked.max_cost(&of), u64::MAX, "{source}");
    }
}

#[test]
fn names_of_requests_have_types() {
    for (source, wanted) in [
        ("request.userInfo.groups.exists(g, g == 'a') && request.kind.group == ''", None),
        ("namespaceObject.metadata.labels['a'] == 'b' && object.x.y == oldObject.z", None),
        ("authorizer.requestResource.check('get').allowed()", None),
        ("request.nothing == 1", Some("undefined field 'nothing'")),
        ("namespaceObject.spec.x == 1", Some("undefined field 'x'")),
        ("params.a == 1", Some("undeclared reference to 'params'")),
        ("jsonpatch.escapeKey('a') == ''", Some("undeclared reference to 'escapeKey'")),
    ] {
        let found = compile(source, &RequestScope::default().scope());
        match (found, wanted) {
            (Ok(_), None) => {}
            (Err(error), Some(wanted)) => assert!(error.to_string().contains(wanted), "{source}: {error}"),
            (found, wanted) => panic!("{source}: {found:?} {wanted:?}"),
        }
    }
}
