//! Decoding of lists and watches object by object: one that does not decode holds up no other. PURE.
//!
//! [`Decoded`] goes where the type of an item goes, in a list or in a watch event. It reads the item's JSON text first and
//! decodes that; a failure is a value with the item's identity, not the failure of the whole answer.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// An object, or what is known of one that does not decode.
#[derive(Clone, Debug)]
pub enum Decoded<K> {
    Object(K),
    Unreadable(Box<Unreadable>),
}

/// An object that its type cannot hold. A field of the identity is empty if the object does not have it as a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// Why it does not decode.
    pub error: String,
}

impl<K: DeserializeOwned> Decoded<K> {
    /// Decodes one object's JSON text.
    pub fn parse(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(object) => Decoded::Object(object),
            Err(error) => Decoded::Unreadable(Box::new(Unreadable::of(text, error.to_string()))),
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Decoded<K> {
    /// Works from JSON text only: the text of the item is what is decoded.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Decoded::parse(text.get()))
    }
}

impl Unreadable {
    fn of(text: &str, error: String) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| {
            let field = value.get("metadata").and_then(|meta| meta.get(name)).and_then(Value::as_str);
            field.unwrap_or_default().to_owned()
        };
        Unreadable {
            namespace: field("namespace"),
            name: field("name"),
            uid: field("uid"),
            resource_version: field("resourceVersion"),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Typed {
        count: i64,
    }

    #[derive(Debug, Deserialize)]
    struct List {
        items: Vec<Decoded<Typed>>,
    }

    #[test]
    fn one_item_that_does_not_decode_leaves_the_others() {
        let text = r#"{"kind": "L", "items": [
            {"count": 1},
            {"count": 2.5, "metadata": {"name": "b", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "generation": 1.0}},
            {"count": 3}]}"#;
        let list: List = serde_json::from_str(text).unwrap();
        let [Decoded::Object(first), Decoded::Unreadable(bad), Decoded::Object(last)] = list.items.as_slice()
        else {
            panic!("{list:?}");
        };
        assert_eq!((first.count, last.count), (1, 3));
        assert_eq!((&*bad.namespace, &*bad.name, &*bad.uid, &*bad.resource_version), ("n", "b", "u", "7"));
        assert!(bad.error.contains("floating point"), "{}", bad.error);
    }

    #[test]
    fn an_item_that_is_no_object_is_unreadable_and_has_no_name() {
        for text in ["null", "7", "[]", "{}"] {
            let Decoded::Unreadable(bad) = Decoded::<Typed>::parse(text) else { panic!("{text}") };
            assert_eq!(bad.name, "", "{text}");
        }
    }
}
