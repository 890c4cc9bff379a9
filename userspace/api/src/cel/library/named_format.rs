//! Named formats of texts: `format.dns1123Label().validate(text)`.

use std::any::Any;

use base64::Engine as _;

use super::args::{library, text};
use super::url;
use crate::cel::budget::CelError;
use crate::cel::functions::{Implementation, Table};
use crate::cel::moment::Moment;
use crate::cel::types::Type;
use crate::cel::values::{Opaque, Value, no_overload};
use crate::names::{NameForm, name_problem};

pub(in crate::cel) const FORMAT: &str = "kubernetes.NamedFormat";

/// A format and the size of its regular expression, which the cost of a check depends on.
#[derive(Debug)]
pub struct NamedFormat {
    pub name: &'static str,
    pub regex_size: u64,
    problem: fn(&str) -> Option<String>,
}

impl PartialEq for NamedFormat {
    fn eq(&self, other: &NamedFormat) -> bool {
        self.name == other.name
    }
}

impl Opaque for &'static NamedFormat {
    fn type_name(&self) -> &'static str {
        FORMAT
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

macro_rules! formats {
    ($(($name:literal, $size:expr, $problem:expr)),* $(,)?) => {
        static FORMATS: &[NamedFormat] =
            &[$(NamedFormat { name: $name, regex_size: $size, problem: $problem }),*];
        /// The function of each format.
        const FUNCTIONS: &[(&str, &str, Implementation)] =
            &[$(($name, concat!("format.", $name), |_| named($name))),*];
    };
}

formats! {
    ("dns1123Label", 30, |text| of_form(text, NameForm::Label)),
    ("dns1123Subdomain", 60, |text| of_form(text, NameForm::Subdomain)),
    ("dns1035Label", 30, |text| of_form(text, NameForm::Label1035)),
    ("qualifiedName", 60, |text| of_form(text, NameForm::LabelKey)),
    ("dns1123LabelPrefix", 30, |text| of_form(&masked(text), NameForm::Label)),
    ("dns1123SubdomainPrefix", 60, |text| of_form(&masked(text), NameForm::Subdomain)),
    ("dns1035LabelPrefix", 30, |text| of_form(&masked(text), NameForm::Label1035)),
    ("labelValue", 40, |text| of_form(text, NameForm::LabelValue)),
    ("uri", 1_103, |text| url::Url::parse(text).err().map(|error| error.to_string())),
    ("uuid", 71, |text| (!is_uuid(text)).then(|| "does not match the UUID format".to_owned())),
    ("byte", 84, |text| {
        let is_valid = base64::engine::general_purpose::STANDARD.decode(text).is_ok();
        (!is_valid).then(|| "invalid base64".to_owned())
    }),
    ("date", 71, |text| {
        let is_valid = text.len() == 10 && Moment::parse(&format!("{text}T00:00:00Z")).is_some();
        (!is_valid).then(|| "invalid date".to_owned())
    }),
    ("datetime", 71, |text| {
        let is_valid = Moment::parse(&text.to_ascii_uppercase()).is_some();
        (!is_valid).then(|| "invalid datetime".to_owned())
    }),
}

fn of_form(text: &str, form: NameForm) -> Option<String> {
    name_problem(text, form).map(str::to_owned)
}

/// A prefix of a name may end with a dash.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(before) if !before.is_empty() => {
            let mut out = before.to_owned();
            out.pop();
            out + "a"
        }
        _ => text.to_owned(),
    }
}

fn is_uuid(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let dashes: Vec<usize> = text.char_indices().filter(|(_, c)| *c == '-').map(|(at, _)| at).collect();
    let fits = dashes.iter().enumerate().all(|(before, at)| matches!(at - before, 8 | 12 | 16 | 20));
    digits.len() == 32 && fits && digits.bytes().all(|c| c.is_ascii_hexdigit())
}

fn named<'a>(name: &str) -> Result<Value<'a>, CelError> {
    match FORMATS.iter().find(|format| format.name == name) {
        Some(format) => Ok(Value::library(format)),
        None => no_overload(),
    }
}

pub(super) fn declare(table: &mut Table) {
    let of = Type::Library(FORMAT);
    let problems = Type::optional(Type::list(Type::String));
    table.member("validate", "format-validate", [of.clone(), Type::String], problems, |args| {
        let text = text(args, 1)?;
        let format = library::<&'static NamedFormat>(args, 0)?;
        Ok(match (format.problem)(text) {
            Some(problem) => Value::some(Value::list(vec![Value::text(problem)])),
            None => Value::Optional(None),
        })
    });
    table.global("format.named", "format-named", [Type::String], Type::optional(of.clone()), |args| {
        let name = text(args, 0)?;
        Ok(named(name).map_or(Value::Optional(None), Value::some))
    });
    for (_, function, call) in FUNCTIONS {
        table.global(function, function, [], of.clone(), *call);
    }
}
