//! Reinvocation: a mutating webhook or policy that saw an object which others changed later may be called a second time.
//!
//! In: what the first round called, and which calls changed the object. Out: what the second round has to call.

use std::collections::HashSet;
use std::hash::Hash;

use serde_json::Value;

/// The two rounds of mutating webhooks, or of mutating policies. `K` identifies a hook.
#[derive(Debug)]
pub(super) struct Reinvocation<K> {
    /// Hooks with `reinvocationPolicy: IfNeeded` that saw the object as it is.
    reinvocable: HashSet<K>,
    /// Hooks that the second round calls.
    due: HashSet<K>,
    second_round: bool,
    changed: bool,
    /// The object after the last hook of the round.
    last_output: Option<Value>,
}

impl<K> Default for Reinvocation<K> {
    fn default() -> Reinvocation<K> {
        let (reinvocable, due) = (HashSet::new(), HashSet::new());
        Reinvocation { reinvocable, due, second_round: false, changed: false, last_output: None }
    }
}

impl<K: Eq + Hash> Reinvocation<K> {
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn is_second_round(&self) -> bool {
        self.second_round
    }

    /// If the object is not the output of the first round, every reinvocable hook is due.
    pub(super) fn start_second_round(&mut self, object: &Value) {
        self.second_round = true;
        if self.last_output.as_ref() != Some(object) {
            self.mark_changed();
        }
    }

    /// The object changed: reinvocable hooks that saw it before are due in the second round.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
        self.due.extend(self.reinvocable.drain());
    }

    /// Whether to call a hook: all in the first round, in the second each due one once.
    pub(super) fn take_due(&mut self, key: &K) -> bool {
        !self.second_round || self.due.remove(key)
    }

    /// A hook was called that may be called again if the object changes.
    pub(super) fn add_reinvocable(&mut self, key: K) {
        self.reinvocable.insert(key);
    }

    pub(super) fn finish_round(&mut self, object: &Value) {
        self.last_output = Some(object.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reinvocable_hook_is_due_once_if_the_object_changed() {
        let mut rounds = Reinvocation::default();
        rounds.add_reinvocable(0);
        rounds.finish_round(&json!(1));
        rounds.start_second_round(&json!(1));
        assert!(!rounds.has_changed() && !rounds.take_due(&0));
        rounds.start_second_round(&json!(2));
        assert!(rounds.has_changed() && rounds.take_due(&0) && !rounds.take_due(&0));
    }
}
