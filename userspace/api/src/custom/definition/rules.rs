//! Validates the rules of a definition: they must compile, match the schema, and stay within the cost limits.

use serde_json::Value;

use super::field_path::field_at;
use crate::cel::{CelError, Checked, Declared, Type, compile};
use crate::custom::schema::{ListType, Shape, Structural, scope_of_rule};
use crate::custom::typed::declared;
use crate::field::{Errors, Path};
use crate::value::{items, text};

/// Cost limit of one expression (validation.StaticEstimatedCostLimit).
const MAX_EXPRESSION_COST: u64 = 10_000_000;
/// Cost limit of all expressions of a schema (validation.StaticEstimatedCRDCostLimit).
const MAX_SCHEMA_COST: u64 = 100_000_000;
/// Bytes of a request, which bound the number of values that it can have.
const REQUEST: u64 = 3 << 20;
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

pub(super) fn validate(parsed: &Structural, source: &Value, path: &Path, errors: &mut Errors) {
    let start = errors.0.len();
    validate_syntax(parsed, source, path, errors);
    if errors.0.len() > start {
        return;
    }
    let mut total = Total::default();
    let context = Context { root: true, times: Some(1), uncorrelated: None };
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

/// The schemas of fields, entries and items, each with its source, its path and the maximum number of its values, if the
/// schema bounds it.
fn inner_schemas<'a>(
    parsed: &'a Structural,
    source: &'a Value,
    path: &Path,
) -> Vec<(&'a Structural, &'a Value, Path, Option<u64>)> {
    let properties = parsed.properties.iter();
    let mut all: Vec<_> = properties
        .map(|(name, inner)| {
            (inner, &source["properties"][name], path.child("properties").key(name), Some(1))
        })
        .collect();
    let checks = &parsed.checks;
    for (inner, name, most) in [
        (&parsed.items, "items", checks.max_items),
        (&parsed.additional, "additionalProperties", checks.max_properties),
    ] {
        if let Some(inner) = inner.as_deref() {
            all.push((inner, &source[name], path.child(name), most));
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
    /// The maximum number of values of the schema in an object; `None` without a bound.
    times: Option<u64>,
    /// The path below which old and new values cannot be correlated.
    uncorrelated: Option<Path>,
}

/// Expressions below this share of the schema's limit are not named when it is exceeded.
const NAMED_COST: u64 = MAX_SCHEMA_COST / 100;

#[derive(Default)]
struct Total {
    cost: u64,
    /// The most expensive expressions in descending order.
    most_expensive: Vec<(u64, Path)>,
}

impl Total {
    fn add(&mut self, cost: u64, path: Path) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= NAMED_COST {
            self.most_expensive.push((cost, path));
            self.most_expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.most_expensive.truncate(4);
        }
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
    if !parsed.has_rules() {
        return;
    }
    let rules = source["x-kubernetes-validations"].as_array().map_or(&[][..], Vec::as_slice);
    if !rules.is_empty() {
        let at = path.child("x-kubernetes-validations");
        match declared(parsed, "selfType", context.root || parsed.embedded) {
            Some(of) => {
                for (i, rule) in rules.iter().enumerate() {
                    RuleCheck { rule, of: &of, path: at.index(i), context, total, errors }.validate();
                }
            }
            None => {
                let why = "Internal error: internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
                errors.push(&at, "InternalError", why.to_owned());
            }
        }
    }
    for (inner, source, at, most) in inner_schemas(parsed, source, path) {
        // Entries of maps have keys; items only of lists with keys.
        let breaks = parsed.shape == Shape::Array && parsed.list_type != ListType::Map;
        let uncorrelated = context.uncorrelated.clone().or_else(|| breaks.then(|| path.clone()));
        let times = context.times.zip(most).map(|(times, most)| times.saturating_mul(most));
        let context = Context { root: false, times, uncorrelated };
        validate_expressions(inner, source, &at, &context, total, errors);
    }
}

struct RuleCheck<'r> {
    rule: &'r Value,
    of: &'r Declared,
    path: Path,
    context: &'r Context,
    total: &'r mut Total,
    errors: &'r mut Errors,
}

impl RuleCheck<'_> {
    fn validate(&mut self) {
        let at = self.path.child("rule");
        let checked = self.compile("rule", "", &Type::Bool, "cel expression must evaluate to a bool");
        let mut uses_old = false;
        match checked {
            Err(error) => self.errors.invalid(&at, self.rule, &error.to_string()),
            Ok(checked) => {
                uses_old = checked.refers_to("oldSelf");
                // Without a bound, as many values as fit a request.
                let times = self.context.times.unwrap_or(REQUEST / self.of.min_bytes.saturating_add(1));
                let cost = checked.max_cost(self.of).saturating_mul(times);
                self.charge("estimated rule cost", cost, at);
                self.validate_message();
            }
        }
        self.validate_old(uses_old);
    }

    fn compile(&self, field: &str, prefix: &str, wanted: &Type, mismatch: &str) -> Result<Checked, CelError> {
        let scope = scope_of_rule(self.of, self.rule["optionalOldSelf"] == true);
        match compile(text(&self.rule[field]), &scope) {
            Ok(checked) if checked.of() == wanted => Ok(checked),
            Ok(_) => Err(CelError::Compile(mismatch.to_owned())),
            Err(CelError::Instantiation(why)) if prefix.is_empty() => {
                Err(CelError::Compile(format!("program instantiation failed: {why}")))
            }
            Err(CelError::Instantiation(why)) => {
                Err(CelError::Compile(format!("{prefix}instantiation failed: {why}")))
            }
            Err(error) => Err(CelError::Compile(format!("{prefix}compilation failed: {error}"))),
        }
    }

    fn validate_message(&mut self) {
        if text(&self.rule["messageExpression"]).is_empty() {
            return;
        }
        let at = self.path.child("messageExpression");
        let mismatch = "messageExpression must evaluate to a string";
        match self.compile("messageExpression", "messageExpression ", &Type::String, mismatch) {
            Err(error) => self.errors.invalid(&at, self.rule, &error.to_string()),
            Ok(checked) => self.charge("estimated messageExpression cost", checked.max_cost(self.of), at),
        }
    }

    fn charge(&mut self, name: &str, cost: u64, at: Path) {
        if cost > MAX_EXPRESSION_COST {
            self.errors.forbidden(&at, &over_budget(name, cost, MAX_EXPRESSION_COST));
        }
        self.total.add(cost, at);
    }

    fn validate_old(&mut self, uses_old: bool) {
        match &self.context.uncorrelated {
            Some(from) if uses_old => {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {from}"
                );
                self.errors.invalid(&self.path.child("rule"), &self.rule["rule"], &why);
            }
            _ if !uses_old && !self.rule["optionalOldSelf"].is_null() => {
                let why = "may not be set if oldSelf is not used in rule";
                self.errors.invalid(&self.path.child("optionalOldSelf"), &self.rule["optionalOldSelf"], why);
            }
            _ => {}
        }
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
