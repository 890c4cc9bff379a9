//! Who runs and who waits: seats of priority levels, and fair queues in each. PURE: times are passed in.
//!
//! Each request takes seats of its level while it runs. A level has its nominal seats; a part of them it lends, and it may
//! borrow what others lend. Within a level, requests of a flow wait in one of the flow's queues, and the queue that has
//! used the least seat time is served next, so that a flow with many requests does not delay one with few.

use std::collections::VecDeque;
use std::time::Duration;

use super::shuffle::hand;

/// The seat time that a request is charged when it starts; more is charged at its end if it took more.
const ESTIMATED_SECONDS: f64 = 0.003;

/// How a level treats requests that exceed its seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// There is no limit.
    Exempt,
    Reject,
    Queue {
        queues: usize,
        hand_size: usize,
        queue_length: usize,
    },
}

/// A priority level, with its seats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LevelSpec {
    pub(super) name: String,
    /// At least one.
    pub(super) nominal: u32,
    /// Of the nominal seats.
    pub(super) lendable: u32,
    /// Beyond the nominal seats.
    pub(super) borrowing_limit: u32,
    pub(super) response: Response,
}

/// Identifies a level for as long as requests of it run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelId(u64);

/// The seats of a running request. They must be given back by [`Core::finish`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seats {
    level: LevelId,
    queue: usize,
    pub(super) width: u32,
    since: Duration,
}

/// A waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    level: LevelId,
    queue: usize,
    id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    QueueFull,
    ConcurrencyLimit,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Run(Seats),
    Wait(Ticket),
    Refuse(Refusal),
}

/// A waiting request that runs now.
pub(super) type Started<T> = Vec<(T, Seats)>;

/// All levels. `T` is what the caller needs to start a waiting request.
pub(super) struct Core<T> {
    levels: Vec<Level<T>>,
    next_id: u64,
}

struct Level<T> {
    id: LevelId,
    spec: LevelSpec,
    /// It was deleted, and is forgotten when its last request ends.
    is_retired: bool,
    in_use: u32,
    waiting: usize,
    queues: Vec<Queue<T>>,
    /// The seat time of the queue that was served last: an idle queue starts again from here.
    served: f64,
}

struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Seats that its waiting requests want.
    wanted: u32,
    in_use: u32,
    /// Seat seconds that were used.
    used: f64,
}

struct Waiting<T> {
    id: u64,
    width: u32,
    token: T,
}

impl<T> Queue<T> {
    fn new() -> Queue<T> {
        Queue { waiting: VecDeque::new(), wanted: 0, in_use: 0, used: 0.0 }
    }
}

impl<T> Level<T> {
    fn new(id: LevelId, spec: LevelSpec) -> Level<T> {
        let count = spec.queues();
        let queues = std::iter::repeat_with(Queue::new).take(count).collect();
        Level { id, spec, is_retired: false, in_use: 0, waiting: 0, queues, served: 0.0 }
    }

    /// Seats in use beyond those that are never lent.
    fn beyond_own(&self, in_use: u32) -> u32 {
        in_use.saturating_sub(self.spec.nominal - self.spec.lendable)
    }

    fn is_limited(&self) -> bool {
        self.spec.response != Response::Exempt && !self.is_retired
    }

    /// Whether it waits for seats of its own.
    fn is_entitled(&self) -> bool {
        self.waiting > 0 && self.in_use < self.spec.nominal
    }

    /// The flow's queue with the least work.
    fn queue_of(&self, flow: u64) -> usize {
        let Response::Queue { queues, hand_size, .. } = self.spec.response else { return 0 };
        let work = |queue: &usize| self.queues[*queue].wanted + self.queues[*queue].in_use;
        hand(flow, queues, hand_size).min_by_key(work).unwrap_or(0)
    }

    /// Takes seats for a request of the queue.
    fn run(&mut self, queue: usize, width: u32, now: Duration) -> Seats {
        self.in_use += width;
        if let Some(queue) = self.queues.get_mut(queue) {
            self.served = self.served.max(queue.used);
            queue.in_use += width;
            queue.used += f64::from(width) * ESTIMATED_SECONDS;
        }
        Seats { level: self.id, queue, width, since: now }
    }

