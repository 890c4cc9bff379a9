//! Labels of nodes that are deprecated, and warnings of those that select by them.

use serde_json::Value;

use crate::field::Path;
use crate::names::{NameForm, name_problems};
use crate::value::{items, text};

const DEPRECATED: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Why a label should not be used any more.
pub(super) fn deprecation(label: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(name, _)| *name == label).map(|(_, why)| *why)
}

/// Warns of a term of a node selector. A preferred one may have values that no label has.
pub(super) fn warn_of_term(term: &Value, is_preferred: bool, path: &Path, warnings: &mut Vec<String>) {
    for (i, expression) in items(term, "matchExpressions").enumerate() {
        let (at, key) = (path.child("matchExpressions").index(i), text(&expression["key"]));
        if let Some(why) = deprecation(key) {
            warnings.push(format!("{}: {key} is {why}", at.child("key")));
        }
        for (j, value) in items(expression, "values").enumerate().filter(|_| is_preferred) {
            for problem in name_problems(text(value), NameForm::LabelValue) {
                let at = at.child("values").index(j);
                warnings.push(format!("{at}: {} is invalid, {problem}", text(value)));
            }
        }
    }
}
