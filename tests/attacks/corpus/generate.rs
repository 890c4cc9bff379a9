//! Objects of a schema with hostile values. Deterministic: one seed gives one object.

use serde_json::{Map, Value, json};

use super::schema::{Collection, Schemas};

/// Deeper objects are cut off: the schemas of CustomResourceDefinitions refer to themselves.
const MAX_DEPTH: usize = 9;

/// A xorshift generator (Marsaglia 2003).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or_default()
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// An object that most validation takes, with one hostile value in `hostility` fields.
pub(super) fn object(
    schemas: &Schemas<'_>,
    collection: &Collection,
    name: &str,
    hostility: usize,
    random: &mut Random,
) -> Value {
    let mut generator = Generator { schemas, random, hostility };
    let mut object = generator.value(schemas.definition(&collection.definition), 0, "");
    if object.is_object() {
        object["apiVersion"] = collection.api_version().into();
        object["kind"] = collection.kind.as_str().into();
        let mut metadata = json!({"name": name});
        if generator.random.one_in(8) {
            metadata["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "probe", "uid": "x"}]);
        }
        object["metadata"] = metadata;
    }
    object
}

struct Generator<'s, 'r> {
    schemas: &'s Schemas<'s>,
    random: &'r mut Random,
    /// One in this number of fields is hostile; 0 for none.
    hostility: usize,
}

impl<'s> Generator<'s, '_> {
    fn value(&mut self, schema: &'s Value, depth: usize, field: &str) -> Value {
        let schema = self.schemas.resolve(schema);
        if self.hostility > 0 && depth > 0 && self.random.one_in(self.hostility) {
            return hostile(self.random);
        }
        match schema["type"].as_str() {
            Some("object") => self.fields(schema, depth),
            Some("array") => {
                let length = if depth > MAX_DEPTH { 0 } else { 1 + self.random.below(2) };
                (0..length).map(|_| self.value(&schema["items"], depth + 1, field)).collect()
            }
            Some("integer" | "number") => number(self.random),
            Some("boolean") => self.random.one_in(2).into(),
            Some("string") => self.string(schema, field),
            _ => Value::Null,
        }
    }

    fn fields(&mut self, schema: &'s Value, depth: usize) -> Value {
        let mut out = Map::new();
        if depth > MAX_DEPTH {
            return Value::Object(out);
        }
        let required = |name: &str| {
            schema["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name))
        };
        for (name, of) in schema["properties"].as_object().into_iter().flatten() {
            let wanted = required(name) || depth < 1 || self.random.one_in(3);
            if wanted && !["metadata", "apiVersion", "kind"].contains(&name.as_str()) {
                out.insert(name.clone(), self.value(of, depth + 1, name));
            }
        }
        if schema["additionalProperties"].is_object() {
            out.insert("a".to_owned(), self.value(&schema["additionalProperties"], depth + 1, "a"));
        }
        Value::Object(out)
    }

    fn string(&mut self, schema: &Value, field: &str) -> Value {
        let values: Vec<&Value> = schema["enum"].as_array().into_iter().flatten().collect();
        if !values.is_empty() {
            return (*self.random.pick(&values)).clone();
        }
        match schema["format"].as_str() {
            Some("date-time") => self.random.pick(&TIMES).to_owned().into(),
            Some("byte") => "YQ==".into(),
            Some("int-or-string") => number(self.random),
            _ if field.to_lowercase().ends_with("name") => "a".into(),
            _ => self.random.pick(&STRINGS).to_owned().into(),
        }
    }
}

const TIMES: [&str; 5] = [
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "2026-01-01T00:00:00.000001Z",
    "9999-12-30T22:00:00-02:00",
];
const STRINGS: [&str; 12] = [
    "a",
    "",
    "1",
    "1Gi",
    "*",
    "/",
    "../../../../etc/passwd",
    "Always",
    "10.0.0.1",
    "127.0.0.1",
    "\u{0}\u{202e}",
    "99999E18",
];

fn number(random: &mut Random) -> Value {
    let numbers = [
        json!(1),
        json!(0),
        json!(-1),
        json!(i32::MAX),
        json!(i32::MIN),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(300_000_000_000_i64),
        json!(65_536),
        json!(3),
    ];
    random.pick(&numbers).clone()
}

/// A value of any type.
fn hostile(random: &mut Random) -> Value {
    match random.below(16) {
        0 => Value::Null,
        1 => json!(2.0),
        2 => json!(1e300),
        3 => json!(u64::MAX),
        4 => json!("x".repeat(70_000)),
        5 => nested(json!(1), 100),
        6 => Value::Array(vec![json!({}); 20_000]),
        7 => json!({}),
        8 => json!([]),
        9 => json!("YQ ==\n"),
        10 => json!([null, null]),
        11 => json!({"": ""}),
        12 => json!("not-a-time"),
        13 => json!(true),
        14 => json!({"matchLabels": {"a": null}, "matchExpressions": [{"operator": "?"}]}),
        _ => number(random),
    }
}

pub(super) fn nested(inner: Value, depth: usize) -> Value {
    (0..depth).fold(inner, |value, _| json!({"a": value}))
}
