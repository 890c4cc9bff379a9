//! Whether a history of concurrent calls on one key has an order in which each call sees the calls before it (as Porcupine,
//! after Wing and Gong, with Lowe's memory of visited states).
//!
//! In: calls with the times at which they began and ended, and what they saw. Out: whether such an order exists in which no
//! call comes before one that ended before it began.

use std::collections::HashSet;

/// A value that was written; each write has another one.
pub type Value = u64;

/// What was called, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read(Option<Value>),
    Created(Value),
    /// There was something.
    CreateRefused,
    Swapped {
        old: Value,
        new: Value,
    },
    /// There was something else, or nothing.
    SwapRefused {
        old: Value,
    },
    Deleted,
    /// There was nothing.
    DeleteRefused,
}

/// One call of a history.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub call: Call,
    pub began: u64,
    /// `None`: no answer came; the call may have happened at any time after it began, or never.
    pub ended: Option<u64>,
}

impl Call {
    /// The state after the call; `None` if the call cannot have seen this state.
    fn apply(self, state: Option<Value>) -> Option<Option<Value>> {
        let (possible, after) = match self {
            Call::Read(seen) => (seen == state, state),
            Call::Created(value) => (state.is_none(), Some(value)),
            Call::CreateRefused => (state.is_some(), state),
            Call::Swapped { old, new } => (state == Some(old), Some(new)),
            Call::SwapRefused { old } => (state != Some(old), state),
            Call::Deleted => (state.is_some(), None),
            Call::DeleteRefused => (state.is_none(), None),
        };
        possible.then_some(after)
    }
}

/// Whether the history of a key, which began as absent, is linearizable.
pub fn is_linearizable(mut history: Vec<Operation>) -> bool {
    history.sort_by_key(|operation| operation.began);
    let mut search = Search { history: &history, visited: HashSet::new() };
    search.run(Done::new(history.len()), None)
}

struct Search<'a> {
    /// By begin.
    history: &'a [Operation],
    visited: HashSet<(Done, Option<Value>)>,
}

/// The calls that are in the order so far: all before `first`, and those of a set.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done {
    first: usize,
    set: Vec<u64>,
}

impl Done {
    fn new(calls: usize) -> Done {
        Done { first: 0, set: vec![0; calls.div_ceil(64)] }
    }

    fn has(&self, at: usize) -> bool {
        self.set[at / 64] >> (at % 64) & 1 == 1
    }

    fn with(&self, at: usize, calls: usize) -> Done {
        let mut done = self.clone();
        done.set[at / 64] |= 1 << (at % 64);
        while done.first < calls && done.has(done.first) {
            done.first += 1;
        }
        done
    }
}

impl Search<'_> {
    /// Depth first, without recursion: histories are long.
    fn run(&mut self, done: Done, state: Option<Value>) -> bool {
        let mut stack = vec![(done, state)];
        while let Some((done, state)) = stack.pop() {
            if !self.visited.insert((done.clone(), state)) {
                continue;
            }
            // The next call began before the first end among those that are not in the order.
            let open = (done.first..self.history.len()).filter(|at| !done.has(*at));
            let Some(deadline) = open.clone().filter_map(|at| self.history[at].ended).min() else {
                return true;
            };
            for at in open.take_while(|at| self.history[*at].began <= deadline) {
                if let Some(after) = self.history[at].call.apply(state) {
                    stack.push((done.with(at, self.history.len()), after));
                }
            }
        }
        false
    }
}
