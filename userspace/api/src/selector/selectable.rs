//! The parts of an object that selectors read, in one allocation: its labels, and its selectable fields as text.

use serde_json::Value;

use super::extract::extract;

/// A set of labels.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

/// `metadata.labels`, or null.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// The labels and selectable fields of an object. Compact, because a server keeps one for each object. An absent field is
/// empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectable {
    /// Names and values in turn, each after its length: first the labels, then the fields.
    bytes: Box<[u8]>,
    /// Number of labels.
    labels: u32,
}

const LABELS: &str = "metadata.labels";

impl Selectable {
    /// The labels of an object and its fields at these dotted paths.
    pub fn of<'a>(fields: impl Iterator<Item = &'a str>, object: &Value) -> Selectable {
        let mut bytes = Vec::with_capacity(256);
        let mut labels = 0;
        for (key, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
            if let Some(value) = value.as_str() {
                write_text(&mut bytes, key);
                write_text(&mut bytes, value);
                labels += 1;
            }
        }
        for field in fields {
            let text = field_text(object, field);
            if !text.is_empty() {
                write_text(&mut bytes, field);
                write_text(&mut bytes, &text);
            }
        }
        Selectable { bytes: bytes.into(), labels }
    }

    /// Like [`Self::of`], from the object's JSON; `None` if the bytes are no JSON object.
    pub fn read<'a>(fields: impl Iterator<Item = &'a str> + Clone, json: &[u8]) -> Option<Selectable> {
        let paths: Vec<&str> = std::iter::once(LABELS).chain(fields.clone()).collect();
        let found = extract(&paths, json);
        found.is_object().then(|| Selectable::of(fields, &found))
    }

    /// A field by its dotted path; empty if absent.
    pub fn field(&self, path: &str) -> &str {
        self.pairs().skip(self.labels as usize).find(|(name, _)| *name == path).map_or("", |(_, value)| value)
    }

    /// Names and values of the labels.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().take(self.labels as usize)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || Some((read_text(&mut rest)?, read_text(&mut rest)?)))
    }
}

impl Labels for Selectable {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// The value of a field as text; empty if absent.
fn field_text(object: &Value, field: &str) -> String {
    let mut at = object;
    for part in field.split('.') {
        at = &at[part];
    }
    match (at, field) {
        (Value::String(text), _) => text.clone(),
        (Value::Null, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        (Value::Null, "status.successful") => "0".to_owned(),
        // An Event's: newer clients say the reporting component instead.
        (Value::Null | Value::Object(_), "source") => {
            let component = at["component"].as_str().filter(|component| !component.is_empty());
            component.or(object["reportingComponent"].as_str()).unwrap_or_default().to_owned()
        }
        (Value::Null, _) => String::new(),
        (other, _) => other.to_string(),
    }
}

/// The length in one byte if it fits, else a marker and four bytes; then the text.
fn write_text(bytes: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length) if length < u8::MAX => bytes.push(length),
        _ => {
            bytes.push(u8::MAX);
            // The size limit of a request is far below 4 GiB.
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    bytes.extend_from_slice(text.as_bytes());
}

fn read_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
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
    fn labels_and_fields_do_not_mix_and_absent_ones_are_empty() {
        let object = json!({
            "metadata": {"name": "a", "labels": {"status.phase": "label", "odd": 1}},
            "status": {"phase": "Running", "count": 7},
        });
        let fields = ["metadata.name", "status.phase", "status.count", "spec.hostNetwork", "spec.nodeName"];
        for selectable in [
            Selectable::of(fields.into_iter(), &object),
            Selectable::read(fields.into_iter(), object.to_string().as_bytes()).unwrap(),
        ] {
            assert_eq!(selectable.label("status.phase"), Some("label"));
            assert_eq!(selectable.label("odd"), None);
            assert_eq!(fields.map(|field| selectable.field(field)), ["a", "Running", "7", "false", ""]);
            assert_eq!(selectable.field("metadata.labels"), "");
        }
        assert_eq!(Selectable::read(["metadata.name"].into_iter(), b"nonsense"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_kept(labels: Vec<(String, String)>, name in ".{0,600}") {
            let labels: Map<String, Value> = labels.into_iter().map(|(key, value)| (key, value.into())).collect();
            let object = json!({"metadata": {"name": name, "labels": labels}});
            let selectable = Selectable::of(["metadata.name"].into_iter(), &object);
            prop_assert_eq!(selectable.field("metadata.name"), name);
            let found: Map<String, Value> = selectable.labels().map(|(key, value)| (key.to_owned(), value.into())).collect();
            prop_assert_eq!(found, labels);
        }
    }
}
