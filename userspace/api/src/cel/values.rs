//! Values of expressions. Lists and maps of JSON are read where they are: nothing is converted that no expression reads.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::budget::CelError;
use super::json::{JsonList, JsonMap};
use super::moment::Moment;
use super::types::Type;

/// Steps of one comparison: a shared value may occur in another exponentially often.
const MAX_COMPARED: u64 = 2_000_000;

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    Timestamp(Moment),
    /// In nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    /// The type of a value, by its name.
    Type(Arc<str>),
    Message(Arc<Message<'a>>),
    Library(Arc<dyn Opaque>),
}

/// The values of names.
pub type Bindings<'a> = BTreeMap<&'a str, Value<'a>>;

/// A value of a library, which only its functions read.
pub trait Opaque: Any + fmt::Debug + Send + Sync {
    fn type_name(&self) -> &'static str;
    fn equals(&self, other: &dyn Opaque) -> bool;
    fn as_any(&self) -> &dyn Any;
    /// The value of a field, if the type has fields.
    fn field(&self, _name: &str) -> Option<Value<'static>> {
        None
    }
}

/// A text of the JSON that is read, or of its own.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[derive(Clone, Debug)]
pub enum List<'a> {
    Owned(Arc<Vec<Value<'a>>>),
    Json(JsonList<'a>),
}

#[derive(Clone, Debug)]
pub enum Map<'a> {
    Owned(Arc<BTreeMap<Key, Value<'a>>>),
    Json(JsonMap<'a>),
    /// Values by name; reading one that failed is an error.
    Named(Arc<BTreeMap<String, Result<Value<'a>, CelError>>>),
}

/// The key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

impl Key {
    pub(super) fn of(value: &Value<'_>) -> Result<Key, CelError> {
        Ok(match value {
            Value::Bool(key) => Key::Bool(*key),
            Value::Int(key) => Key::Int(*key),
            Value::Uint(key) => Key::Uint(*key),
            Value::String(key) => Key::String(Arc::from(&**key)),
            other => {
                return Err(CelError::Evaluation(format!("unsupported key type: {}", other.type_name())));
            }
        })
    }

    pub(super) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(key) => Value::Bool(*key),
            Key::Int(key) => Value::Int(*key),
            Key::Uint(key) => Value::Uint(*key),
            Key::String(key) => Value::String(Text::Shared(key.clone())),
        }
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Owned(items) => items.len(),
            List::Json(list) => list.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, index: usize) -> Option<Result<Value<'a>, CelError>> {
        match self {
            List::Owned(items) => items.get(index).cloned().map(Ok),
            List::Json(list) => list.get(index),
        }
    }

    /// All items.
    pub fn items(&self) -> Result<Vec<Value<'a>>, CelError> {
        match self {
            List::Owned(items) => Ok(items.to_vec()),
            List::Json(list) => (0..list.len()).filter_map(|index| list.get(index)).collect(),
        }
    }
}

impl<'a> Map<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Map::Owned(entries) => entries.len(),
            Map::Json(map) => map.len(),
            Map::Named(entries) => entries.len(),
        }
    }

    pub(super) fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>, CelError>> {
        match (self, key) {
            (Map::Json(map), Value::String(key)) => map.get(key),
            (Map::Named(entries), Value::String(key)) => entries.get(&**key).cloned(),
            (Map::Json(_) | Map::Named(_), _) => None,
            (Map::Owned(entries), key) => {
                numeric_keys(key).find_map(|key| entries.get(&key).cloned().map(Ok))
            }
        }
    }

    /// All entries.
    pub fn entries(&self) -> Result<Vec<(Value<'a>, Value<'a>)>, CelError> {
        let keys = self.keys().into_iter().map(|key| key.value());
        keys.filter_map(|key| Some(self.get(&key)?.map(|value| (key, value)))).collect()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        match self {
            Map::Owned(entries) => entries.keys().cloned().collect(),
            Map::Json(map) => map.keys(),
            Map::Named(entries) => entries.keys().map(|name| Key::String(Arc::from(name.as_str()))).collect(),
        }
    }
}

