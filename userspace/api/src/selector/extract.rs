//! Extracts some fields from the JSON text of an object without building values for the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};

/// An object with only the fields at these dotted paths. Null if the bytes are no JSON object.
pub(super) fn extract(paths: &[&str], bytes: &[u8]) -> Value {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let found = Paths(paths.to_vec()).deserialize(&mut deserializer).unwrap_or_default();
    if deserializer.end().is_ok() { found } else { Value::Null }
}

/// The wanted paths below the value that is being read.
struct Paths<'p>(Vec<&'p str>);

impl<'p> Paths<'p> {
    /// The wanted paths below one of its fields; an empty path is the field itself.
    fn below(&self, field: &str) -> Paths<'p> {
        let rest = |path: &&'p str| match path.strip_prefix(field)? {
            "" => Some(""),
            rest => rest.strip_prefix('.'),
        };
        Paths(self.0.iter().filter_map(rest).collect())
    }
}

impl<'de> DeserializeSeed<'de> for Paths<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0.contains(&"") {
            Value::deserialize(deserializer)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

/// A field name, borrowed from the text unless it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Paths<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(Name(name)) = map.next_key()? {
            let below = self.below(&name);
            if below.0.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value_seed(below)?;
            out.insert(name.into_owned(), value);
        }
        Ok(Value::Object(out))
    }

    // A path continues below a value without fields: null.

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_named_fields_are_extracted() {
        let object = json!({
            "kind": "Pod", "metadata": {"name": "a", "labels": {"x.y": "1"}, "annotations": {"long": "text"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]}, "status": null, "type": [1, 2.5, true, "s"],
        });
        let paths = [
            "metadata.labels",
            "metadata.name",
            "spec.nodeName",
            "status.phase",
            "type.x",
            "spec.hostNetwork",
        ];
        let extracted = json!({
            "metadata": {"name": "a", "labels": {"x.y": "1"}}, "spec": {"nodeName": "n"}, "status": null, "type": null,
        });
        assert_eq!(extract(&paths, object.to_string().as_bytes()), extracted);
        assert_eq!(extract(&["a.b", "a"], br#"{"a":{"b":1,"c":2}}"#), json!({"a": {"b": 1, "c": 2}}));
        assert_eq!(extract(&["name"], br#"{"n\u0061me":"escaped","names":1}"#), json!({"name": "escaped"}));
    }

    #[test]
    fn bytes_that_are_no_object_have_no_fields() {
        for bytes in ["", "7", "null", "{\"metadata\":", "[{\"metadata\":{\"name\":1}}]", "\u{0}"] {
            assert_eq!(extract(&["metadata.name"], bytes.as_bytes()), Value::Null, "{bytes}");
        }
    }
}
