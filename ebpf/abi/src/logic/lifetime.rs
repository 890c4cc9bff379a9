//! How long a flow's entries live without a packet.
//!
//! In: the signals of an entry and its partner. Out: the flow's state, and two times: after the first the entry expires,
//! after the second another flow may take its source port when no port is free. Programs and agent use the same function,
//! so the entries of one flow end together.

use crate::{Addr, Be16, Flow, FlowKey, Proto, SocketAddr, TCP_ACK, TCP_FIN, TCP_RST};

const SECOND_NS: u64 = 1_000_000_000;

/// Which packets of its flow an entry sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Both directions.
    Whole,
    /// Packets that meet the flow's own entry next: an alias, or the answers to a masqueraded flow.
    Ahead,
    /// One direction, and its partner the other: in transit through this node, or a hairpin.
    Half,
    /// One direction; the other does not pass this node (direct server return).
    OneWay,
    /// [`Kind::Ahead`] or [`Kind::Half`] without the partner.
    Orphan,
}

impl Kind {
    /// The kind of an entry with [`Flow`] flags.
    #[inline(always)]
    pub const fn of(flags: u32) -> Kind {
        if flags & (Flow::TRANSIT | Flow::HAIRPIN) != 0 {
            Kind::Half
        } else if flags & Flow::ALIAS != 0 || flags & (Flow::MASQUERADE | Flow::SOURCE) == Flow::MASQUERADE {
            Kind::Ahead
        } else if flags & Flow::DSR != 0 {
            Kind::OneWay
        } else {
            Kind::Whole
        }
    }

    /// Whether the flow's state is known only with the partner.
    #[inline(always)]
    pub const fn needs_partner(self) -> bool {
        matches!(self, Kind::Ahead | Kind::Half)
    }
}

/// The signals of a flow's two ends, or-ed: TCP flags, or what stands for them in another protocol
/// ([`crate::logic::signal`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Observed {
    /// Those of one end.
    pub one: u8,
    /// Those of the other.
    pub other: u8,
}

/// Where a flow is between its first and its last packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// One end has sent.
    Opening,
    /// Both ends have sent, and one has not acknowledged yet.
    HalfOpen,
    /// Both ends have acknowledged.
    Established,
    /// One end has finished.
    Closing,
    /// Reset, or both ends have finished, or an entry without the partner that it needs.
    Closed,
}

/// The flow's state.
#[inline(always)]
pub const fn state(kind: Kind, observed: Observed) -> State {
    let Observed { one, other } = observed;
    let either = one | other;
    let acknowledged = if matches!(kind, Kind::OneWay) { either } else { one & other };
    if matches!(kind, Kind::Orphan) || either & TCP_RST != 0 || one & other & TCP_FIN != 0 {
        State::Closed
    } else if either & TCP_FIN != 0 {
        State::Closing
    } else if acknowledged & TCP_ACK != 0 {
        State::Established
    } else if one != 0 && other != 0 {
        State::HalfOpen
    } else {
        State::Opening
    }
}

/// Seconds without a packet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeout {
    /// After these the entry expires.
    pub expiry: u32,
    /// After these a new flow may take the entry's port if it finds none that is free.
    pub takeover: u32,
}

/// Flows with the same times.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    Closed = 0,
    TcpEstablished = 1,
    SctpEstablished = 2,
    /// TCP and SCTP.
    Closing = 3,
    /// TCP and SCTP, half-open ones too.
    Opening = 4,
    Udp = 5,
    Icmp = 6,
    /// Of other protocols.
    Other = 7,
}

impl Group {
    /// Number of groups, a power of two.
    pub const COUNT: usize = 8;

    /// Those whose times can be set, by name.
    pub const SETTABLE: [(&str, Group); 7] = [
        ("tcp-established", Group::TcpEstablished),
        ("sctp-established", Group::SctpEstablished),
        ("closing", Group::Closing),
        ("opening", Group::Opening),
        ("udp", Group::Udp),
        ("icmp", Group::Icmp),
        ("other", Group::Other),
    ];

    #[inline(always)]
    const fn of(proto: Proto, state: State) -> Group {
        match (proto, state) {
            (_, State::Closed) => Group::Closed,
            (Proto::TCP, State::Established) => Group::TcpEstablished,
            (Proto::SCTP, State::Established) => Group::SctpEstablished,
            (Proto::TCP | Proto::SCTP, State::Closing) => Group::Closing,
            (Proto::TCP | Proto::SCTP, State::Opening | State::HalfOpen) => Group::Opening,
            (Proto::UDP, _) => Group::Udp,
            (Proto::ICMP | Proto::ICMPV6, _) => Group::Icmp,
            _ => Group::Other,
        }
    }
}

