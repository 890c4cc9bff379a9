//! Validates the rules of a definition: they must compile, match the schema, and stay within the cost limits.

use serde_json::Value;

use super::field_path::field_at;
use crate::cel::{Scope, Type, check};
use crate::custom::schema::{ListType, Rule, Shape, Structural};
use crate::custom::typed::{type_of, type_of_resource};
use crate::field::{Errors, Path};
use crate::value::{items, text};

/// Cost limit of one expression (validation.StaticEstimatedCostLimit).
const MAX_EXPRESSION_COST: u64 = 10_000_000;
/// Cost limit of all expressions of a schema (validation.StaticEstimatedCRDCostLimit).
const MAX_SCHEMA_COST: u64 = 100_000_000;
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

pub(super) fn validate(parsed: &Structural, source: &Value, path: &Path, errors: &mut Errors) {
    let start = errors.0.len();
    validate_syntax(parsed, source, path, errors);
    if errors.0.len() > start {
        return;
    }
    let mut total = Total::default();
    let context = Context { root: true, times: 1, uncorrelated: None };
    validate_expressions(parsed, source, path, &context, &mut total, errors);
    if total.cost > MAX_SCHEMA_COST {
        for at in &total.most_expensive {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.forbidden(&at.1, why);
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path, &over_budget(name, total.cost, MAX_SCHEMA_COST));
    }
}

/// The schemas of fields, entries and items, each with its source, its path and the maximum number of its values.
fn inner_schemas<'a>(
    parsed: &'a Structural,
    source: &'a Value,
    path: &Path,
) -> Vec<(&'a Structural, &'a Value, Path, u64)> {
    let properties = parsed.properties.iter();
    let mut all: Vec<_> = properties
        .map(|(name, inner)| (inner, &source["properties"][name], path.child("properties").key(name), 1))
        .collect();
    let most = |of: &Structural| match type_of(of) {
        Type::List(_, most) | Type::Map(_, most) => most,
        _ => 1,
    };
    for (inner, name) in [(&parsed.items, "items"), (&parsed.additional, "additionalProperties")] {
        if let Some(inner) = inner.as_deref() {
            all.push((inner, &source[name], path.child(name), most(parsed)));
        }
    }
    all
}

fn validate_syntax(parsed: &Structural, source: &Value, path: &Path, errors: &mut Errors) {
    for (i, rule) in items(source, "x-kubernetes-validations").enumerate() {
        validate_rule_fields(parsed, rule, &path.child("x-kubernetes-validations").index(i), errors);
    }
    for (inner, source, path, _) in inner_schemas(parsed, source, path) {
        validate_syntax(inner, source, &path, errors);
    }
}

fn validate_rule_fields(parsed: &Structural, rule: &Value, path: &Path, errors: &mut Errors) {
    let broken = |text: &str| text.contains(['\n', '\r']);
    let (expression, message) = (text(&rule["rule"]), text(&rule["message"]));
    if expression.trim().is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), &rule["message"], "must be non-empty if specified");
    } else if broken(message.trim()) {
        errors.invalid(&path.child("message"), &rule["message"], "must not contain line breaks");
    } else if broken(expression.trim()) && message.trim().is_empty() {
        errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
    }
    let made = text(&rule["messageExpression"]);
    if !made.is_empty() && made.trim().is_empty() {
        errors.required(&path.child("messageExpression"), "messageExpression must be non-empty if specified");
    }
    if rule["reason"].is_string() && !REASONS.contains(&text(&rule["reason"])) {
        errors.not_supported(&path.child("reason"), &rule["reason"], &REASONS);
    }
    let (below, at) = (text(&rule["fieldPath"]), path.child("fieldPath"));
    if !below.is_empty() && below.trim().is_empty() {
        errors.invalid(&at, &rule["fieldPath"], "must be non-empty if specified");
    }
    if broken(below) {
        errors.invalid(&at, &rule["fieldPath"], "must not contain line breaks");
    }
    if !below.is_empty() && field_at(parsed, below, true).is_err() {
        errors.invalid(&at, &rule["fieldPath"], "must be a valid path");
    }
}

