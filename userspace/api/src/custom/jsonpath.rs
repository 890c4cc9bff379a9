//! The JSONPath of definitions, for columns, selectable fields and scale: `.spec.a['b.c'][0].d`, `[*]`, and filters such as
//! `[?(@.type=="Ready")]`. `..` is not supported.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items whose value at a path compares to a constant; without a constant, items that have a value there.
    Filter {
        left: Vec<String>,
        operator: Operator,
        right: Option<Value>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Exists,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl JsonPath {
    /// Parses a path; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            rest = match rest.as_bytes()[0] {
                b'.' => name(&rest[1..], &mut steps)?,
                b'[' => {
                    let (inner, after) = bracket(&rest[1..])?;
                    steps.push(subscript(inner)?);
                    after
                }
                _ => return None,
            };
        }
        Some(JsonPath { steps })
    }

    /// The values at the path, in order.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found
    }

    /// The field names of a path without subscripts; `None` for any other path.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let mut names = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let Step::Field(name) = step else { return None };
            names.push(name.as_str());
        }
        Some(names)
    }
}

/// Parses a field's name up to the next step; `\.` is a dot within it. Returns the rest.
fn name<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    if text.is_empty() {
        return Some(text);
    }
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?.1),
            '.' | '[' => {
                if out.is_empty() && c == '.' {
                    return None;
                }
                push(out, steps);
                return Some(&text[at..]);
            }
            c => out.push(c),
        }
    }
    push(out, steps);
    Some("")
}

fn push(name: String, steps: &mut Vec<Step>) {
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
}

/// The text within a bracket and the text after it; quotes and inner brackets are skipped.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(c),
            ('[', None) => depth += 1,
            (']', None) if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            (']', None) => depth -= 1,
            _ => {}
        }
    }
    None
}

fn subscript(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return self::filter(filter.trim());
    }
    for quote in ['\'', '"'] {
        if let Some(name) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Some(Step::Field(name.to_owned()));
        }
    }
    text.parse().ok().map(Step::Index)
}

fn filter(text: &str) -> Option<Step> {
    let operators = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessEqual),
        (">=", Operator::GreaterEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let found = operators.iter().find_map(|(sign, operator)| {
        let (left, right) = text.split_once(sign)?;
        Some((left.trim(), *operator, Some(constant(right.trim())?)))
    });
    let (left, operator, right) = found.unwrap_or((text, Operator::Exists, None));
    let path = JsonPath::parse(left.strip_prefix('@')?)?;
    let left = path.fields()?.into_iter().map(str::to_owned).collect();
    Some(Step::Filter { left, operator, right })
}

fn constant(text: &str) -> Option<Value> {
    match text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => Some(inner.into()),
        None => serde_json::from_str(text).ok(),
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Step::Field(name), value) => value.get(name).into_iter().collect(),
            (Step::Index(at), Value::Array(items)) => {
                let at = if *at < 0 { items.len() as i64 + at } else { *at };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            (Step::All, Value::Array(items)) => items.iter().collect(),
            (Step::All, Value::Object(fields)) => fields.values().collect(),
            (Step::Filter { left, operator, right }, Value::Array(items)) => {
                items.iter().filter(|item| passes(item, left, *operator, right.as_ref())).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn passes(item: &Value, left: &[String], operator: Operator, right: Option<&Value>) -> bool {
    let found = left.iter().try_fold(item, |value, name| value.get(name));
    let (Some(found), Some(right)) = (found, right) else {
        return operator == Operator::Exists && found.is_some();
    };
    let order = match (found, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
    };
    match operator {
        Operator::Exists => true,
        Operator::Equal => order.is_some_and(|order| order.is_eq()),
        Operator::NotEqual => !order.is_some_and(|order| order.is_eq()),
        Operator::Less => order.is_some_and(|order| order.is_lt()),
        Operator::LessEqual => order.is_some_and(|order| order.is_le()),
        Operator::Greater => order.is_some_and(|order| order.is_gt()),
        Operator::GreaterEqual => order.is_some_and(|order| order.is_ge()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_their_values() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
            "spec": {"ports": [{"n": 1}, {"n": 2}, {"n": 3}]},
        });
        for (path, wanted) in [
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Other')].status", json!(["False"])),
            (".spec.ports[*].n", json!([1, 2, 3])),
            (".spec.ports[-1].n", json!([3])),
            (".spec.ports[?(@.n>1)].n", json!([2, 3])),
            (".metadata.annotations.a\\.b/c", json!(["x"])),
            (".metadata.annotations['a.b/c']", json!(["x"])),
            (".spec.nothing.at.all", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(json!(found.find(&object)), wanted, "{path}");
        }
        for bad in ["spec", ".a[", ".a[?(x)]", ".a..b"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
