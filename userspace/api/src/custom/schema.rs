//! A structural schema (KEP-1979) and its rules, parsed once from `openAPIV3Schema`.

use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

use super::typed::declared;
use crate::cel::{CelError, Checked, Declared, Program, Scope, compile};
use crate::value::text;

/// The type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Shape {
    fn parse(text: &str) -> Shape {
        match text {
            "object" => Shape::Object,
            "array" => Shape::Array,
            "string" => Shape::String,
            "integer" => Shape::Integer,
            "number" => Shape::Number,
            "boolean" => Shape::Boolean,
            _ => Shape::Any,
        }
    }

    /// The name in the schema; empty for any type.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Any => "",
            Shape::Object => "object",
            Shape::Array => "array",
            Shape::String => "string",
            Shape::Integer => "integer",
            Shape::Number => "number",
            Shape::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// The schema of one value, or one branch of `allOf`, `anyOf`, `oneOf` or `not`.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    pub shape: Shape,
    pub nullable: bool,
    pub properties: Properties,
    /// The schema of entries that `properties` does not name.
    pub additional: Option<Box<Structural>>,
    /// `additionalProperties: true`.
    pub additional_allowed: bool,
    pub items: Option<Box<Structural>>,
    pub default: Option<Value>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    pub list_type: ListType,
    /// `x-kubernetes-list-map-keys`.
    pub list_keys: Box<[String]>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    pub checks: SharedChecks,
    pub rules: Rules,
    /// Whether this schema or one within it has rules.
    has_rules: bool,
}

/// The schemas of fields by name.
#[derive(Clone, Debug, Default)]
pub struct Properties(Box<[(String, Structural)]>);

impl Properties {
    pub fn get(&self, name: &str) -> Option<&Structural> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|(_, schema)| schema)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Structural)> {
        self.0.iter().map(|(name, schema)| (name, schema))
    }

    pub fn values(&self) -> impl Iterator<Item = &Structural> {
        self.0.iter().map(|(_, schema)| schema)
    }
}

impl FromIterator<(String, Structural)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, Structural)>>(fields: I) -> Properties {
        let mut fields: Vec<_> = fields.into_iter().collect();
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        Properties(fields.into())
    }
}

/// The value validations of a schema. Most schemas have none, and take no memory for them.
#[derive(Clone, Debug, Default)]
pub struct SharedChecks(Option<Arc<Checks>>);

impl Deref for SharedChecks {
    type Target = Checks;

