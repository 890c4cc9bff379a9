//! Labels and label selectors.
//!
//! In: the API's `LabelSelector`. Out: [`Selector`], valid and normalised: equal requirements compare equal.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use skep_abi::StableHasher;

/// Labels of one object, sorted by key; small and hashable, so that objects with equal labels can share them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value.as_ref())
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

impl From<&BTreeMap<String, String>> for Labels {
    fn from(map: &BTreeMap<String, String>) -> Self {
        Labels(map.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect())
    }
}

impl From<Option<&BTreeMap<String, String>>> for Labels {
    fn from(map: Option<&BTreeMap<String, String>>) -> Self {
        map.map(Labels::from).unwrap_or_default()
    }
}

/// Why a label selector is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    #[error("{operator} of {key:?} needs values")]
    NoValues { key: String, operator: String },
    #[error("{operator} of {key:?} takes no values")]
    Values { key: String, operator: String },
    #[error("{operator:?} is not an operator of label selectors")]
    Operator { operator: String },
}

/// All requirements must hold; a selector without requirements matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Box<[Requirement]>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Requirement {
    In(Box<str>, Box<[Box<str>]>),
    /// Also holds for objects without the key.
    NotIn(Box<str>, Box<[Box<str>]>),
    Exists(Box<str>),
    DoesNotExist(Box<str>),
}

impl Selector {
    /// Normalises: values and requirements are sorted, each once.
    pub fn parse(selector: &LabelSelector) -> Result<Selector, SelectError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::In(key.as_str().into(), [value.as_str().into()].into()));
        }
        for expression in selector.match_expressions.iter().flatten() {
            let key: Box<str> = expression.key.as_str().into();
            let mut values: Vec<Box<str>> =
                expression.values.iter().flatten().map(|v| v.as_str().into()).collect();
            values.sort();
            values.dedup();
            let operator = expression.operator.as_str();
            match (operator, values.is_empty()) {
                ("In", false) => requirements.push(Requirement::In(key, values.into())),
                ("NotIn", false) => requirements.push(Requirement::NotIn(key, values.into())),
                ("Exists", true) => requirements.push(Requirement::Exists(key)),
                ("DoesNotExist", true) => requirements.push(Requirement::DoesNotExist(key)),
                ("In" | "NotIn", true) => {
                    let LabelSelectorRequirement { key, operator, .. } = expression.clone();
                    return Err(SelectError::NoValues { key, operator });
                }
                ("Exists" | "DoesNotExist", false) => {
                    let LabelSelectorRequirement { key, operator, .. } = expression.clone();
                    return Err(SelectError::Values { key, operator });
                }
                _ => return Err(SelectError::Operator { operator: operator.to_owned() }),
            }
        }
        requirements.sort();
        requirements.dedup();
        Ok(Selector(requirements.into()))
    }

    /// Feeds the requirements to the hasher, with their number first.
    pub(crate) fn hash_into(&self, hasher: StableHasher) -> StableHasher {
        self.0.iter().fold(hasher.u64(self.0.len() as u64), |hasher, requirement| match requirement {
            Requirement::In(key, values) => texts(hasher.u8(0).text(key), values),
            Requirement::NotIn(key, values) => texts(hasher.u8(1).text(key), values),
            Requirement::Exists(key) => hasher.u8(2).text(key),
            Requirement::DoesNotExist(key) => hasher.u8(3).text(key),
        })
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| contains(values, v)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|v| contains(values, v)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
        })
    }
}

fn texts(hasher: StableHasher, texts: &[Box<str>]) -> StableHasher {
    texts.iter().fold(hasher.u64(texts.len() as u64), |hasher, text| hasher.text(text))
}

fn contains(values: &[Box<str>], value: &str) -> bool {
    values.binary_search_by(|v| v.as_ref().cmp(value)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let map: BTreeMap<String, String> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Labels::from(&map)
    }

    fn selector(key: &str, operator: &str, values: &[&str]) -> Result<Selector, SelectError> {
        Selector::parse(&LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            }]),
        })
    }

    #[test]
    fn empty_selector_matches_everything() {
        let everything = Selector::parse(&LabelSelector::default()).unwrap();
        assert!(everything.matches(&labels(&[])));
        assert!(everything.matches(&labels(&[("a", "b")])));
    }

    #[test]
    fn not_in_matches_objects_without_the_key() {
        let not_in = selector("app", "NotIn", &["web", "db"]).unwrap();
        assert!(not_in.matches(&labels(&[])));
        assert!(not_in.matches(&labels(&[("app", "mail")])));
        assert!(!not_in.matches(&labels(&[("app", "db")])));
    }

    #[test]
    fn value_order_does_not_matter() {
        assert_eq!(selector("a", "In", &["x", "y"]), selector("a", "In", &["y", "x", "x"]));
    }

    #[test]
    fn wrong_operators_and_value_counts_are_refused() {
        assert!(selector("a", "In", &[]).is_err());
        assert!(selector("a", "Exists", &["x"]).is_err());
        assert!(selector("a", "Gt", &["1"]).is_err());
    }
}
