//! The seats of priority levels, from their PriorityLevelConfigurations. PURE.

use serde_json::Value;

use super::core::{LevelSpec, Response};

/// Requests that run at once, as upstream's --max-requests-inflight and --max-mutating-requests-inflight together.
const SERVER_SEATS: u32 = 400 + 200;
/// More queues than this make nothing fairer.
const MAX_QUEUES: usize = 1_024;
const MAX_HAND_SIZE: usize = 16;

/// A level's configuration.
pub(super) struct Configured<'a> {
    pub(super) name: &'a str,
    pub(super) spec: &'a Value,
}

/// Each level gets seats by its shares, rounded up.
pub(super) fn specs(levels: &[Configured<'_>]) -> Vec<LevelSpec> {
    let shares = |level: &Configured<'_>| number(&part(level.spec)["nominalConcurrencyShares"], 0);
    let all: u64 = levels.iter().map(shares).sum::<u64>().max(1);
    let spec = |level: &Configured<'_>| {
        let part = part(level.spec);
        let nominal =
            (u64::from(SERVER_SEATS) * shares(level)).div_ceil(all).clamp(1, u64::from(SERVER_SEATS));
        let per_cent = |of: u64| u32::try_from((nominal * of.min(10_000) + 50) / 100).unwrap_or(u32::MAX);
        LevelSpec {
            name: level.name.to_owned(),
            nominal: u32::try_from(nominal).unwrap_or(SERVER_SEATS),
            lendable: per_cent(number(&part["lendablePercent"], 0).min(100)),
            borrowing_limit: part["borrowingLimitPercent"].as_u64().map_or(SERVER_SEATS, per_cent),
            response: response(level.spec),
        }
    };
    levels.iter().map(spec).collect()
}

fn part(spec: &Value) -> &Value {
    if spec["type"] == "Exempt" { &spec["exempt"] } else { &spec["limited"] }
}

fn number(value: &Value, absent: u64) -> u64 {
    value.as_u64().unwrap_or(absent).min(u64::from(u32::MAX))
}

fn response(spec: &Value) -> Response {
    let limit = &spec["limited"]["limitResponse"];
    if spec["type"] == "Exempt" {
        return Response::Exempt;
    }
    if limit["type"] != "Queue" {
        return Response::Reject;
    }
    let of =
        |field: &str, absent| usize::try_from(number(&limit["queuing"][field], absent)).unwrap_or(usize::MAX);
    let queues = of("queues", 64).clamp(1, MAX_QUEUES);
    Response::Queue {
        queues,
        hand_size: of("handSize", 8).clamp(1, MAX_HAND_SIZE.min(queues)),
        queue_length: of("queueLengthLimit", 50),
    }
}

/// Objects of a list that one seat serves, and the most seats of a request, as upstream's.
const OBJECTS_PER_SEAT: u64 = 100;
const MAX_SEATS: u64 = 10;

/// The seats of a list of this many objects. No request takes more than 15 % of its level.
pub(super) fn list_width(objects: u64, nominal: u32) -> u32 {
    let most = (u64::from(nominal) * 15 / 100).clamp(1, MAX_SEATS);
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, most)).unwrap_or(1)
}
