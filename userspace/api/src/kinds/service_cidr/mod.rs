//! ServiceCIDRs: ranges of cluster addresses.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::ip::parse_cidr;
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::table::cell::list_cell;
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const ROW: Row = Row {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    subresources: &["status"],
    schema: "api.networking.v1.ServiceCIDR",
    columns: COLUMNS,
    strategy: Strategy { validate, validate_update, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] =
    &[NAME, Column::text("CIDRs", |object, _| list_cell(&object["spec"], "cidrs", "")), AGE];

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("cidrs");
    let count = items(&object["spec"], "cidrs").count();
    if count == 0 {
        return errors.required(&path, "at least one CIDR required");
    }
    if count > 2 {
        return errors.invalid(&path, &object["spec"], "may only hold up to 2 values");
    }
    let mut parsed = Vec::new();
    for (i, cidr) in items(&object["spec"], "cidrs").enumerate() {
        let (at, text) = (path.index(i), cidr.as_str().unwrap_or_default());
        let Some(cidr) = parse_cidr(text, &at, errors) else { continue };
        if cidr.to_string() != text {
            errors.invalid(&at, &json!(text), &format!("must be in canonical form (\"{cidr}\")"));
        }
        parsed.push(cidr);
    }
    if let [one, other] = parsed.as_slice()
        && one.is_ipv4() == other.is_ipv4()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, &object["spec"]["cidrs"], detail);
    }
}

/// An update may add a second range and change nothing else.
fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec").child("cidrs");
    let (now, before): (Vec<_>, Vec<_>) =
        (items(&new["spec"], "cidrs").collect(), items(&old["spec"], "cidrs").collect());
    if now.len() != before.len() && !(now.len() == 2 && before.len() == 1) {
        return errors.invalid(&path, &new["spec"]["cidrs"], "field is immutable");
    }
    for (i, (now, before)) in now.iter().zip(&before).enumerate() {
        if now != before {
            errors.invalid(&path.index(i), now, "field is immutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(check: impl FnOnce(&mut Errors)) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_cidr_has_one_range_of_a_family_and_may_only_gain_the_other() {
        let of = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let valid = |cidrs: Value| errors_of(|errors| validate(&of(cidrs), errors));
        assert!(valid(json!(["10.0.0.0/24", "fd00::/112"])).is_empty());
        assert_eq!(valid(json!([])), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert!(
            valid(json!(["10.0.0.0/24", "10.0.1.0/24"]))[0]
                .contains("no more than one IP for each IP family")
        );
        assert_eq!(
            valid(json!(["FD00::/112"])),
            ["spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form (\"fd00::/112\")"]
        );
        let update = |new: Value, old: Value| errors_of(|errors| validate_update(&of(new), &of(old), errors));
        assert!(update(json!(["10.0.0.0/24", "fd00::/112"]), json!(["10.0.0.0/24"])).is_empty());
        assert!(update(json!(["10.0.1.0/24"]), json!(["10.0.0.0/24"]))[0].starts_with("spec.cidrs[0]: "));
        assert!(!update(json!(["10.0.0.0/24"]), json!(["10.0.0.0/24", "fd00::/112"])).is_empty());
    }
}
