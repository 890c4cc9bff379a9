//! Label selectors: `app=web,tier in (a,b),!x` and `{matchLabels, matchExpressions}`.

use serde_json::Value;

use super::{BadSelector, Labels};
use crate::names::{is_label_value, qualified_name_problem};

/// All requirements must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Values),
    NotIn(Values),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// Values of a requirement, sorted: a selector is evaluated for every object of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values(Vec<String>);

impl From<Vec<String>> for Values {
    fn from(mut values: Vec<String>) -> Values {
        values.sort_unstable();
        values.dedup();
        Values(values)
    }
}

impl Values {
    fn contains(&self, value: &str) -> bool {
        self.0.binary_search_by(|known| known.as_str().cmp(value)).is_ok()
    }
}

impl LabelSelector {
    /// Parses the text form of a query.
    pub fn parse(text: &str) -> Result<LabelSelector, BadSelector> {
        let mut requirements = Vec::new();
        for part in split_requirements(text) {
            requirements.push(parse_requirement(part.trim())?);
        }
        Ok(LabelSelector { requirements })
    }

    /// Parses the object form of a specification; `null` selects nothing and is `None`.
    pub fn from_object(selector: &Value) -> Result<Option<LabelSelector>, BadSelector> {
        if selector.is_null() {
            return Ok(None);
        }
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| BadSelector(format!("label {key} is not a string")))?;
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.to_owned()].into()),
            });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            requirements.push(parse_expression(expression)?);
        }
        Ok(Some(LabelSelector { requirements }))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        self.requirements.iter().all(|r| r.operator.matches(labels.label(&r.key)))
    }
}

impl Operator {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(than) => number().is_some_and(|n| n > *than),
            Operator::LessThan(than) => number().is_some_and(|n| n < *than),
        }
    }
}

fn parse_expression(expression: &Value) -> Result<Requirement, BadSelector> {
    let key = expression["key"].as_str().unwrap_or_default().to_owned();
    let values: Vec<String> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect();
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" if values.is_empty() => {
            return Err(BadSelector(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into(),
            ));
        }
        "In" => Operator::In(values.into()),
        "NotIn" => Operator::NotIn(values.into()),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            return Err(BadSelector(
                "values: Invalid value: values set must be empty for exists and does not exist".into(),
            ));
        }
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(BadSelector(format!("\"{other}\" is not a valid label selector operator"))),
    };
    check_key(&key)?;
    Ok(Requirement { key, operator })
}

/// Splits at commas outside parentheses.
fn split_requirements(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn parse_requirement(text: &str) -> Result<Requirement, BadSelector> {
    if let Some(key) = text.strip_prefix('!') {
        return new_requirement(key, Operator::DoesNotExist);
    }
    for (sign, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(sign) {
            let values = vec![checked_value(value)?];
            return new_requirement(
                key,
                if negative { Operator::NotIn(values.into()) } else { Operator::In(values.into()) },
            );
        }
    }
    for (sign, greater) in [('>', true), ('<', false)] {
        if let Some((key, value)) = text.split_once(sign) {
            let value = value.trim();
            let number = value.parse().map_err(|_| {
                BadSelector(format!("values[0][{}]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer", key.trim()))
            })?;
            return new_requirement(
                key,
                if greater { Operator::GreaterThan(number) } else { Operator::LessThan(number) },
            );
        }
    }
    let mut words = text.splitn(2, char::is_whitespace);
    let (key, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim());
    let unable = || {
        BadSelector(format!(
            "unable to parse requirement: found '{rest}', expected: in, notin, '=', '==', '!='"
        ))
    };
    if rest.is_empty() {
        return new_requirement(key, Operator::Exists);
    }
    let (negative, set) = match rest.strip_prefix("notin") {
        Some(set) => (true, set),
        None => (false, rest.strip_prefix("in").ok_or_else(unable)?),
    };
    let set = set.trim().strip_prefix('(').and_then(|set| set.strip_suffix(')')).ok_or_else(unable)?;
    let values: Vec<String> = set.split(',').map(checked_value).collect::<Result<_, _>>()?;
    new_requirement(key, if negative { Operator::NotIn(values.into()) } else { Operator::In(values.into()) })
}

fn new_requirement(key: &str, operator: Operator) -> Result<Requirement, BadSelector> {
    let key = key.trim().to_owned();
    check_key(&key)?;
    Ok(Requirement { key, operator })
}

fn check_key(key: &str) -> Result<(), BadSelector> {
    match qualified_name_problem(key) {
        Some(problem) => Err(BadSelector(format!("key: Invalid value: \"{key}\": {problem}"))),
        None => Ok(()),
    }
}

fn checked_value(value: &str) -> Result<String, BadSelector> {
    let value = value.trim();
    if !is_label_value(value) {
        return Err(BadSelector(format!(
            "values[0]: Invalid value: \"{value}\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
        )));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn text_and_object_select_the_same() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        for (text, object, wanted) in [
            ("app=web", json!({"matchLabels": {"app": "web"}}), true),
            (
                "app!=web",
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
                false,
            ),
            (
                "tier in (a, b)",
                json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}),
                true,
            ),
            (
                "!x,app",
                json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}, {"key": "app", "operator": "Exists"}]}),
                true,
            ),
            (
                "x notin (a)",
                json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["a"]}]}),
                true,
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), wanted, "{text}");
            assert_eq!(
                LabelSelector::from_object(&object).unwrap().unwrap().matches(&labels),
                wanted,
                "{object}"
            );
        }
        assert!(LabelSelector::parse("n>4").unwrap().matches(&labels));
        assert!(LabelSelector::parse("").unwrap().matches(&Value::Null));
        assert_eq!(LabelSelector::from_object(&Value::Null).unwrap(), None);
        for bad in ["a in b", "a b c", "=x", "a in (x", "a=b c"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,60}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