/// The keys that equal a value: numbers are equal across types.
fn numeric_keys(value: &Value<'_>) -> impl Iterator<Item = Key> {
    let (int, uint) = match value {
        Value::Int(key) => (Some(*key), u64::try_from(*key).ok()),
        Value::Uint(key) => (i64::try_from(*key).ok(), Some(*key)),
        Value::Double(key) if key.fract() == 0.0 => {
            let int = (*key >= -9.2e18 && *key <= 9.2e18).then_some(*key as i64);
            (int, (*key >= 0.0 && *key <= 1.8e19).then_some(*key as u64))
        }
        _ => (None, None),
    };
    let plain = match value {
        Value::Bool(_) | Value::String(_) => Key::of(value).ok(),
        _ => None,
    };
    [int.map(Key::Int), uint.map(Key::Uint), plain].into_iter().flatten()
}

impl<'a> Value<'a> {
    pub(super) fn text(text: impl AsRef<str>) -> Value<'a> {
        Value::String(Text::Shared(Arc::from(text.as_ref())))
    }

    pub(super) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Arc::new(items)))
    }

    pub(super) fn map(entries: BTreeMap<Key, Value<'a>>) -> Value<'a> {
        Value::Map(Map::Owned(Arc::new(entries)))
    }

    pub(super) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub(super) fn library(value: impl Opaque) -> Value<'a> {
        Value::Library(Arc::new(value))
    }

    /// The value of a library's type.
    pub(super) fn as_library<T: Any>(&self) -> Option<&T> {
        match self {
            Value::Library(value) => value.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The name of its type, as `type()` returns it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => Type::Null.own_name(),
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Timestamp(_) => Type::Timestamp.own_name(),
            Value::Duration(_) => Type::Duration.own_name(),
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Message(message) => message.type_name(),
            Value::Library(value) => value.type_name(),
        }
    }

    /// Whether the value is of a type, without a look at its items.
    pub(super) fn is_of(&self, of: &Type) -> bool {
        match (of, self) {
            (Type::Dyn | Type::Variable(_), _)
            | (Type::Null, Value::Null)
            | (Type::Bool, Value::Bool(_))
            | (Type::Int, Value::Int(_))
            | (Type::Uint, Value::Uint(_))
            | (Type::Double, Value::Double(_))
            | (Type::String, Value::String(_))
            | (Type::Bytes, Value::Bytes(_))
            | (Type::Timestamp, Value::Timestamp(_))
            | (Type::Duration, Value::Duration(_))
            | (Type::List(_), Value::List(_))
            | (Type::Map(_) | Type::Object(_), Value::Map(_))
            | (Type::Optional(_), Value::Optional(_))
            | (Type::Type(_), Value::Type(_)) => true,
            (Type::Library(name), Value::Library(value)) => *name == value.type_name(),
            (Type::Message(name), Value::Message(message)) => **name == *message.type_name(),
            _ => false,
        }
    }

    /// The size in the cost model: characters of a text, items of a list, entries of a map; 1 for other values.
    pub(super) fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Optional(Some(inner)) => inner.size(),
            _ => 1,
        }
    }

    /// Whether values are equal; values of different types are not, but for numbers.
    pub(super) fn equals(&self, other: &Value<'_>) -> Result<bool, CelError> {
        let mut left = MAX_COMPARED;
        equal(self, other, &mut left)
    }

    /// The order of values of one type, or of numbers.
    pub(super) fn compare(&self, other: &Value<'_>) -> Result<Option<Ordering>, CelError> {
        Ok(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (a, b) => match numeric_order(a, b) {
                Some(order) => order,
                None => return no_overload(),
            },
        })
    }
}

/// Equality is the language's.
impl PartialEq for Value<'_> {
    fn eq(&self, other: &Value<'_>) -> bool {
        self.equals(other).unwrap_or(false)
    }
}

pub(super) fn failed<T>(why: impl Into<String>) -> Result<T, CelError> {
    Err(CelError::Evaluation(why.into()))
}

pub(super) fn no_overload<T>() -> Result<T, CelError> {
    failed("no such overload")
}

/// The order of two numbers; NaN has none.
fn numeric_order(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    Some(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Double(b)) => whole_to_double(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => whole_to_double(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => return None,
    })
}

