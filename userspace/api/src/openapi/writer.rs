//! Writes a JSON object member by member.

use serde_json::Value;

pub(super) struct ObjectWriter(String);

impl ObjectWriter {
    pub(super) fn new() -> ObjectWriter {
        ObjectWriter("{".to_owned())
    }

    /// A member whose value is JSON text.
    pub(super) fn text(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&Value::from(name).to_string());
        self.0.push(':');
        self.0.push_str(json);
    }

    pub(super) fn value(&mut self, name: &str, value: &Value) {
        self.text(name, &value.to_string());
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_separated_and_names_quoted() {
        let mut inner = ObjectWriter::new();
        inner.value("a\"b", &Value::Null);
        inner.value("c", &Value::from(1));
        let mut outer = ObjectWriter::new();
        outer.text("inner", &inner.finish());
        assert_eq!(outer.finish(), r#"{"inner":{"a\"b":null,"c":1}}"#);
        assert_eq!(ObjectWriter::new().finish(), "{}");
    }
}
