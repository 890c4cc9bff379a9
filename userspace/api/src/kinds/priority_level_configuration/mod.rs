//! PriorityLevelConfigurations: the share of requests that a priority level may have in flight.

use serde_json::{Value, json};

use crate::field::{Errors, Path};
use crate::kinds::kind::Strategy;
use crate::kinds::row::Row;
use crate::meta;
use crate::table::cell::{NONE, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::{set_default, set_zero_default, text};

pub(super) const ROW: Row = Row {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    subresources: &["status"],
    schema: "api.flowcontrol.v1.PriorityLevelConfiguration",
    columns: COLUMNS,
    strategy: Strategy { generation: true, default, validate, own_required: true, ..Strategy::NONE },
    ..Row::CLUSTER
};

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", |object, _| text_cell(&object["spec"]["type"])),
    Column::text("NominalConcurrencyShares", |object, _| {
        limited(&object["spec"]["limited"]["nominalConcurrencyShares"])
    }),
    Column::text("Queues", |object, _| {
        limited(&object["spec"]["limited"]["limitResponse"]["queuing"]["queues"])
    }),
    Column::text("HandSize", |object, _| {
        limited(&object["spec"]["limited"]["limitResponse"]["queuing"]["handSize"])
    }),
    Column::text("QueueLengthLimit", |object, _| {
        limited(&object["spec"]["limited"]["limitResponse"]["queuing"]["queueLengthLimit"])
    }),
    AGE,
];

fn default(object: &mut Value) {
    let spec = &mut object["spec"];
    if !spec.is_object() {
        return;
    }
    for (kind, field, shares) in [("Exempt", "exempt", 0), ("Limited", "limited", 30)] {
        if spec["type"] != kind || !spec[field].is_object() && kind == "Limited" {
            continue;
        }
        set_default(spec, field, json!({}));
        set_default(&mut spec[field], "nominalConcurrencyShares", shares);
        set_default(&mut spec[field], "lendablePercent", 0);
    }
    let response = spec.get_mut("limited").and_then(|limited| limited.get_mut("limitResponse"));
    if let Some(queuing) =
        response.and_then(|response| response.get_mut("queuing")).filter(|queuing| queuing.is_object())
    {
        for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
            set_zero_default(queuing, field, value);
        }
    }
}

/// The level of requests that never wait.
const EXEMPT: &str = "exempt";
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that deals a hand of queues.
const MAX_HASH_BITS: u32 = 60;

fn validate(object: &Value, errors: &mut Errors) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let kind = text(&spec["type"]);
    if (meta::name(object) == EXEMPT) != (kind == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.invalid(&path.child("type"), &kind.into(), detail);
    }
    let (exempt, limited) = (&spec["exempt"], &spec["limited"]);
    match kind {
        "Exempt" => {
            if !limited.is_null() {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            validate_shares(exempt, &path.child("exempt"), errors);
            validate_lendable(exempt, &path.child("exempt"), errors);
        }
        "Limited" => {
            if !exempt.is_null() {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            if limited.is_null() {
                errors.required(&path.child("limited"), "must not be empty when type is Limited");
            } else {
                validate_limited(limited, &path.child("limited"), errors);
            }
        }
        _ => errors.not_supported(&path.child("type"), &spec["type"], &["Exempt", "Limited"]),
    }
}

fn validate_shares(level: &Value, path: &Path, errors: &mut Errors) {
    let shares = &level["nominalConcurrencyShares"];
    if shares.as_i64().is_some_and(|shares| shares < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn validate_lendable(level: &Value, path: &Path, errors: &mut Errors) {
    let percent = &level["lendablePercent"];
    if percent.as_i64().is_some_and(|percent| !(0..=100).contains(&percent)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn validate_limited(limited: &Value, path: &Path, errors: &mut Errors) {
    validate_shares(limited, path, errors);
    let (response, at) = (&limited["limitResponse"], path.child("limitResponse"));
    let (queuing, queuing_at) = (&response["queuing"], at.child("queuing"));
    match text(&response["type"]) {
        "Reject" if !queuing.is_null() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.forbidden(&queuing_at, detail);
        }
        "Reject" => {}
        "Queue" if queuing.is_null() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&queuing_at, detail);
        }
        "Queue" => validate_queuing(queuing, &queuing_at, errors),
        kind => errors.not_supported(&at.child("type"), &kind.into(), &["Queue", "Reject"]),
    }
    validate_lendable(limited, path, errors);
    let percent = &limited["borrowingLimitPercent"];
    if percent.as_i64().is_some_and(|percent| percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), percent, detail);
    }
}

fn validate_queuing(queuing: &Value, path: &Path, errors: &mut Errors) {
    let [length, queues, hand] =
        ["queueLengthLimit", "queues", "handSize"].map(|field| queuing[field].as_i64().unwrap_or(0));
    if length <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), &length.into(), "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.child("queues"), &queues.into(), "must be positive");
    } else if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        errors.invalid(&path.child("queues"), &queues.into(), &detail);
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, &hand.into(), "must be positive");
    } else if hand > queues {
        errors.invalid(&at, &hand.into(), &format!("should not be greater than queues ({queues})"));
    } else if !can_deal(queues, hand) {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(&at, &hand.into(), &detail);
    }
}

/// Whether a hash has enough bits to deal a hand of so many queues.
fn can_deal(queues: i64, hand: i64) -> bool {
    let mut hands = 1_i128;
    for dealt in 0..hand {
        hands = hands.saturating_mul(i128::from(queues - dealt));
        if hands > 1 << MAX_HASH_BITS {
            return false;
        }
    }
    true
}

fn limited(value: &Value) -> Value {
    if value.is_null() { NONE.into() } else { value.clone() }
}
