//! Pauses between attempts to reach a server. PURE.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// With the time for a handshake, an agent is back at a server within 2 s of its start.
const LONGEST: Duration = Duration::from_millis(1_500);
/// A server has stayed for this long before its end counts as the first.
const STABLE: Duration = Duration::from_secs(10);

/// The pauses of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackOff {
    attempts: u32,
}

impl BackOff {
    /// The pause after a tunnel that was open for `open` (zero if it could not be opened). `random` is in 0..1: agents that
    /// lost a server together do not come back together.
    pub(super) fn pause(&mut self, open: Duration, random: f64) -> Duration {
        if open >= STABLE {
            self.attempts = 0;
        }
        let longest = FIRST.saturating_mul(1 << self.attempts.min(8)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        longest.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again_after_a_stable_tunnel() {
        let mut back_off = BackOff::default();
        let pauses: Vec<Duration> = (0..1_000).map(|_| back_off.pause(Duration::ZERO, 1.0)).collect();
        assert_eq!(pauses[..4], [200, 400, 800, 1_500].map(Duration::from_millis));
        assert!(pauses.iter().all(|pause| *pause <= LONGEST));
        assert_eq!(back_off.pause(STABLE, 0.0), FIRST / 2);
        assert_eq!(back_off.pause(STABLE / 2, 1.0), FIRST * 2);
    }
}
