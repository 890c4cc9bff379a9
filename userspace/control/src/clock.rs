//! The two clocks: the wall clock, which API times are of and which may step, and a steady one for what this process
//! observed and when it acts again.

use std::sync::LazyLock;
use std::time::Instant;

use jiff::Timestamp;
use skep_api::time;

static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));

/// The steady clock. It shows the wall clock's time of the process's start, and goes on evenly from there.
pub(crate) fn steady() -> Timestamp {
    let (start, instant) = *START;
    time::after(start, instant.elapsed())
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) steady: Timestamp,
}

impl Now {
    pub(crate) fn read() -> Now {
        Now { wall: Timestamp::now(), steady: steady() }
    }

    /// The time on the steady clock that is as far away as a time on the wall clock.
    pub(crate) fn steady_of(self, wall: Timestamp) -> Timestamp {
        time::after(self.steady, time::elapsed(self.wall, wall))
    }
}
