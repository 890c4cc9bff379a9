//! Objects by the schema facts, with hostile values here and there.

use serde_json::{Map, Value, json};
use skep_api::schema::{Field, Scalar, Shape, Type, named};

/// Levels of generated structs, lists and maps.
const MAX_DEPTH: usize = 9;

/// A source of choices that a seed determines (SplitMix64).
pub(crate) struct Choices(pub(crate) u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of(&mut self, values: &[Value]) -> Value {
        values[self.below(values.len())].clone()
    }
}

/// An object of the type. About one value in `sanity` is any nasty value, whatever its type.
pub(crate) fn object(schema: &'static Type, choices: &mut Choices, sanity: usize) -> Value {
    fields(schema, choices, sanity, MAX_DEPTH)
}

fn fields(schema: &'static Type, choices: &mut Choices, sanity: usize, depth: usize) -> Value {
    let mut out = Map::new();
    // Large types would be all there is of an object.
    let sparse = if schema.fields.len() > 12 { 6 } else { 2 };
    for field in &schema.fields {
        if is_required_time(field) {
            // No zero stands for it: validation reports one that is missing.
            out.insert(field.name.to_owned(), json!("2026-01-02T03:04:05.123456Z"));
        } else if choices.once_in(sparse) {
            out.insert(field.name.to_owned(), value(field.shape, choices, sanity, depth));
        }
    }
    Value::Object(out)
}

fn is_required_time(field: &Field) -> bool {
    field.required && matches!(field.shape, Shape::Type(name) if name.ends_with("Time"))
}

fn value(shape: Shape, choices: &mut Choices, sanity: usize, depth: usize) -> Value {
    if choices.once_in(sanity) {
        return nasty(choices);
    }
    let Some(depth) = depth.checked_sub(1) else { return Value::Null };
    match shape {
        Shape::Type(name) => match named(name) {
            Some(Type { shape: Some(_), .. }) if name.contains("JSONSchemaPropsOr") => choices.of(&[
                json!({"type": "string"}),
                json!([{}]),
                json!(["a"]),
                json!(true),
                json!(null),
                json!([null]),
            ]),
            Some(Type { shape: Some(shape), .. }) => value(*shape, choices, sanity, depth),
            Some(schema) => fields(schema, choices, sanity, depth),
            None => Value::Null,
        },
        Shape::List(inner) => {
            let length = choices.below(3);
            (0..length).map(|_| value(Shape::of(inner), choices, sanity, depth)).collect()
        }
        Shape::Map(inner) => {
            let keys = ["a", "b.c/d", ""];
            let length = choices.below(3);
            let entries = keys.iter().take(length);
            entries
                .map(|key| ((*key).to_owned(), value(Shape::of(inner), choices, sanity, depth)))
                .collect::<Map<_, _>>()
                .into()
        }
        Shape::Scalar(scalar) => self::scalar(scalar, choices),
    }
}

/// A value of the type in one of its forms.
fn scalar(scalar: Scalar, choices: &mut Choices) -> Value {
    match scalar {
        Scalar::String => {
            choices.of(&[json!(""), json!("a"), json!("\u{0}"), json!("5"), json!("x".repeat(70))])
        }
        Scalar::Int32 => choices.of(&[json!(0), json!(-1), json!(i32::MAX), json!(i32::MIN), json!(-0.0)]),
        Scalar::Int64 => choices.of(&[json!(0), json!(1), json!(i64::MAX), json!(i64::MIN), json!(-0.0)]),
        Scalar::Number => choices.of(&[json!(0), json!(1.5), json!(1e300), json!(u64::MAX)]),
        Scalar::Boolean => choices.of(&[json!(true), json!(false)]),
        Scalar::Time => choices.of(&[
            json!("2026-01-02T03:04:05Z"),
            json!("2026-01-02T03:04:05.123456Z"),
            json!("2026-01-02T03:04:05.123456+14:00"),
            json!("0001-01-01T00:00:00Z"),
            json!("9999-12-30T00:00:00.000000Z"),
        ]),
        Scalar::Base64 => choices.of(&[json!(""), json!("QQ=="), json!("QUJD\nQUJD\r\n"), json!("QR==")]),
        Scalar::Quantity => {
            choices.of(&[json!("1"), json!("1.5Gi"), json!(2), json!(0.5), json!(" 3 "), json!("1e3")])
        }
        Scalar::IntOrString => choices.of(&[json!(80), json!("80%"), json!(i32::MAX), json!("")]),
        Scalar::Object => json!({"any": [1.5, null, {"deep": u64::MAX}]}),
        Scalar::Any => choices.of(&[json!(null), json!(1e300), json!([null]), json!({"a": null})]),
    }
}

/// A value that many decoders refuse, or read in another way than the next one.
fn nasty(choices: &mut Choices) -> Value {
    choices.of(&[
        json!(null),
        json!(2.0),
        json!(30.5),
        json!(-0.0),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(i64::from(i32::MAX) + 1),
        json!(true),
        json!(""),
        json!(" "),
        json!("Q Q=="),
        json!("QQ==\t"),
        json!("QQ"),
        json!("2026-01-02"),
        json!("2026-01-02 03:04:05Z"),
        json!("2026-01-02t03:04:05z"),
        json!("20260102T030405Z"),
        json!("2026-01-02T03:04:60Z"),
        json!("2026-01-02T03:04:05Z[UTC]"),
        json!("9999-12-31T23:59:59Z"),
        json!("0000-01-01T00:00:00+23:59"),
        json!("0000-01-01T00:00:00-23:59"),
        json!("2026-01-02T03:04:05,5Z"),
        json!("2026-01-02T03:04:05.1234567891234Z"),
        json!("-1"),
        json!([]),
        json!([null]),
        json!([[]]),
        json!({}),
        json!({"": null}),
        json!({"a": null}),
        json!({"a": [null]}),
        json!({"a": {"a": 1.0}}),
    ])
}
