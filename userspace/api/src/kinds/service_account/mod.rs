//! ServiceAccounts.

use serde_json::Value;

use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::column::{AGE, Column, NAME};

pub(super) const ROW: Row = Row {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &["token"],
    schema: "api.core.v1.ServiceAccount",
    columns: COLUMNS,
    strategy: Strategy { warnings, ..Strategy::NONE },
    ..Row::NAMESPACED
};

const COLUMNS: &[Column] = &[NAME, AGE];

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let is_set = |account: &Value| account["metadata"]["annotations"][MOUNTABLE_SECRETS].is_string();
    if !is_set(object) || old.is_some_and(is_set) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}
