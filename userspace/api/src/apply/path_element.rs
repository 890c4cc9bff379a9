//! One step of a field path: a field, a list item by key, value or index (structured-merge-diff's `PathElement`).
//!
//! In: an element's text in `FieldsV1`, or a list item. Out: an element with upstream's order and its texts.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Why a text is no element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadElement {
    /// A form that a later version may know; the reader skips it.
    Unknown,
    Malformed,
}

#[derive(Clone, Debug)]
pub(super) enum PathElement {
    Field(String),
    /// The identifying fields of an item of a list of type `map`, sorted by name.
    Key(Vec<(String, Value)>),
    /// The value of an item of a list of type `set`.
    Value(Value),
    Index(i64),
}

impl PathElement {
    pub(super) fn field(name: &str) -> PathElement {
        PathElement::Field(name.to_owned())
    }

    /// The element of a list item that is identified by these fields.
    pub(super) fn key(mut fields: Vec<(String, Value)>) -> PathElement {
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        PathElement::Key(fields)
    }

    /// Reads an element as `FieldsV1` writes it: `f:spec`, `k:{"name":"web"}`, `v:"x"`, `i:0`.
    pub(super) fn parse(text: &str) -> Result<PathElement, BadElement> {
        let (form, rest) = text.split_once(':').ok_or(BadElement::Malformed)?;
        match form {
            "f" => Ok(PathElement::field(rest)),
            "k" => {
                let fields: Map<String, Value> =
                    serde_json::from_str(rest).map_err(|_| BadElement::Malformed)?;
                Ok(PathElement::key(fields.into_iter().collect()))
            }
            "v" => Ok(PathElement::Value(serde_json::from_str(rest).map_err(|_| BadElement::Malformed)?)),
            "i" => rest.parse().map(PathElement::Index).map_err(|_| BadElement::Malformed),
            _ if form.len() == 1 => Err(BadElement::Unknown),
            _ => Err(BadElement::Malformed),
        }
    }

    /// The text in `FieldsV1`.
    pub(super) fn text(&self) -> String {
        match self {
            PathElement::Field(name) => ["f:", name].concat(),
            PathElement::Key(fields) => {
                let mut out = String::from("k:{");
                for (i, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    out.push_str(&escape_html(value.to_string()));
                }
                out.push('}');
                out
            }
            PathElement::Value(value) => format!("v:{}", escape_html(value.to_string())),
            PathElement::Index(index) => format!("i:{index}"),
        }
    }
}

/// Escapes the characters of a JSON text that Go's encoder escapes for HTML.
pub(super) fn escape_html(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// The element in the notation of messages: `.spec`, `[name="web"]`, `[="x"]`, `[0]`.
impl std::fmt::Display for PathElement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(fields) => {
                let parts: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", parts.join(","))
            }
            PathElement::Value(value) => write!(f, "[={value}]"),
            PathElement::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &PathElement) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PathElement {}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &PathElement) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &PathElement) -> Ordering {
        match (self, other) {
            (PathElement::Field(a), PathElement::Field(b)) => a.cmp(b),
            (PathElement::Key(a), PathElement::Key(b)) => compare_keys(a, b),
            (PathElement::Value(a), PathElement::Value(b)) => compare_values(a, b),
            (PathElement::Index(a), PathElement::Index(b)) => a.cmp(b),
            (a, b) => form(a).cmp(&form(b)),
        }
    }
}

fn form(element: &PathElement) -> u8 {
    match element {
        PathElement::Field(_) => 0,
        PathElement::Key(_) => 1,
        PathElement::Value(_) => 2,
        PathElement::Index(_) => 3,
    }
}

/// Field by field, by name and then by value; a list that begins the other is the smaller one.
fn compare_keys(a: &[(String, Value)], b: &[(String, Value)]) -> Ordering {
    let both = a.iter().zip(b);
    both.map(|(a, b)| a.0.cmp(&b.0).then_with(|| compare_values(&a.1, &b.1)))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Upstream's order of all values: numbers by size, texts, booleans, lists, maps, null.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => {
                let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
                a.partial_cmp(&b).unwrap_or(Ordering::Equal)
            }
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let both = a.iter().zip(b);
            both.map(|(a, b)| compare_values(a, b))
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |map: &Map<String, Value>| {
                let mut fields: Vec<(String, Value)> =
                    map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                fields
            };
            compare_keys(&sorted(a), &sorted(b))
        }
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// Whether two values are the same to upstream: 1 and 1.0 are, null and an empty list are not.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        (Value::Number(_), Value::Number(_)) => compare_values(a, b).is_eq(),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_inverse_of_parse() {
        for text in [r#"f:a:b"#, r#"k:{"name":"x","port":80}"#, r#"v:"a""#, "v:1", "v:true", "i:3"] {
            assert_eq!(PathElement::parse(text).unwrap().text(), text);
        }
    }

    #[test]
    fn keys_are_equal_in_any_order_and_numbers_by_size() {
        let parse = |text: &str| PathElement::parse(text).unwrap();
        assert_eq!(parse(r#"k:{"b":1,"a":2}"#), parse(r#"k:{"a":2,"b":1.0}"#));
        let mut all: Vec<PathElement> =
            ["i:1", "v:10", "v:9", "v:\"1\"", r#"k:{"p":443}"#, r#"k:{"p":80}"#, "f:z", "f:a"]
                .map(parse)
                .into();
        all.sort();
        let sorted: Vec<String> = all.iter().map(PathElement::text).collect();
        assert_eq!(
            sorted,
            ["f:a", "f:z", r#"k:{"p":80}"#, r#"k:{"p":443}"#, "v:9", "v:10", "v:\"1\"", "i:1"]
        );
    }

    #[test]
    fn html_is_escaped_as_go_does() {
        assert_eq!(PathElement::Value("a<b&c".into()).text(), r#"v:"a\u003cb\u0026c""#);
    }

    #[test]
    fn malformed_elements_are_refused_and_unknown_ones_are_named() {
        for text in ["", "x", "k:1", "k:{", "i:a", "v:", "ff:a"] {
            assert_eq!(PathElement::parse(text).unwrap_err(), BadElement::Malformed, "{text}");
        }
        assert_eq!(PathElement::parse("z:1").unwrap_err(), BadElement::Unknown);
    }
}