struct Context {
    root: bool,
    /// The maximum number of values of the schema in an object.
    times: u64,
    /// The path below which old and new values cannot be correlated.
    uncorrelated: Option<Path>,
}

#[derive(Default)]
struct Total {
    cost: u64,
    /// The most expensive expressions in descending order.
    most_expensive: Vec<(u64, Path)>,
}

impl Total {
    fn add(&mut self, cost: u64, path: Path) {
        self.cost = self.cost.saturating_add(cost);
        self.most_expensive.push((cost, path));
        self.most_expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        self.most_expensive.truncate(4);
    }
}

fn validate_expressions(
    parsed: &Structural,
    source: &Value,
    path: &Path,
    context: &Context,
    total: &mut Total,
    errors: &mut Errors,
) {
    let of = if context.root || parsed.embedded { type_of_resource(parsed) } else { type_of(parsed) };
    for (i, rule) in parsed.rules.iter().enumerate() {
        let whole = &source["x-kubernetes-validations"][i];
        let at = path.child("x-kubernetes-validations").index(i);
        validate_expression(rule, whole, &of, &at, context, total, errors);
    }
    for (inner, source, at, most) in inner_schemas(parsed, source, path) {
        let breaks = match parsed.shape {
            Shape::Array => parsed.list_type != ListType::Map,
            _ => parsed.atomic_map,
        };
        let uncorrelated = context.uncorrelated.clone().or_else(|| breaks.then(|| path.clone()));
        let context = Context { root: false, times: context.times.saturating_mul(most), uncorrelated };
        validate_expressions(inner, source, &at, &context, total, errors);
    }
}

fn validate_expression(
    rule: &Rule,
    whole: &Value,
    of: &Type,
    path: &Path,
    context: &Context,
    total: &mut Total,
    errors: &mut Errors,
) {
    let optional = whole["optionalOldSelf"] == true;
    let old = if optional { Type::Optional(Box::new(of.clone())) } else { of.clone() };
    let scope = Scope::from([("self", of.clone()), ("oldSelf", old)]);
    let mut checked = |program: &Result<_, _>, at: Path, wanted: &Type, kind: &str, errors: &mut Errors| {
        let name = if kind.is_empty() { "" } else { "messageExpression " };
        let found = program.clone().and_then(|program| check(&program, &scope));
        match found {
            Err(error) => errors.invalid(&at, whole, &format!("{name}compilation failed: {error}")),
            Ok(found) => {
                if !matches!(
                    (&found.of, wanted),
                    (Type::Dyn, _) | (Type::Bool, Type::Bool) | (Type::String(_), Type::String(_))
                ) {
                    let why = match kind {
                        "" => "cel expression must evaluate to a bool",
                        _ => "messageExpression must evaluate to a string",
                    };
                    errors.invalid(&at, whole, why);
                }
                let cost = found.cost.saturating_mul(context.times);
                if cost > MAX_EXPRESSION_COST {
                    let name = if kind.is_empty() {
                        "estimated rule cost"
                    } else {
                        "estimated messageExpression cost"
                    };
                    errors.forbidden(&at, &over_budget(name, cost, MAX_EXPRESSION_COST));
                }
                total.add(cost, at);
            }
        }
    };
    checked(&rule.program, path.child("rule"), &Type::Bool, "", errors);
    if let Some(program) = &rule.message_program {
        checked(program, path.child("messageExpression"), &Type::String(0), "message", errors);
    }
    match &context.uncorrelated {
        Some(from) if rule.uses_old => {
            let why =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {from}");
            errors.invalid(&path.child("rule"), &whole["rule"], &why);
        }
        _ if !rule.uses_old && !whole["optionalOldSelf"].is_null() => {
            let why = "may not be set if oldSelf is not used in rule";
            errors.invalid(&path.child("optionalOldSelf"), &whole["optionalOldSelf"], why);
        }
        _ => {}
    }
}

fn over_budget(name: &str, cost: u64, limit: u64) -> String {
    let times = cost as f64 / limit as f64;
    let factor = match times {
        times if times > 100.0 => "more than 100x".to_owned(),
        times if times < 1.5 => format!("{times:.6}x"),
        times => format!("{times:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