    fn deref(&self) -> &Checks {
        static NONE: Checks = Checks::NONE;
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// The value validations of a schema.
#[derive(Clone, Debug)]
pub struct Checks {
    pub required: Vec<String>,
    pub format: String,
    pub pattern: Option<Arc<str>>,
    pub minimum: Option<Bound>,
    pub maximum: Option<Bound>,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    /// `enum`.
    pub values: Option<Vec<Value>>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

/// A minimum or maximum.
#[derive(Clone, Debug)]
pub struct Bound {
    pub value: serde_json::Number,
    pub exclusive: bool,
}

/// The `x-kubernetes-validations` of a place, compiled once.
#[derive(Clone, Debug, Default)]
pub struct Rules(Option<Arc<[Rule]>>);

#[derive(Debug)]
pub(crate) struct Rule {
    pub(super) source: String,
    pub(super) message: String,
    pub(super) reason: String,
    pub(super) field_path: String,
    pub(super) optional_old: bool,
    pub(super) uses_old: bool,
    pub(super) program: Result<Program, CelError>,
    pub(super) message_program: Option<Result<Program, CelError>>,
}

impl Structural {
    /// Parses a validated schema of a resource, and compiles its rules.
    pub fn parse(source: &Value) -> Structural {
        let mut schema = Structural::parse_shape(source);
        schema.compile_rules(source, true);
        schema
    }

    /// Parses a schema without its rules.
    pub(super) fn parse_shape(source: &Value) -> Structural {
        let one = |name: &str| {
            source.get(name).filter(|v| v.is_object()).map(|v| Box::new(Structural::parse_shape(v)))
        };
        let is = |name: &str| source[name] == true;
        let properties = source["properties"].as_object().into_iter().flatten();
        Structural {
            shape: Shape::parse(source["type"].as_str().unwrap_or_default()),
            nullable: is("nullable"),
            properties: properties
                .map(|(name, inner)| (name.clone(), Structural::parse_shape(inner)))
                .collect(),
            additional: one("additionalProperties"),
            additional_allowed: is("additionalProperties"),
            items: one("items"),
            default: source.get("default").filter(|value| !value.is_null()).cloned(),
            preserve: is("x-kubernetes-preserve-unknown-fields"),
            embedded: is("x-kubernetes-embedded-resource"),
            int_or_string: is("x-kubernetes-int-or-string"),
            list_type: match source["x-kubernetes-list-type"].as_str() {
                Some("map") => ListType::Map,
                Some("set") => ListType::Set,
                _ => ListType::Atomic,
            },
            list_keys: strings(&source["x-kubernetes-list-map-keys"]).into(),
            atomic_map: source["x-kubernetes-map-type"] == "atomic",
            checks: SharedChecks::parse(source),
            rules: Rules::default(),
            has_rules: false,
        }
    }

    fn compile_rules(&mut self, source: &Value, resource: bool) {
        let rules = source["x-kubernetes-validations"].as_array().map_or(&[][..], Vec::as_slice);
        if !rules.is_empty() {
            let of = declared(self, "selfType", resource);
            self.rules = Rules(Some(rules.iter().map(|rule| Rule::parse(rule, of.as_ref())).collect()));
        }
        self.has_rules = !self.rules.is_empty();
        for (name, inner) in &mut self.properties.0 {
            inner.compile_rules(&source["properties"][&**name], inner.embedded);
            self.has_rules |= inner.has_rules;
        }
        for (inner, name) in [(&mut self.items, "items"), (&mut self.additional, "additionalProperties")] {
            if let Some(inner) = inner.as_deref_mut() {
                inner.compile_rules(&source[name], inner.embedded);
                self.has_rules |= inner.has_rules;
            }
        }
    }

    /// Whether this schema or one within it has rules.
    pub fn has_rules(&self) -> bool {
        self.has_rules
    }

    /// The schema of a field or entry, if it has one.
    pub fn field(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name).or(self.additional.as_deref())
    }
}

impl SharedChecks {
    fn parse(source: &Value) -> SharedChecks {
        let has_any = source.as_object().is_some_and(|fields| fields.keys().any(|name| Checks::has(name)));
        SharedChecks(has_any.then(|| Arc::new(Checks::parse(source))))
    }
}

impl Checks {
    const NONE: Checks = Checks {
        required: Vec::new(),
        format: String::new(),
        pattern: None,
        minimum: None,
        maximum: None,
        multiple_of: None,
        min_length: None,
        max_length: None,
        min_items: None,
        max_items: None,
        unique_items: false,
        min_properties: None,
        max_properties: None,
        values: None,
        all_of: Vec::new(),
        any_of: Vec::new(),
        one_of: Vec::new(),
        not: None,
    };

    /// Whether a field of a schema is a value validation.
    fn has(field: &str) -> bool {
        let others =
            ["type", "description", "properties", "items", "additionalProperties", "default", "nullable"];
        !others.contains(&field) && !field.starts_with("x-")
    }

    fn parse(source: &Value) -> Checks {
        let number = |name: &str| source[name].as_u64();
        let branches = |name: &str| {
            source[name].as_array().into_iter().flatten().map(Structural::parse_shape).collect::<Vec<_>>()
        };
        let bound = |name: &str, exclusive: &str| {
            let value = source[name].as_number()?.clone();
            Some(Bound { value, exclusive: source[exclusive] == true })
        };
        let pattern = source["pattern"].as_str().filter(|pattern| !pattern.is_empty());
        Checks {
            required: strings(&source["required"]),
            format: source["format"].as_str().unwrap_or_default().to_owned(),
            pattern: pattern.map(Arc::from),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: source["multipleOf"].as_f64().filter(|factor| *factor > 0.0),
            min_length: number("minLength"),
            max_length: number("maxLength"),
            min_items: number("minItems"),
            max_items: number("maxItems"),
            unique_items: source["uniqueItems"] == true,
            min_properties: number("minProperties"),
            max_properties: number("maxProperties"),
            values: source["enum"].as_array().cloned(),
            all_of: branches("allOf"),
            any_of: branches("anyOf"),
            one_of: branches("oneOf"),
            not: source
                .get("not")
                .filter(|not| not.is_object())
                .map(|not| Box::new(Structural::parse_shape(not))),
        }
    }
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().flat_map(|rules| rules.iter())
    }
}

/// The scope of a rule on values of a type.
pub(super) fn scope_of_rule(of: &Declared, optional_old: bool) -> Scope<'_> {
    let scope = Scope::new().with_borrowed("self", of);
    if optional_old {
        scope.with("oldSelf", of.clone().optional())
    } else {
        scope.with_borrowed("oldSelf", of)
    }
}

impl Rule {
    /// Compiles a rule on values of a type; `None` for values that expressions do not see.
    fn parse(rule: &Value, of: Option<&Declared>) -> Rule {
        let optional_old = rule["optionalOldSelf"] == true;
        let compiled = |source: &str| match of {
            Some(of) => compile(source, &scope_of_rule(of, optional_old)),
            None => Err(CelError::Compile("the value has no type".to_owned())),
        };
        let program = compiled(text(&rule["rule"]));
        let message = text(&rule["messageExpression"]);
        Rule {
            source: text(&rule["rule"]).to_owned(),
            message: text(&rule["message"]).trim().to_owned(),
            message_program: (!message.trim().is_empty())
                .then(|| compiled(message).map(Checked::into_program)),
            reason: text(&rule["reason"]).to_owned(),
            field_path: text(&rule["fieldPath"]).to_owned(),
            optional_old,
            uses_old: program.as_ref().is_ok_and(|program| program.refers_to("oldSelf")),
            program: program.map(Checked::into_program),
        }
    }

    /// How messages name the rule.
    pub(super) fn shown(&self) -> &str {
        if self.message.is_empty() { self.source.trim() } else { &self.message }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}