    /// A queue in which nothing waited does not catch up with the seat time that it did not want.
    fn wake(&mut self, queue: usize) {
        if let Some(queue) = self.queues.get_mut(queue).filter(|queue| queue.waiting.is_empty()) {
            queue.used = queue.used.max(self.served);
        }
    }

    /// Gives seats back. What a queue used beyond the others counts for at most a second of all seats: it is behind then,
    /// and not shut out.
    fn finish(&mut self, seats: &Seats, now: Duration) {
        self.in_use = self.in_use.saturating_sub(seats.width);
        if let Some(queue) = self.queues.get_mut(seats.queue) {
            queue.in_use = queue.in_use.saturating_sub(seats.width);
            let took = now.saturating_sub(seats.since).as_secs_f64();
            let used = queue.used + f64::from(seats.width) * (took - ESTIMATED_SECONDS).max(0.0);
            queue.used = used.min(queue.used.max(self.served + f64::from(self.spec.nominal)));
        }
    }

    /// The queue to serve next, and the seats that its first request wants.
    fn next(&self) -> Option<(usize, u32)> {
        let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        let (at, queue) = waiting.min_by(|(_, a), (_, b)| a.used.total_cmp(&b.used))?;
        queue.waiting.front().map(|first| (at, first.width))
    }

    fn start(&mut self, queue: usize, now: Duration) -> Option<(T, Seats)> {
        let first = self.queues.get_mut(queue)?.waiting.pop_front()?;
        self.queues[queue].wanted -= first.width;
        self.waiting -= 1;
        let width = if self.is_limited() { first.width.min(self.spec.nominal) } else { first.width };
        Some((first.token, self.run(queue, width, now)))
    }

    /// Takes on a new specification. Waiting requests keep their order.
    fn change(&mut self, spec: LevelSpec) {
        let count = spec.queues();
        if count != self.queues.len() {
            let new: Vec<Queue<T>> = std::iter::repeat_with(Queue::new).take(count.max(1)).collect();
            let old = std::mem::replace(&mut self.queues, new);
            for (at, queue) in old.into_iter().enumerate() {
                let into = &mut self.queues[at % count.max(1)];
                into.used = into.used.max(queue.used);
                into.in_use += queue.in_use;
                into.wanted += queue.wanted;
                into.waiting.extend(queue.waiting);
            }
            self.queues.iter_mut().for_each(|queue| {
                queue.waiting.make_contiguous().sort_by_key(|waiting| waiting.id);
            });
        }
        self.spec = spec;
    }
}

impl LevelSpec {
    fn queues(&self) -> usize {
        match self.response {
            Response::Queue { queues, .. } => queues,
            _ => 0,
        }
    }
}

impl<T> Core<T> {
    pub(super) fn new() -> Core<T> {
        Core { levels: Vec::new(), next_id: 0 }
    }

