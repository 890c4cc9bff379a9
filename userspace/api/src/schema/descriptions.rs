//! Descriptions of types and fields, and the values of enumerations, for the OpenAPI documents.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::facts::Type;

/// `T TYPE text`, then `FIELD text` for fields of that type.
static DESCRIPTIONS: &str = include_str!("../../schema/descriptions.txt");
/// `TYPE.FIELD VALUE,VALUE`.
static ENUMERATIONS: &str = include_str!("../../schema/enumerations.txt");

/// What is known of a type beyond its facts.
#[derive(Default)]
struct Texts {
    /// Of the type itself.
    own: Option<&'static str>,
    fields: HashMap<&'static str, &'static str>,
    /// By field, with commas.
    values: HashMap<&'static str, &'static str>,
}

static TEXTS: LazyLock<HashMap<&'static str, Texts>> = LazyLock::new(|| {
    let mut all: HashMap<&'static str, Texts> = HashMap::new();
    let mut current = "";
    for line in DESCRIPTIONS.lines().filter(|line| !line.starts_with('#')) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if first == "T" {
            let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
            current = name;
            all.entry(name).or_default().own = Some(text);
        } else {
            all.entry(current).or_default().fields.insert(first, rest);
        }
    }
    for line in ENUMERATIONS.lines().filter(|line| !line.starts_with('#')) {
        let path_and_values = line.split_once(' ');
        if let Some(((name, field), values)) =
            path_and_values.and_then(|(p, v)| Some((p.rsplit_once('.')?, v)))
        {
            all.entry(name).or_default().values.insert(field, values);
        }
    }
    all
});

/// Of a type by its name.
pub(crate) fn of_type(name: &str) -> Option<&'static str> {
    TEXTS.get(name)?.own
}

/// Of a field. Every kind and list has `apiVersion`, `kind` and `metadata`.
pub(crate) fn of_field(of: &Type, field: &str) -> Option<&'static str> {
    let own = TEXTS.get(of.name).and_then(|texts| texts.fields.get(field)).copied();
    own.or_else(|| if of.kinds.is_empty() { None } else { common(of, field) })
}

fn common(of: &Type, field: &str) -> Option<&'static str> {
    let is_list = of.field("items").is_some() && of.name.ends_with("List");
    match field {
        "apiVersion" => Some("The group and version of the object's schema, such as apps/v1."),
        "kind" => Some("The kind of the object, in CamelCase. It cannot be changed."),
        "metadata" if is_list => of_type("apimachinery.pkg.apis.meta.v1.ListMeta"),
        "metadata" => of_type("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
        "items" if is_list => Some("The objects of the list."),
        _ => None,
    }
}

/// The values that the documents list for a field; empty if they list none.
pub(crate) fn values(of: &str, field: &str) -> impl Iterator<Item = &'static str> {
    let values = TEXTS.get(of).and_then(|texts| texts.values.get(field)).copied();
    values.into_iter().flat_map(|values| values.split(','))
}

#[cfg(test)]
mod tests {
    use super::super::named;
    use super::*;

    const MIN_DESCRIBED_FIELDS: usize = 600;

    #[test]
    fn what_is_described_exists() {
        let mut unknown = Vec::new();
        let mut described = 0;
        for (name, texts) in TEXTS.iter() {
            let found = named(name);
            unknown.extend(found.is_none().then(|| (*name).to_owned()));
            for field in texts.fields.keys().chain(texts.values.keys()) {
                let known = found.is_some_and(|found| found.field(field).is_some());
                unknown.extend((!known).then(|| format!("{name}.{field}")));
            }
            described += texts.fields.len();
            let empty = texts.fields.values().chain(&texts.own).any(|text| text.trim().is_empty());
            assert!(!empty, "{name} has an empty description");
        }
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(described >= MIN_DESCRIBED_FIELDS, "{described}");
    }

    #[test]
    fn no_field_is_described_twice() {
        let lines = DESCRIPTIONS.lines().filter(|line| !line.starts_with('#') && !line.starts_with("T "));
        let fields: usize = TEXTS.values().map(|texts| texts.fields.len()).sum();
        assert_eq!(lines.count(), fields);
    }
}
