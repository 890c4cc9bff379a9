//! What selectors ask of an object, in one small piece of memory: its labels and its selectable fields as text.

use serde_json::Value;

use super::pick::pick;

/// Where labels can be looked up.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

/// `metadata.labels`, or null.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// Labels and fields of an object; a server keeps one for each of very many. A field that is not there is empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked {
    /// Names and values in turn, each behind its length: first the labels, then the fields.
    bytes: Box<[u8]>,
    labels: u32,
}

const LABELS: &str = "metadata.labels";

impl Picked {
    /// Of an object in the field's dotted paths.
    pub fn of(fields: &[&str], object: &Value) -> Picked {
        let mut bytes = Vec::with_capacity(256);
        let mut labels = 0;
        for (key, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            if let Some(value) = value.as_str() {
                put(&mut bytes, key);
                put(&mut bytes, value);
                labels += 1;
            }
        }
        for field in fields {
            let text = shown(object, field);
            if !text.is_empty() {
                put(&mut bytes, field);
                put(&mut bytes, &text);
            }
        }
        Picked { bytes: bytes.into(), labels }
    }

    /// As [`Self::of`], from the object's JSON; bytes that are no object have nothing.
    pub fn read(fields: &[&str], json: &[u8]) -> Picked {
        Picked::of(fields, &pick(&[&[LABELS], fields].concat(), json))
    }

    pub fn field(&self, path: &str) -> &str {
        self.pairs().skip(self.labels as usize).find(|(name, _)| *name == path).map_or("", |(_, value)| value)
    }

    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().take(self.labels as usize)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || Some((take(&mut rest)?, take(&mut rest)?)))
    }
}

impl Labels for Picked {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// The field's value as text; absent is empty.
fn shown(object: &Value, field: &str) -> String {
    let mut at = object;
    for part in field.split('.') {
        at = &at[part];
    }
    match (at, field) {
        (Value::String(text), _) => text.clone(),
        (Value::Null, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        (Value::Null, "status.successful") => "0".to_owned(),
        (Value::Null, _) => String::new(),
        (other, _) => other.to_string(),
    }
}

/// One byte of length where that is enough, else a marker and four.
fn put(bytes: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length) if length < u8::MAX => bytes.push(length),
        _ => {
            bytes.push(u8::MAX);
            // A request is bounded far below.
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    bytes.extend_from_slice(text.as_bytes());
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (first, more) = rest.split_first()?;
    let (length, more) = match *first {
        u8::MAX => {
            let (length, more) = more.split_first_chunk()?;
            (u32::from_le_bytes(*length) as usize, more)
        }
        length => (usize::from(length), more),
    };
    let (text, more) = more.split_at_checked(length)?;
    *rest = more;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn labels_and_fields_are_told_apart_and_absent_ones_are_empty() {
        let object = json!({
            "metadata": {"name": "a", "labels": {"status.phase": "label", "odd": 1}},
            "status": {"phase": "Running", "count": 7},
        });
        let fields = ["metadata.name", "status.phase", "status.count", "spec.hostNetwork", "spec.nodeName"];
        for picked in [Picked::of(&fields, &object), Picked::read(&fields, object.to_string().as_bytes())] {
            assert_eq!(picked.label("status.phase"), Some("label"));
            assert_eq!(picked.label("odd"), None);
            assert_eq!(fields.map(|field| picked.field(field)), ["a", "Running", "7", "false", ""]);
            assert_eq!(picked.field("metadata.labels"), "");
        }
        assert_eq!(Picked::read(&["metadata.name"], b"nonsense"), Picked::default());
    }

    proptest! {
        #[test]
        fn any_text_is_kept(labels: Vec<(String, String)>, name in ".{0,600}") {
            let labels: Map<String, Value> = labels.into_iter().map(|(key, value)| (key, value.into())).collect();
            let object = json!({"metadata": {"name": name, "labels": labels}});
            let picked = Picked::of(&["metadata.name"], &object);
            prop_assert_eq!(picked.field("metadata.name"), name);
            let found: Map<String, Value> = picked.labels().map(|(key, value)| (key.to_owned(), value.into())).collect();
            prop_assert_eq!(found, labels);
        }
    }
}
