//! The generic cell rate algorithm (ITU-T I.371): a token bucket as one time.

/// How far a packet's time may be from now, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slack {
    /// What an idle sender may have left unused and use later.
    pub burst_ns: u64,
    /// How long a packet may wait for its time.
    pub wait_ns: u64,
}

/// A packet's departure, and what its bucket becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// When the packet may leave: no later than now and the wait. It may lie in the past.
    pub at: u64,
    /// The theoretical arrival time of the packet after it.
    pub next: u64,
}

/// Nanoseconds that `bytes` take at a `rate` in bits a second that is not 0.
#[inline(always)]
pub const fn wire_time_ns(bytes: u64, rate: u64) -> u64 {
    bytes * 8_000_000_000 / rate
}

/// When a packet that takes `cost` nanoseconds may leave, if `next` is its theoretical arrival time; `None`: it would
/// have to wait too long, and the bucket stays as it is.
#[inline(always)]
pub const fn turn(next: u64, now: u64, cost: u64, slack: Slack) -> Option<Turn> {
    let earliest = now.saturating_sub(slack.burst_ns);
    let at = if next > earliest { next } else { earliest };
    if at <= now + slack.wait_ns { Some(Turn { at, next: at + cost }) } else { None }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// The times at which packets that come at `arrivals` and cost `cost` each may leave.
    fn departures(arrivals: &[u64], cost: u64, slack: Slack) -> Vec<Option<u64>> {
        let mut next = 0;
        let mut depart = |now: &u64| {
            let turn = turn(next, *now, cost, slack)?;
            next = turn.next;
            Some(turn.at)
        };
        arrivals.iter().map(&mut depart).collect()
    }

    #[test]
    fn a_megabit_takes_a_second_at_a_megabit_a_second() {
        assert_eq!(wire_time_ns(125_000, 1_000_000), SECOND);
    }

    #[test]
    fn an_idle_sender_has_its_burst_and_then_its_rate() {
        let slack = Slack { burst_ns: 30, wait_ns: 0 };
        let passed = departures(&[1_000, 1_000, 1_000, 1_000, 1_000, 1_010, 1_011, 1_020], 10, slack);
        let passed: Vec<bool> = passed.iter().map(Option::is_some).collect();
        assert_eq!(passed, [true, true, true, true, false, true, false, true]);
    }

    #[test]
    fn without_a_burst_packets_leave_one_cost_apart_until_the_wait_is_too_long() {
        let slack = Slack { burst_ns: 0, wait_ns: 25 };
        assert_eq!(departures(&[100; 4], 10, slack), [Some(100), Some(110), Some(120), None]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            gaps in prop::collection::vec(0..2_000u64, 1..200),
            cost in 1..1_000u64,
            burst_ns in 0..5_000u64,
            wait_ns in 0..5_000u64,
        ) {
            let arrivals: Vec<u64> =
                gaps.iter().scan(SECOND, |now, gap| { *now += gap; Some(*now) }).collect();
            let slack = Slack { burst_ns, wait_ns };
            let sent: Vec<u64> = departures(&arrivals, cost, slack).into_iter().flatten().collect();
            prop_assert!(sent.windows(2).all(|pair| pair[1] >= pair[0] + cost));
            // From the first packet to any later one: at most the burst, and then the rate.
            let first = arrivals[0];
            let costs = (1..).map(|n| n * cost);
            prop_assert!(sent.iter().zip(costs).all(|(at, spent)| spent <= at + cost + burst_ns - first));
        }

        #[test]
        fn departure_is_within_the_slack(next: u32, now: u32, cost: u32, burst_ns: u32, wait_ns: u32) {
            let (now, next) = (now as u64, next as u64);
            let slack = Slack { burst_ns: burst_ns as u64, wait_ns: wait_ns as u64 };
            match turn(next, now, cost as u64, slack) {
                Some(Turn { at, next }) => {
                    prop_assert!(at + slack.burst_ns >= now && at <= now + slack.wait_ns);
                    prop_assert_eq!(next, at + cost as u64);
                }
                None => prop_assert!(next > now + slack.wait_ns),
            }
        }
    }
}