/// The times of flows by their [`Group`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts([Timeout; Group::COUNT]);

impl Timeouts {
    /// RFC 5382 asks for at least 2 h 4 min for established TCP, RFC 4787 for 2 min for UDP, RFC 5508 for 60 s for ICMP. SCTP has
    /// heartbeats every 30 s, so its associations need no more than netfilter gives them.
    pub const DEFAULT: Timeouts = {
        let times =
            [(10, 0), (8_000, 8_000), (210, 210), (120, 60), (120, 30), (180, 30), (60, 10), (600, 60)];
        let mut all = [Timeout { expiry: 0, takeover: 0 }; Group::COUNT];
        let mut i = 0;
        while i < Group::COUNT {
            all[i] = Timeout { expiry: times[i].0, takeover: times[i].1 };
            i += 1;
        }
        Timeouts(all)
    };

    /// These, with another expiry of a group. The port of an established flow is not taken before.
    pub fn with(mut self, group: Group, expiry: u32) -> Timeouts {
        let Timeout { takeover, .. } = self.0[group as usize];
        let established = matches!(group, Group::TcpEstablished | Group::SctpEstablished);
        let takeover = if established { expiry } else { takeover.min(expiry) };
        self.0[group as usize] = Timeout { expiry, takeover };
        self
    }

    /// The times of a group.
    #[inline(always)]
    pub const fn of(&self, group: Group) -> Timeout {
        self.0[group as usize & (Group::COUNT - 1)]
    }
}

// SAFETY: integers without padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Timeouts {}

/// The times of a flow.
#[inline(always)]
pub const fn timeout(kind: Kind, proto: Proto, observed: Observed, timeouts: &Timeouts) -> Timeout {
    timeouts.of(Group::of(proto, state(kind, observed)))
}

/// What the entries of one flow know together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Life {
    kind: Kind,
    observed: Observed,
    last_seen: u64,
}

impl Life {
    /// Of an entry and its partner; `None`: it needs none, or has none.
    #[inline(always)]
    pub const fn of(flow: &Flow, partner: Option<&Flow>) -> Life {
        let own = Observed { one: flow.tcp_flags_low, other: flow.tcp_flags_high };
        let kind = Kind::of(flow.flags);
        let (observed, last_seen) = match (kind, partner) {
            (Kind::Ahead, Some(partner)) => {
                let observed = Observed { one: partner.tcp_flags_low, other: partner.tcp_flags_high };
                (observed, later(flow, partner))
            }
            (Kind::Half, Some(partner)) => {
                let other = partner.tcp_flags_low | partner.tcp_flags_high;
                (Observed { one: own.one | own.other, other }, later(flow, partner))
            }
            (Kind::Ahead | Kind::Half, None) => {
                return Life { kind: Kind::Orphan, observed: own, last_seen: flow.last_seen };
            }
            _ => (own, flow.last_seen),
        };
        Life { kind, observed, last_seen }
    }

    /// The times of the flow.
    #[inline(always)]
    pub const fn timeout(&self, proto: Proto, timeouts: &Timeouts) -> Timeout {
        timeout(self.kind, proto, self.observed, timeouts)
    }

    /// The group of the flow.
    #[inline(always)]
    pub const fn group(&self, proto: Proto) -> Group {
        Group::of(proto, state(self.kind, self.observed))
    }

    /// Whether the flow has been silent for that many seconds at `now`, in nanoseconds of the monotonic clock.
    #[inline(always)]
    pub const fn is_silent(&self, seconds: u32, now: u64) -> bool {
        now.saturating_sub(self.last_seen) >= seconds as u64 * SECOND_NS
    }

    /// Whether the entry has expired.
    #[inline(always)]
    pub const fn is_over(&self, proto: Proto, now: u64, timeouts: &Timeouts) -> bool {
        self.is_silent(self.timeout(proto, timeouts).expiry, now)
    }
}

#[inline(always)]
const fn later(a: &Flow, b: &Flow) -> u64 {
    if a.last_seen > b.last_seen { a.last_seen } else { b.last_seen }
}

impl Flow {
    /// Writes the ends of a packet of the rewritten direction after it is rewritten, which are the ends of the partner. An echo
    /// has one identifier in place of two ports.
    #[inline(always)]
    pub fn rewrite(&self, key: &FlowKey, source: &mut SocketAddr, destination: &mut SocketAddr) {
        if self.flags & Flow::REWRITE_HIGH != 0 {
            copy(source, &key.high, key.high_port);
            copy(destination, &key.low, key.low_port);
        } else {
            copy(source, &key.low, key.low_port);
            copy(destination, &key.high, key.high_port);
        }
        let is_echo = matches!(key.proto, Proto::ICMP | Proto::ICMPV6);
        if self.flags & Flow::SOURCE != 0 {
            copy(source, &self.source.addr, self.source.port);
            if is_echo {
                destination.port = source.port;
            }
        }
        if self.flags & Flow::DESTINATION != 0 {
            copy(destination, &self.destination.addr, self.destination.port);
            if is_echo {
                source.port = destination.port;
            }
        }
    }