fn whole_to_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    // The cast saturates, far beyond the whole numbers of the language.
    let whole = b.trunc() as i128;
    let fraction = if b.is_finite() { b.fract() } else { 0.0 };
    Some(a.cmp(&whole).then(0.0_f64.partial_cmp(&fraction).unwrap_or(Ordering::Equal)))
}

fn equal(a: &Value<'_>, b: &Value<'_>, left: &mut u64) -> Result<bool, CelError> {
    *left = left.checked_sub(1).ok_or(CelError::Budget)?;
    if let Some(order) = numeric_order(a, b) {
        return Ok(order == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::List(a), Value::List(b)) => return equal_lists(a, b, left),
        (Value::Map(a), Value::Map(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for key in a.keys() {
                let key = key.value();
                let (Some(one), Some(two)) = (a.get(&key), b.get(&key)) else { return Ok(false) };
                if !equal(&one?, &two?, left)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => return equal(a, b, left),
            (a, b) => a.is_none() && b.is_none(),
        },
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Message(a), Value::Message(b)) => {
            let (one, two) = (a.fields(), b.fields());
            if a.type_name() != b.type_name() || one.len() != two.len() {
                return Ok(false);
            }
            for ((name, a), (other, b)) in one.iter().zip(two) {
                if name != other || !equal(a, b, left)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Library(a), Value::Library(b)) => a.equals(&**b),
        _ => false,
    })
}

fn equal_lists(a: &List<'_>, b: &List<'_>, left: &mut u64) -> Result<bool, CelError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    // Sets and lists with keys have no order.
    let is_unordered = matches!(a, List::Json(list) if list.is_unordered());
    let (a, b) = (a.items()?, b.items()?);
    if !is_unordered {
        for (a, b) in a.iter().zip(&b) {
            if !equal(a, b, left)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for one in &a {
        let mut found = false;
        for other in &b {
            if equal(one, other, left)? {
                found = true;
                break;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) const OBJECT: &str = "Object";
pub(crate) const JSON_PATCH: &str = "JSONPatch";
/// Text fields of an operation; `value` may have any type.
pub(super) const TEXT_FIELDS: [&str; 3] = ["op", "path", "from"];

/// A value of a named type that mutations build. `Object` and its nested types are a Kubernetes object, checked against its
/// schema when it is used; `JSONPatch` is one operation of a JSON patch.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    type_name: Arc<str>,
    fields: BTreeMap<String, Value<'a>>,
}

impl<'a> Message<'a> {
    pub(super) fn new(
        type_name: &Arc<str>,
        fields: BTreeMap<String, Value<'a>>,
    ) -> Result<Message<'a>, CelError> {
        let failed = |why: String| Err(CelError::Evaluation(why));
        if **type_name == *JSON_PATCH {
            for (name, value) in &fields {
                match (TEXT_FIELDS.contains(&name.as_str()), value) {
                    (true, Value::String(_)) => {}
                    (true, _) => return failed(format!("unexpected type for JSONPatchType '{name}' field")),
                    (false, _) if name == "value" => {}
                    (false, _) => return failed(format!("unexpected JSONPatchType field: {name}")),
                }
            }
        }
        Ok(Message { type_name: type_name.clone(), fields })
    }

    /// The message in a value, if it is one.
    pub fn of<'v>(value: &'v Value<'a>) -> Option<&'v Message<'a>> {
        match value {
            Value::Message(message) => Some(message),
            _ => None,
        }
    }

    /// Whether it is a whole object.
    pub fn is_object(&self) -> bool {
        *self.type_name == *OBJECT
    }

    /// Whether it is an operation of a JSON patch.
    pub fn is_operation(&self) -> bool {
        *self.type_name == *JSON_PATCH
    }

    pub(crate) fn type_name(&self) -> &str {
        &self.type_name
    }

    pub(super) fn fields(&self) -> &BTreeMap<String, Value<'a>> {
        &self.fields
    }

    /// The value of a field. An unset text of an operation is empty.
    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        let unset =
            || (*self.type_name == *JSON_PATCH && TEXT_FIELDS.contains(&name)).then(|| Value::text(""));
        self.fields.get(name).cloned().or_else(unset)
    }
}