    /// Takes on new levels; those of the same name keep their requests. What waits in a level that no longer queues runs.
    pub(super) fn configure(
        &mut self,
        specs: Vec<LevelSpec>,
        now: Duration,
    ) -> (Vec<(String, LevelId)>, Started<T>) {
        self.levels.iter_mut().for_each(|level| level.is_retired = true);
        for spec in specs {
            match self.levels.iter_mut().find(|level| level.spec.name == spec.name) {
                Some(level) => {
                    level.is_retired = false;
                    level.change(spec);
                }
                None => {
                    let id = LevelId(self.next_id());
                    self.levels.push(Level::new(id, spec));
                }
            }
        }
        let mut started = Started::new();
        for level in &mut self.levels {
            let queues = matches!(level.spec.response, Response::Queue { .. }) && !level.is_retired;
            while !queues && let Some((queue, _)) = level.next() {
                started.extend(level.start(queue, now));
            }
        }
        self.levels.retain(|level| !level.is_retired || level.in_use > 0);
        let present = self.levels.iter().filter(|level| !level.is_retired);
        let ids = present.map(|level| (level.spec.name.clone(), level.id)).collect();
        started.extend(self.dispatch(now));
        (ids, started)
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Decides on a new request of a flow. `token` is kept while it waits.
    pub(super) fn arrive(
        &mut self,
        level: LevelId,
        flow: u64,
        width: u32,
        now: Duration,
        token: impl FnOnce() -> T,
    ) -> Decision {
        let id = self.next_id();
        let Some(at) = self.position(level) else { return Decision::Refuse(Refusal::ConcurrencyLimit) };
        if self.levels[at].spec.response == Response::Exempt {
            return Decision::Run(self.levels[at].run(0, width, now));
        }
        let width = width.min(self.levels[at].spec.nominal);
        let has_room = self.levels[at].waiting == 0
            && (self.fits(at, width, false) || self.may_borrow() && self.fits(at, width, true));
        let found = &mut self.levels[at];
        let queue_length = match found.spec.response {
            Response::Exempt | Response::Reject if has_room => {
                return Decision::Run(found.run(0, width, now));
            }
            Response::Exempt | Response::Reject => return Decision::Refuse(Refusal::ConcurrencyLimit),
            Response::Queue { queue_length, .. } => queue_length,
        };
        let queue = found.queue_of(flow);
        found.wake(queue);
        if has_room {
            return Decision::Run(found.run(queue, width, now));
        }
        if found.queues[queue].waiting.len() >= queue_length {
            return Decision::Refuse(Refusal::QueueFull);
        }
        found.queues[queue].waiting.push_back(Waiting { id, width, token: token() });
        found.queues[queue].wanted += width;
        found.waiting += 1;
        Decision::Wait(Ticket { level, queue, id })
    }

    /// Gives seats back, and starts what fits now.
    pub(super) fn finish(&mut self, seats: &Seats, now: Duration) -> Started<T> {
        let Some(at) = self.position(seats.level) else { return Started::new() };
        let level = &mut self.levels[at];
        level.finish(seats, now);
        if level.is_retired && level.in_use == 0 {
            self.levels.remove(at);
        }
        self.dispatch(now)
    }

    /// Forgets a waiting request, unless it was started. The one behind it may fit.
    pub(super) fn cancel(&mut self, ticket: &Ticket, now: Duration) -> (bool, Started<T>) {
        let Some(at) = self.position(ticket.level) else { return (false, Started::new()) };
        let level = &mut self.levels[at];
        // The number of queues may have changed since.
        let found = level.queues.iter_mut().find_map(|queue| {
            let at = queue.waiting.iter().position(|waiting| waiting.id == ticket.id)?;
            let waiting = queue.waiting.remove(at)?;
            queue.wanted -= waiting.width;
            Some(())
        });
        if found.is_none() {
            return (false, Started::new());
        }
        level.waiting -= 1;
        (true, self.dispatch(now))
    }

    /// Seats in use and requests that wait.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u32, usize) {
        let levels = || self.levels.iter();
        (levels().map(|level| level.in_use).sum(), levels().map(|level| level.waiting).sum())
    }

    fn position(&self, id: LevelId) -> Option<usize> {
        self.levels.iter().position(|level| level.id == id)
    }

    /// Whether no level waits for seats of its own, so that others may borrow.
    fn may_borrow(&self) -> bool {
        !self.levels.iter().any(Level::is_entitled)
    }

    /// Whether a level may take this many more seats, of its own or borrowed ones.
    fn fits(&self, at: usize, width: u32, borrowing: bool) -> bool {
        let level = &self.levels[at];
        // Its level may have shrunk since it arrived.
        let width = width.min(level.spec.nominal);
        let limit = if borrowing { level.spec.borrowing_limit } else { 0 };
        let after = level.in_use + width;
        if after > level.spec.nominal.saturating_add(limit) {
            return false;
        }
        let limited = || self.levels.iter().filter(|level| level.is_limited());
        let lendable: u32 = limited().map(|level| level.spec.lendable).sum();
        let lent: u32 = limited().map(|level| level.beyond_own(level.in_use)).sum();
        let more = level.beyond_own(after) - level.beyond_own(level.in_use);
        more == 0 || lent + more <= lendable
    }

    /// Starts waiting requests: first those that have seats of their level, then those that borrow.
    fn dispatch(&mut self, now: Duration) -> Started<T> {
        let mut started = Started::new();
        for borrowing in [false, true] {
            for at in 0..self.levels.len() {
                if self.levels[at].waiting == 0 {
                    continue;
                }
                while let Some((queue, width)) = self.levels[at].next()
                    && (!borrowing || self.may_borrow())
                    && self.fits(at, width, borrowing)
                {
                    started.extend(self.levels[at].start(queue, now));
                }
            }
        }
        started
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
