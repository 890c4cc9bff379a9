//! CEL (Common Expression Language) with a cost budget: no expression can hang or exhaust the server.
//!
//! In: an expression, values by name, a budget in upstream's cost units (about one a step, and one for every ten bytes or
//! items read). Out: a value, or a [`CelError`]. kube-cel parses expressions and has Kubernetes' functions; the evaluation
//! is our own, because it must count the cost.

mod authorizer;
mod budget;
mod check;
mod eval;
mod expressions;
mod functions;
mod message;
mod program;
mod types;
mod values;

pub(crate) use authorizer::AUTHORIZER;
pub use authorizer::{AccessCheck, AccessDecision, Authorize, Authorizer};
pub use budget::{Bindings, Budget, CelError, PER_CALL, PER_OBJECT};
pub use check::{Checked, Scope, check};
pub(crate) use eval::to_optional;
pub use kube_cel::cel::Value;
pub use message::Message;
pub(crate) use message::{JSON_PATCH, OBJECT};
pub use program::Program;
pub(crate) use types::REQUEST;
pub use types::Type;
pub(crate) use values::{escape, is_identifier, list, of_format};
pub use values::{of_fields, of_json, to_json};

/// Evaluates a program and charges its cost to the budget.
pub fn evaluate(program: &Program, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<Value, CelError> {
    eval::evaluate(program.expression(), bindings, budget)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const WORDS: [&str; 28] = [
        "self", ".spec", ".list", ".map", "(", ")", "[", "]", "{", "}", "+", "-", "/", "%", "==", "<", "&&",
        "||", "!", "?", ":", ",", ".all(x, ", ".map(x, ", "x", "1", "'a'", "has(",
    ];

    proptest! {
        #[test]
        fn any_text_is_checked_and_evaluated_without_panic(words in prop::collection::vec(0..WORDS.len(), 0..14)) {
            let text: String = words.into_iter().map(|at| WORDS[at]).collect();
            if let Ok(program) = Program::compile(&text) {
                let _ = check(&program, &Scope::from([("self", Type::Dyn)]));
            }
            let _ = run(&text, 10_000);
        }
    }

    fn run(source: &str, budget: u64) -> Result<Value, CelError> {
        let object = json!({
            "spec": {"replicas": 3, "name": "web", "list": [1, 2, 3], "map": {"a": 1, "b": 2}},
            "long": vec![1; 2_000], "big": "x".repeat(100_000),
        });
        let bindings = Bindings::from([("self", of_json(&object))]);
        evaluate(&Program::compile(source)?, &bindings, &mut Budget(budget))
    }

    #[test]
    fn expressions_evaluate_to_true() {
        for source in [
            "self.spec.replicas + 1 == 4",
            "self.spec.name.startsWith('w') && size(self.spec.list) == 3",
            "has(self.spec.name) && !has(self.spec.other)",
            "self.spec.list.all(x, x > 0) && self.spec.list.exists(x, x == 2)",
            "self.spec.list.map(x, x * 2) == [2, 4, 6]",
            "self.spec.list.filter(x, x != 2) == [1, 3]",
            "self.spec.map.all(k, self.spec.map[k] > 0)",
            "'b' in self.spec.map && 2 in self.spec.list && !(9 in self.spec.list)",
            "self.spec.other == 1 || true",
            "(self.spec.replicas > 2 ? 'many' : 'few') == 'many'",
            "self.spec.name.matches('^w.b$')",
            r"'٣'.matches('\\d') == false && 'a-_'.matches(r'^[\w-_]+$') && 'a&&b'.matches(r'[a&&]{4}') == false",
            r"'abc 123'.find(r'\d+') == '123' && 'a1b2'.findAll(r'\d') == ['1', '2'] && 'a1b2'.findAll(r'\d', 1) == ['1']",
            "quantity('1Gi').isGreaterThan(quantity('1Mi'))",
            "self.spec.list.sum() == 6 && self.spec.list.isSorted()",
            "self.spec.list.exists_one(x, x == 1)",
            "'a-b'.replace('-', '.') == 'a.b' && 'a,b'.split(',') == ['a', 'b']",
            "duration('90s') > duration('1m') && timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
            "string(3) == '3' && int('4') == 4 && 7 / 2 == 3 && 7 % 2 == 1 && -(3) == -3",
            "[1, 2] + [3] == [1, 2, 3] && {'a': 1}.a == 1 && [1, 2][1] == 2",
            "self.spec.map.map(k, k).size() == 2",
            "math.greatest(1, 2) == 2 && sets.contains([1, 2], [1])",
            "'%s-%d'.format(['a', 1]) == 'a-1'",
            "self.?spec.other.orValue(5) == 5",
        ] {
            assert_eq!(run(source, PER_CALL), Ok(Value::Bool(true)), "{source}");
        }
    }

    #[test]
    fn errors_have_upstreams_messages_and_nothing_panics() {
        for (source, wanted) in [
            ("self.spec.other == 1", "no such key: other"),
            ("self.spec.list[9] == 1", "index out of bounds: 9"),
            ("1 / 0 == 1", "division by zero"),
            ("9223372036854775807 + 1 > 0", "overflow"),
            ("self.spec.name > 1", "no such overload"),
            ("nothing == 1", "undeclared reference to 'nothing'"),
        ] {
            let error = run(source, PER_CALL).unwrap_err();
            assert!(error.to_string().contains(wanted), "{source}: {error}");
        }
        for source in
            ["self.", "1 +", "a b", "Foo{a: 1}", &format!("{}1{}", "(".repeat(500), ")".repeat(500))]
        {
            assert!(matches!(run(source, PER_CALL), Err(CelError::Compile(_))), "{source}");
        }
        let chain = vec!["1"; 5_000].join("+");
        assert!(matches!(run(&chain, PER_CALL), Err(CelError::Compile(_))));
    }

    #[test]
    fn messages_are_built_read_and_converted_to_json() {
        let evaluated = |source: &str| {
            let object = of_json(&json!({"name": "web", "none": null}));
            let program = Program::compile_patch(source)?;
            let value = evaluate(&program, &Bindings::from([("object", object)]), &mut Budget(PER_CALL))?;
            to_json(&value, &mut Budget(PER_CALL))
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
                "JSONPatch{op: 'add', path: '/a', value: Object.a{b: 1}}",
                json!({"op": "add", "path": "/a", "value": {"b": 1}}),
            ),
            ("JSONPatch{op: 'remove', path: '/a'}.from", json!("")),
        ] {
            assert_eq!(evaluated(source), Ok(wanted), "{source}");
        }
        for (source, wanted) in [
            (
                "Object{spec: Object.other{}}",
                "unexpected type name \"Object.other\", expected \"Object.spec\"",
            ),
            ("JSONPatch{nonsense: 1}", "unexpected JSONPatchType field: nonsense"),
            ("JSONPatch{op: dyn(1)}", "unexpected type for JSONPatchType 'op' field"),
            ("{1: 2}", "map key 1 is not a string"),
            ("Other{}", "undeclared reference to 'Other'"),
        ] {
            let error = evaluated(source).unwrap_err().to_string();
            assert!(error.contains(wanted), "{source}: {error}");
        }
    }

    #[test]
    fn a_value_that_repeats_itself_exceeds_the_budget() {
        let doubled = |times: usize| format!("[1]{}", ".map(x, [x, x, x, x])".repeat(times));
        let compared = format!("{0} == {0}", doubled(20));
        assert_eq!(run(&compared, PER_CALL), Err(CelError::Budget));
        let value = run(&doubled(20), PER_CALL).unwrap();
        assert_eq!(to_json(&value, &mut Budget(PER_CALL)), Err(CelError::Budget));
    }

    #[test]
    fn costs_saturate() {
        let mut nested = "1".to_owned();
        for _ in 0..8 {
            nested = format!("object.map(x, {nested})");
        }
        let scope = Scope::from([("object", Type::Dyn)]);
        for source in [format!("[{nested}, {nested}]"), format!("{{'a': {nested}, 'b': {nested}}}")] {
            let program = Program::compile(&source).unwrap();
            assert_eq!(check(&program, &scope).map(|checked| checked.cost), Ok(u64::MAX), "{source}");
        }
    }

    #[test]
    fn every_expensive_expression_ends_with_its_budget() {
        for source in [
            "self.long.all(a, self.long.all(b, self.long.all(c, a == b && b == c)))",
            "self.long.map(a, self.big + self.big).size() > 0",
            "self.big.replace('', self.big).size() > 0",
            "self.long.map(a, self.long.map(b, self.long)).size() > 0",
            "self.long.all(a, self.big.matches('(x+x+)+y') || true)",
        ] {
            assert_eq!(run(source, PER_CALL), Err(CelError::Budget), "{source}");
        }
        assert_eq!(run("self.long.all(a, a == 1)", PER_CALL), Ok(Value::Bool(true)));
    }
}
