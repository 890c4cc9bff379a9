//! Expressions with the types, costs, values and errors that a real API server of v1.36 gives them (`testdata/`).

use serde_json::Value as Json;

use super::schema::Structural;
use super::typed::declared;
use crate::cel::{
    self, Bindings, Budget, CelError, Declared, List, Map, PER_CALL, Scope, Type, Value, compile,
};

const SCHEMA: &str = include_str!("testdata/expressions.schema.json");
const OBJECT: &str = include_str!("testdata/expressions.object.json");
const EXPRESSIONS: &str = include_str!("testdata/expressions.json");

/// A value in the notation of the recorded results.
fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) if value.is_nan() => "NaN".to_owned(),
        Value::Double(value) if value.is_infinite() => if *value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        Value::Double(value) => {
            let text = format!("{value:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap();
            let exponent: i32 = exponent.parse().unwrap();
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        Value::String(text) => serde_json::to_string(&**text).unwrap(),
        Value::Bytes(bytes) => {
            format!("b{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Value::Timestamp(at) => format!("timestamp({at})"),
        Value::Duration(nanos) => format!("duration({nanos})"),
        Value::List(list) => {
            let items: Vec<String> = items(list).iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> =
                entries(map).iter().map(|(key, value)| format!("{}: {}", shown(key), shown(value))).collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(value)) => format!("optional({})", shown(value)),
        Value::Type(name) => format!("type {name}"),
        other => other.type_name().to_owned(),
    }
}

fn items<'a>(list: &List<'a>) -> Vec<Value<'a>> {
    list.items().unwrap()
}

fn entries<'a>(map: &Map<'a>) -> Vec<(Value<'a>, Value<'a>)> {
    map.entries().unwrap()
}

/// What an expression gives, as the recorded results are written.
fn result_of(source: &str, of: &Declared, bindings: &Bindings<'_>) -> Json {
    let scope = Scope::new().with_borrowed("self", of).with("any", Type::Dyn);
    let checked = match compile(source, &scope) {
        Ok(checked) => checked,
        Err(CelError::Instantiation(why)) => return serde_json::json!({"error": format!("program: {why}")}),
        Err(error) => return serde_json::json!({"issues": error.to_string()}),
    };
    let (name, cost) = (checked.of().to_string(), checked.max_cost(of));
    let mut budget = Budget(PER_CALL);
    let program = checked.into_program();
    let result = cel::evaluate(&program, bindings, &mut budget);
    let mut out = serde_json::json!({"type": name, "max": cost, "actual": PER_CALL - budget.0});
    match result {
        Ok(value) => out["value"] = shown(&value).into(),
        Err(error) => out["error"] = error.to_string().into(),
    }
    out
}

#[test]
fn expressions_cost_and_give_what_upstream_records() {
    let schema = Structural::parse(&serde_json::from_str(SCHEMA).unwrap());
    let object: Json = serde_json::from_str(OBJECT).unwrap();
    let of = declared(&schema, "selfType", false).unwrap();
    let bindings = Bindings::from([
        ("self", cel::of_typed(&object, &schema, false).unwrap()),
        ("any", cel::of_json(&object)),
    ]);
    let recorded: Vec<Json> = serde_json::from_str(EXPRESSIONS).unwrap();
    assert!(recorded.len() >= 300);
    let mut wrong = Vec::new();
    for wanted in &recorded {
        let found = result_of(wanted["expr"].as_str().unwrap(), &of, &bindings);
        for field in ["issues", "type", "max", "value", "error", "actual"] {
            if !wanted[field].is_null() && wanted[field] != found[field] {
                wrong.push(format!(
                    "{} {field}:\n  wanted {}\n  found  {}",
                    wanted["expr"], wanted[field], found[field]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), recorded.len(), wrong.join("\n"));
}
