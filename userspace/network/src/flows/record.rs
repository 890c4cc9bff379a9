//! Event and names to a record.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use skep_abi::{Addr, Be16, DropReason, FlowEvent, Proto};
use skep_api::flow_log::{End, FlowRecord, Pod, Rule, ServicePort, Verdict};
use skep_netplan::{FlowEnd, FlowNames};

/// One moment by both clocks.
pub(super) struct Clock {
    wall: Timestamp,
    monotonic_ns: u64,
}

impl Clock {
    pub(super) fn now() -> Clock {
        let time = clock_gettime(ClockId::Monotonic);
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        let monotonic_ns = part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec));
        Clock { wall: Timestamp::now(), monotonic_ns }
    }

    fn of(&self, monotonic_ns: u64) -> Timestamp {
        let since = self.monotonic_ns.saturating_sub(monotonic_ns);
        let since = SignedDuration::from_nanos(i64::try_from(since).unwrap_or(0));
        self.wall.checked_sub(since).unwrap_or(self.wall)
    }
}

pub(super) fn record(node: &str, event: &FlowEvent, names: FlowNames, clock: &Clock) -> FlowRecord {
    let FlowNames { source, destination, interface, service, route, rule, isolated_by } = names;
    let reason = match DropReason::from_code(event.reason) {
        Some(DropReason::None) => None,
        Some(reason) => Some(reason.name().to_owned()),
        None => Some(format!("reason {}", event.reason)),
    };
    FlowRecord {
        time: clock.of(event.time),
        node: node.to_owned(),
        verdict: if reason.is_none() { Verdict::Allowed } else { Verdict::Dropped },
        reason,
        direction: event.hook.name().to_owned(),
        protocol: protocol(event.proto),
        source: end(event.source, event.source_port, source),
        destination: end(event.destination, event.destination_port, destination),
        interface: interface.map(|key| pod(&key)),
        service: service.map(|service| {
            let Pod { namespace, name } = pod(&service.service);
            ServicePort { namespace, name, port: service.port }
        }),
        route: route.map(|route| route.to_string()),
        rule: rule.map(|rule| Rule { policy: rule.policy.to_string(), field: rule.field() }),
        denied_by: isolated_by.iter().map(ToString::to_string).collect(),
        bytes: event.length,
    }
}

fn end(addr: Addr, port: Be16, names: FlowEnd) -> End {
    let mut end = End {
        ip: (addr != Addr::UNSPECIFIED).then(|| IpAddr::from(addr)),
        port: (port.get() != 0).then_some(port.get()),
        ..End::default()
    };
    match names {
        FlowEnd::Pod(found) => {
            end.pod = Some(pod(&found.key));
            end.labels = found.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        }
        FlowEnd::NodeService(service) => end.pod = Some(pod(&service)),
        FlowEnd::Node(name) => end.node = Some(name.to_string()),
        FlowEnd::Unknown => {}
    }
    end
}

/// The parts of `namespace/name`.
fn pod(key: &str) -> Pod {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    Pod { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn protocol(proto: Proto) -> String {
    let name = match proto {
        Proto::TCP => "TCP",
        Proto::UDP => "UDP",
        Proto::SCTP => "SCTP",
        Proto::ICMP => "ICMP",
        Proto::ICMPV6 => "ICMPv6",
        Proto(number) => return number.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_as_old_as_the_monotonic_clock_says() {
        let wall = Timestamp::from_second(1_000).unwrap();
        let clock = Clock { wall, monotonic_ns: 5_000_000_000 };
        assert_eq!(clock.of(3_000_000_000), Timestamp::from_second(998).unwrap());
        // The clocks are read one after the other.
        assert_eq!(clock.of(6_000_000_000), wall);
    }

    #[test]
    fn what_was_not_read_is_absent() {
        let event = FlowEvent { reason: DropReason::Malformed as u16, ..FlowEvent::default() };
        let record = record("n", &event, FlowNames::default(), &Clock::now());
        assert_eq!((record.source, record.destination), (End::default(), End::default()));
        assert_eq!((record.verdict, record.reason.as_deref()), (Verdict::Dropped, Some("malformed")));
    }
}