    /// Whether `other`, found under the rewritten ends, is the partner of the entry under `key`: it leads back.
    #[inline(always)]
    pub fn is_partner(&self, key: &FlowKey, other: &Flow) -> bool {
        let to_low = self.flags & Flow::REWRITE_HIGH != 0;
        let (addr, port) = if to_low { (&key.low, key.low_port) } else { (&key.high, key.high_port) };
        other.flags & Flow::SOURCE != 0 && other.source.addr == *addr && other.source.port == port
    }
}

/// Copies word by word: a whole structure would go through the programs' stack.
#[inline(always)]
pub fn copy(to: &mut SocketAddr, addr: &Addr, port: Be16) {
    for i in 0..4 {
        // SAFETY: reads and writes through valid references; volatile only keeps the words apart.
        unsafe {
            core::ptr::write_volatile(&raw mut to.addr.0[i], core::ptr::read_volatile(&raw const addr.0[i]))
        };
    }
    (to.port, to.reserved) = (port, 0);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::fmt::Write as _;
    use std::string::String;

    use proptest::prelude::*;

    use super::*;
    use crate::TCP_SYN;

    const TABLE: &str = include_str!("lifetime.txt");

    const PROTOS: [(Proto, &str); 5] = [
        (Proto::TCP, "TCP"),
        (Proto::SCTP, "SCTP"),
        (Proto::UDP, "UDP"),
        (Proto::ICMP, "ICMP"),
        (Proto(47), "other"),
    ];
    const KINDS: [Kind; 3] = [Kind::Whole, Kind::OneWay, Kind::Orphan];
    const SIGNALS: [(u8, &str); 6] = [
        (0, "-"),
        (TCP_SYN, "S"),
        (TCP_ACK, "A"),
        (TCP_SYN | TCP_ACK, "SA"),
        (TCP_ACK | TCP_FIN, "AF"),
        (TCP_ACK | TCP_RST, "AR"),
    ];

    /// Every combination; rows that differ only in which end is which are one.
    fn table() -> String {
        let mut text = String::from(
            "kind    one  other  state        TCP        SCTP       UDP        ICMP       other\n",
        );
        for kind in KINDS {
            for (i, (one, one_name)) in SIGNALS.iter().enumerate() {
                for (other, other_name) in &SIGNALS[i..] {
                    let observed = Observed { one: *one, other: *other };
                    let state = std::format!("{:?}", state(kind, observed));
                    let kind_name = std::format!("{kind:?}");
                    let _ = write!(text, "{kind_name:7} {one_name:4} {other_name:6} {state:12}");
                    for (proto, _) in PROTOS {
                        let Timeout { expiry, takeover } = timeout(kind, proto, observed, &Timeouts::DEFAULT);
                        let _ = write!(text, " {:10}", std::format!("{expiry}/{takeover}"));
                    }
                    text.truncate(text.trim_end().len());
                    text.push('\n');
                }
            }
        }
        text
    }

    #[test]
    fn the_table_of_states_and_timeouts() {
        let table = table();
        if std::env::var_os("SKEP_REWRITE").is_some() {
            std::fs::write(std::concat!(std::env!("CARGO_MANIFEST_DIR"), "/src/logic/lifetime.txt"), &table)
                .unwrap();
        }
        std::println!("{table}");
        assert!(
            table == TABLE || std::env::var_os("SKEP_REWRITE").is_some(),
            "lifetime.txt differs; SKEP_REWRITE=1 writes it"
        );
    }

    fn flow(flags: u32, low: u8, high: u8, last_seen: u64) -> Flow {
        Flow { flags, tcp_flags_low: low, tcp_flags_high: high, last_seen, ..Flow::default() }
    }

    const HOUR: u64 = 3_600 * SECOND_NS;

    #[test]
    fn a_masqueraded_connection_that_is_idle_keeps_the_entry_of_its_answers() {
        let both = TCP_SYN | TCP_ACK;
        let own = flow(Flow::MASQUERADE | Flow::SOURCE, both, both, HOUR);
        // The answers' entry was last met long before, and sees one direction.
        let answers = flow(Flow::MASQUERADE | Flow::DESTINATION, 0, both, 0);
        let life = Life::of(&answers, Some(&own));
        assert_eq!(life.timeout(Proto::TCP, &Timeouts::DEFAULT).expiry, 8_000);
        for age in [200, 7_999] {
            assert!(!life.is_over(Proto::TCP, HOUR + age * SECOND_NS, &Timeouts::DEFAULT));
        }
        assert!(life.is_over(Proto::TCP, HOUR + 8_000 * SECOND_NS, &Timeouts::DEFAULT));
        assert_eq!(Life::of(&answers, None).timeout(Proto::TCP, &Timeouts::DEFAULT).expiry, 10);
    }

    #[test]
    fn an_alias_is_as_closed_as_its_flow() {
        let alias = flow(Flow::ALIAS | Flow::DESTINATION, TCP_SYN | TCP_ACK, 0, 0);
        let expiry = |low, high| {
            Life::of(&alias, Some(&flow(Flow::SOURCE, low, high, 0)))
                .timeout(Proto::TCP, &Timeouts::DEFAULT)
                .expiry
        };
        assert_eq!(expiry(TCP_SYN, 0), 120);
        assert_eq!(expiry(TCP_SYN | TCP_ACK, TCP_SYN | TCP_ACK), 8_000);
        assert_eq!(expiry(TCP_ACK | TCP_FIN, TCP_ACK), 120);
        assert_eq!(expiry(TCP_ACK | TCP_FIN, TCP_ACK | TCP_FIN), 10);
    }

    #[test]
    fn other_times_are_of_their_group_alone() {
        let timeouts = Timeouts::DEFAULT.with(Group::Udp, 20).with(Group::TcpEstablished, 300);
        assert_eq!(timeouts.of(Group::Udp), Timeout { expiry: 20, takeover: 20 });
        assert_eq!(timeouts.of(Group::TcpEstablished), Timeout { expiry: 300, takeover: 300 });
        for (_, group) in Group::SETTABLE {
            if !matches!(group, Group::Udp | Group::TcpEstablished) {
                assert_eq!(timeouts.of(group), Timeouts::DEFAULT.of(group));
            }
        }
    }

    fn socket_addr() -> impl Strategy<Value = SocketAddr> {
        (prop::array::uniform4(0..3u32), 0..3u16)
            .prop_map(|(words, port)| SocketAddr::new(Addr(words), Be16::new(port)))
    }

    proptest! {
        /// Both entries of a flow in transit, however seldom each of them is met.
        #[test]
        fn halves_end_together(flags in prop::array::uniform2(0..32u8), seen in prop::array::uniform2(0..HOUR), now in 0..9_000u64) {
            let half = |i: usize| flow(Flow::TRANSIT, flags[i], 0, seen[i]);
            let (a, b) = (half(0), half(1));
            let (la, lb) = (Life::of(&a, Some(&b)), Life::of(&b, Some(&a)));
            let now = now * SECOND_NS;
            prop_assert_eq!(la.timeout(Proto::TCP, &Timeouts::DEFAULT), lb.timeout(Proto::TCP, &Timeouts::DEFAULT));
            prop_assert_eq!(la.is_over(Proto::TCP, now, &Timeouts::DEFAULT), lb.is_over(Proto::TCP, now, &Timeouts::DEFAULT));
        }

        #[test]
        fn a_port_is_taken_over_no_later_than_its_entry_expires(one: u8, other: u8, proto: u8) {
            for kind in KINDS.into_iter().chain([Kind::Ahead, Kind::Half]) {
                let Timeout { expiry, takeover } = timeout(kind, Proto(proto), Observed { one, other }, &Timeouts::DEFAULT);
                prop_assert!(takeover <= expiry && expiry >= 10);
            }
        }

        /// The two entries of a flow whose both ends are rewritten find each other.
        #[test]
        fn partners_lead_back(client in socket_addr(), frontend in socket_addr(), node in socket_addr(), backend in socket_addr()) {
            let entry = |from: SocketAddr, to: SocketAddr, source, destination| {
                let mut key = FlowKey::default();
                let high = key.locate(&from, &to, Proto::TCP);
                let flags = Flow::TRANSIT | Flow::SOURCE | Flow::DESTINATION | if high { Flow::REWRITE_HIGH } else { 0 };
                (key, Flow { flags, source, destination, ..Flow::default() })
            };
            let (key, forward) = entry(client, frontend, node, backend);
            let (back_key, back) = entry(backend, node, frontend, client);
            let rewritten = |flow: &Flow, key: &FlowKey| {
                let mut ends = [SocketAddr::default(); 2];
                let [source, destination] = &mut ends;
                flow.rewrite(key, source, destination);
                ends
            };
            prop_assert_eq!(rewritten(&forward, &key), [node, backend]);
            prop_assert_eq!(rewritten(&back, &back_key), [frontend, client]);
            prop_assert!(forward.is_partner(&key, &back) && back.is_partner(&back_key, &forward));
        }
    }
}
