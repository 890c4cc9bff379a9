//! Access modes of volumes and claims.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::table::cell::joined;
use crate::value::items;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn validate_access_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("accessModes");
    for mode in items(spec, "accessModes") {
        if !MODES.iter().any(|known| mode == *known) {
            errors.not_supported(&at, mode, &MODES);
        }
    }
    let alone = items(spec, "accessModes").any(|mode| mode == "ReadWriteOncePod");
    if alone && items(spec, "accessModes").any(|mode| mode != "ReadWriteOncePod") {
        errors.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,ROX`, in upstream's order.
pub(super) fn short_modes(object: &Value) -> String {
    let all = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| items(object, "accessModes").any(|found| found == mode);
    joined(all.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short))
}
