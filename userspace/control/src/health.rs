//! What the process says about its controllers and its scheduler: whether they work, and counters.
//! In: reports of the parts. Out: a check for `/readyz` and samples for `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::Kind;

/// How long parts may take to list what they need, and a watch may fail, before the process counts as not ready.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// Bound of the metric that names unreadable objects.
const MAX_NAMED_OBJECTS: usize = 100;

/// The health of the parts that run in this process. Shared by the parts and by who answers for the process.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Parts that run and have not listed what they need, and since when.
    unsynced: BTreeMap<&'static str, Instant>,
    /// Kinds whose list or watch fails, and since when.
    failing: BTreeMap<&'static str, Instant>,
    /// Objects that do not decode, by kind.
    unreadable: BTreeMap<&'static str, BTreeSet<String>>,
    counters: BTreeMap<(Counter, &'static str), u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counter {
    /// Panics while an object was reconciled or its actions were performed, by controller.
    Panics,
    /// Starts of a part after it ended, by part.
    Restarts,
    /// Versions of objects that did not decode, by kind.
    Unreadable,
}

impl Health {
    /// Whether every running part has listed what it needs, and every watch works, or not yet for a minute.
    pub fn ready(&self) -> bool {
        self.ready_at(Instant::now())
    }

    fn ready_at(&self, now: Instant) -> bool {
        let state = self.lock();
        let mut since = state.unsynced.values().chain(state.failing.values());
        since.all(|since| now.saturating_duration_since(*since) < SYNC_TIMEOUT)
    }

    /// Samples in the Prometheus text format.
    pub fn metrics(&self) -> String {
        let state = self.lock();
        let mut out = String::new();
        for (counter, name, label, help) in [
            (
                Counter::Panics,
                "skep_reconcile_panics_total",
                "controller",
                "Panics while an object was handled",
            ),
            (Counter::Restarts, "skep_part_restarts_total", "part", "Restarts of a part that ended"),
            (
                Counter::Unreadable,
                "skep_unreadable_versions_total",
                "kind",
                "Versions of objects that did not decode",
            ),
        ] {
            let samples = state.counters.iter().filter(|((of, _), _)| *of == counter);
            family(&mut out, name, "counter", help, label, samples.map(|((_, value), n)| (*value, *n)));
        }
        let now = state.unreadable.iter().map(|(kind, keys)| (*kind, keys.len() as u64));
        let help =
            "Objects whose present version does not decode; controllers work with the last one that did";
        family(&mut out, "skep_unreadable_objects", "gauge", help, "kind", now);
        let names: Vec<String> = state
            .unreadable
            .iter()
            .flat_map(|(kind, keys)| keys.iter().map(move |key| format!("{kind} {key}")))
            .take(MAX_NAMED_OBJECTS)
            .map(|name| name.replace(['\\', '"', '\n'], "_"))
            .collect();
        let help = "Names of objects whose present version does not decode";
        let names = names.iter().map(|name| (&**name, 1));
        family(&mut out, "skep_unreadable_object", "gauge", help, "object", names);
        let failing = state.failing.keys().map(|kind| (*kind, 1));
        family(&mut out, "skep_watch_failing", "gauge", "Kinds whose list or watch fails", "kind", failing);
        let unsynced = state.unsynced.keys().map(|part| (*part, 1));
        let help = "Parts that have not listed every kind that they need";
        family(&mut out, "skep_part_unsynced", "gauge", help, "part", unsynced);
        out
    }

    /// A part runs, and has not listed what it needs.
    pub(crate) fn unsynced(&self, part: &'static str) {
        self.lock().unsynced.entry(part).or_insert_with(Instant::now);
    }

    pub(crate) fn synced(&self, part: &'static str) {
        self.lock().unsynced.remove(part);
    }

    /// The parts stop: another process leads, or this one ends.
    pub(crate) fn stopped(&self) {
        let mut state = self.lock();
        (state.unsynced, state.failing, state.unreadable) = Default::default();
    }

    /// The list or watch of a kind failed; whether that is news.
    pub(crate) fn watch_failed(&self, kind: Kind) -> bool {
        let mut state = self.lock();
        let news = !state.failing.contains_key(kind.name());
        state.failing.entry(kind.name()).or_insert_with(Instant::now);
        news
    }

    /// The list or watch of a kind works; whether that is news.
    pub(crate) fn watch_works(&self, kind: Kind) -> bool {
        self.lock().failing.remove(kind.name()).is_some()
    }

    pub(crate) fn count(&self, counter: Counter, label: &'static str) {
        *self.lock().counters.entry((counter, label)).or_default() += 1;
    }

    /// The keys of all objects of a kind that do not decode.
    pub(crate) fn unreadable(&self, kind: Kind, keys: BTreeSet<String>) {
        let mut state = self.lock();
        match keys.is_empty() {
            true => state.unreadable.remove(kind.name()),
            false => state.unreadable.insert(kind.name(), keys),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one family; nothing without samples.
fn family<'a>(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    label: &str,
    samples: impl Iterator<Item = (&'a str, u64)>,
) {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return;
    }
    // Writing into a string does not fail.
    let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    for (value, number) in samples {
        let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {number}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_does_not_sync_for_a_minute_makes_the_process_not_ready() {
        let (health, start) = (Health::default(), Instant::now());
        let later = |seconds| health.ready_at(start + Duration::from_secs(seconds));
        health.unsynced("controllers");
        assert!(later(59) && !later(62), "only after a minute");
        health.unsynced("controllers");
        assert!(!later(62), "a restart does not begin another minute");
        health.synced("controllers");
        assert!(later(62));
        assert!(health.watch_failed(Kind::Pod) && !health.watch_failed(Kind::Pod));
        assert!(later(59) && !later(62));
        assert!(health.watch_works(Kind::Pod) && later(62));
        health.unsynced("scheduler");
        health.stopped();
        assert!(later(62), "a process that does not lead is ready");
    }

    #[test]
    fn metrics_have_a_family_for_each_fact() {
        let health = Health::default();
        assert_eq!(health.metrics(), "");
        health.count(Counter::Panics, "job");
        health.count(Counter::Unreadable, "Pod");
        health.unreadable(Kind::Pod, ["ns/a".to_owned()].into());
        let text = health.metrics();
        for line in [
            "# TYPE skep_reconcile_panics_total counter",
            "skep_reconcile_panics_total{controller=\"job\"} 1",
            "skep_unreadable_versions_total{kind=\"Pod\"} 1",
            "skep_unreadable_objects{kind=\"Pod\"} 1",
            "skep_unreadable_object{object=\"Pod ns/a\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        health.unreadable(Kind::Pod, BTreeSet::new());
        assert!(!health.metrics().contains("skep_unreadable_objects"));
    }
}
