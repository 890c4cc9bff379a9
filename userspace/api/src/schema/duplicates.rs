//! Finds fields that occur twice in one JSON object. In: the text, because the parsed value no longer shows them.

use std::fmt::Write as _;

use super::check::{MAX_PROBLEMS, shown};

/// Paths of the duplicate fields of a JSON text; empty for a text that does not parse.
pub fn duplicates(text: &[u8]) -> Vec<String> {
    let (mut path, mut found) = (String::new(), Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let seed = Visit { path: &mut path, found: &mut found };
    let _ = serde::de::DeserializeSeed::deserialize(seed, &mut deserializer);
    found
}

struct Visit<'a> {
    /// Of the value that is visited.
    path: &'a mut String,
    found: &'a mut Vec<String>,
}

impl<'de> serde::de::DeserializeSeed<'de> for Visit<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! ignore {
    ($($name:ident: $type:ty),+) => {$(
        fn $name<E>(self, _: $type) -> Result<(), E> {
            Ok(())
        }
    )+};
}

impl<'de> serde::de::Visitor<'de> for Visit<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    ignore!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for index in 0.. {
            let _ = write!(self.path, "[{index}]");
            let next = items.next_element_seed(Visit { path: self.path, found: self.found });
            self.path.truncate(length);
            if next?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = std::collections::HashSet::new();
        let length = self.path.len();
        while let Some(name) = fields.next_key::<String>()? {
            self.path.push_str(if length == 0 { "" } else { "." });
            self.path.push_str(&name);
            if !seen.insert(name) && self.found.len() < MAX_PROBLEMS {
                self.found.push(shown(self.path));
            }
            let next = fields.next_value_seed(Visit { path: self.path, found: self.found });
            self.path.truncate(length);
            next?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_occurs_twice_is_reported_by_path() {
        assert_eq!(duplicates(br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":1}]}"#), ["a.b", "c[0].d"]);
        assert!(duplicates(br#"{"a":{"b":1},"c":{"b":1}}"#).is_empty());
        assert!(duplicates(b"{").is_empty());
    }
}
