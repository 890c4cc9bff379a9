//! The spec of a SubjectAccessReview for a request. PURE.

use serde_json::{Map, Value, json};

use crate::authz::Attributes;

/// As a webhook gets it, in one of its versions: without what is empty.
pub(super) fn of(attributes: &Attributes<'_>, version: &str) -> Value {
    let mut spec = Map::new();
    if attributes.path.is_empty() {
        let mut resource: Map<String, Value> = names(attributes)
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        resource.extend(selectors(attributes));
        spec.insert("resourceAttributes".to_owned(), resource.into());
    } else {
        spec.insert("nonResourceAttributes".to_owned(), path(attributes));
    }
    let groups = if version == "v1beta1" { "group" } else { "groups" };
    let user = [
        ("user", Value::from(attributes.user)),
        (groups, json!(attributes.groups)),
        ("extra", json!(attributes.extra)),
        ("uid", attributes.uid.into()),
    ];
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    spec.extend(
        user.into_iter().filter(|(_, value)| !is_empty(value)).map(|(name, value)| (name.to_owned(), value)),
    );
    Value::Object(spec)
}

/// As match conditions read it: all fields of text, also empty ones.
pub(super) fn for_conditions(attributes: &Attributes<'_>) -> Value {
    let mut spec = json!({
        "user": attributes.user,
        "groups": attributes.groups,
        "uid": attributes.uid,
        "extra": attributes.extra.map_or_else(|| json!({}), |extra| json!(extra)),
    });
    if attributes.path.is_empty() {
        let mut resource: Map<String, Value> =
            names(attributes).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        resource.extend(selectors(attributes));
        spec["resourceAttributes"] = resource.into();
    } else {
        spec["nonResourceAttributes"] = path(attributes);
    }
    spec
}

/// Bytes of what the requester decides.
pub(super) fn size(attributes: &Attributes<'_>) -> usize {
    let names = names(attributes).iter().map(|(_, value)| value.len()).sum::<usize>();
    names + attributes.path.len() + attributes.field_selector.len() + attributes.label_selector.len()
}

fn names<'a>(attributes: &Attributes<'a>) -> [(&'static str, &'a str); 7] {
    [
        ("namespace", attributes.namespace),
        ("verb", attributes.verb),
        ("group", attributes.group),
        ("version", attributes.version),
        ("resource", attributes.resource),
        ("subresource", attributes.subresource),
        ("name", attributes.name),
    ]
}

fn path(attributes: &Attributes<'_>) -> Value {
    let path = if attributes.path == Attributes::NO_PATH { "" } else { attributes.path };
    json!({"path": path, "verb": attributes.verb})
}

/// The requirements of selectors. One that is not understood is left out: a selector only narrows what is asked for.
fn selectors(attributes: &Attributes<'_>) -> impl Iterator<Item = (String, Value)> {
    let all = [
        ("fieldSelector", requirements(attributes.field_selector)),
        ("labelSelector", requirements(attributes.label_selector)),
    ];
    let some = all.into_iter().filter(|(_, requirements)| !requirements.is_empty());
    some.map(|(name, requirements)| (name.to_owned(), json!({"requirements": requirements})))
}

/// The requirements of equality and of sets in a selector.
fn requirements(selector: &str) -> Vec<Value> {
    terms(selector).into_iter().filter_map(requirement).collect()
}

/// The terms of a selector: commas in parentheses and escaped ones separate none.
fn terms(selector: &str) -> Vec<&str> {
    let (mut terms, mut start, mut depth, mut escaped) = (Vec::new(), 0, 0_usize, false);
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms.into_iter().map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn requirement(term: &str) -> Option<Value> {
    let json = |key: &str, operator: &str, values: Vec<&str>| {
        let key = key.trim();
        // A key that is no name is of a form that is not understood.
        let is_name =
            !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "\\!()<>=,".contains(c));
        let mut found = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            found["values"] = json!(values);
        }
        is_name.then_some(found)
    };
    let set = |separator: &str| {
        let (key, values) = term.split_once(separator)?;
        let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some((key, values.split(',').map(str::trim).collect::<Vec<_>>()))
    };
    if let Some((key, values)) = set(" notin ") {
        return json(key, "NotIn", values);
    }
    if let Some((key, values)) = set(" in ") {
        return json(key, "In", values);
    }
    if term.contains('\\') {
        return None;
    }
    if let Some((key, value)) = term.split_once("!=") {
        return json(key, "NotIn", vec![value.trim()]);
    }
    if let Some((key, value)) = term.split_once('=') {
        return json(key, "In", vec![value.trim_start_matches('=').trim()]);
    }
    match term.strip_prefix('!') {
        Some(key) => json(key, "DoesNotExist", Vec::new()),
        None => json(term, "Exists", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_becomes_its_requirements() {
        for (selector, wanted) in [
            ("", json!([])),
            ("spec.nodeName=a", json!([{"key": "spec.nodeName", "operator": "In", "values": ["a"]}])),
            (
                "a==b,c!=d",
                json!([
                    {"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "NotIn", "values": ["d"]},
                ]),
            ),
            (
                "a in (b, c),d notin (e)",
                json!([
                    {"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "NotIn", "values": ["e"]},
                ]),
            ),
            ("a,!b", json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "DoesNotExist"}])),
            ("a=b\\,c", json!([])),
            ("a>1,b=c", json!([{"key": "b", "operator": "In", "values": ["c"]}])),
            ("a=b in (c)", json!([])),
        ] {
            assert_eq!(json!(requirements(selector)), wanted, "{selector}");
        }
    }
}
