//! Finds keys that occur twice in one mapping of a YAML text. In: the text, because the parsed value no longer shows them.
//! Out: goyaml's words, such as `line 9: key "foo" already set in map`.

use std::collections::HashSet;

use granit_parser::{Event, Parser};

/// More are not reported.
const MAX_REPORTED: usize = 100;

/// The keys of a text's first document that occur twice; none after a place that does not parse.
pub(crate) fn duplicate_keys(text: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(text) else { return Vec::new() };
    let mut walk = Walk::default();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        match event {
            Event::Scalar(value, ..) => walk.scalar(&value, span.start.line()),
            Event::Alias(_) => walk.node_ended(),
            Event::MappingStart(..) => walk.open.push(Some(Mapping::default())),
            Event::SequenceStart(..) => walk.open.push(None),
            Event::MappingEnd | Event::SequenceEnd => {
                walk.open.pop();
                walk.node_ended();
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    walk.found
}

/// The error of a strict reader about such keys.
pub(crate) fn unmarshal_errors(lines: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

#[derive(Default)]
struct Mapping {
    keys: HashSet<String>,
    /// The next node is a value.
    has_key: bool,
}

#[derive(Default)]
struct Walk {
    /// The collections around the next node, outermost first; `None` for a sequence.
    open: Vec<Option<Mapping>>,
    found: Vec<String>,
}

impl Walk {
    fn scalar(&mut self, value: &str, line: usize) {
        // `<<` merges another mapping.
        if let Some(Some(mapping)) = self.open.last_mut()
            && !mapping.has_key
            && value != "<<"
            && !mapping.keys.insert(value.to_owned())
            && self.found.len() < MAX_REPORTED
        {
            self.found.push(format!("line {line}: key {value:?} already set in map"));
        }
        self.node_ended();
    }

    fn node_ended(&mut self) {
        if let Some(Some(mapping)) = self.open.last_mut() {
            mapping.has_key = !mapping.has_key;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_occurs_twice_is_reported_with_its_line() {
        for (text, expected) in [
            ("\na: 1\nb: {c: 1, c: 2}\na: [{x: a}, {x: a}]\n", &["3: key \"c\"", "4: key \"a\""][..]),
            ("a: a\nb: a\nc: &l {a: 1}\nd: {<<: *l, a: 2}\n", &[]),
            ("{\"a\": 1,\n\"a\": 2}", &["2: key \"a\""]),
            ("? [a, a]\n: a\na: b\n---\na: 1\na: 2\n", &[]),
            ("a: 1\na: 2\n b: ]", &["2: key \"a\""]),
        ] {
            let expected: Vec<String> =
                expected.iter().map(|line| format!("line {line} already set in map")).collect();
            assert_eq!(duplicate_keys(text.as_bytes()), expected, "{text}");
        }
    }
}
