//! Rounds of what changes objects: who saw an object that is another one by now may want to see it again, once.

use std::collections::HashSet;
use std::hash::Hash;

use serde_json::Value;

/// What the first round of webhooks, or of policies, did, for the second. Each is known by its key.
#[derive(Debug)]
pub(super) struct Rounds<K> {
    /// Who may be asked again.
    asked: HashSet<K>,
    again: HashSet<K>,
    second: bool,
    changed: bool,
    /// The object as the last of them left it.
    left: Option<Value>,
}

impl<K> Default for Rounds<K> {
    fn default() -> Rounds<K> {
        let (asked, again) = (HashSet::new(), HashSet::new());
        Rounds { asked, again, second: false, changed: false, left: None }
    }
}

impl<K: Eq + Hash> Rounds<K> {
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn is_second(&self) -> bool {
        self.second
    }

    /// Begins the second round; whoever saw another object than this is asked again.
    pub(super) fn begin_second(&mut self, object: &Value) {
        self.second = true;
        if self.left.as_ref() != Some(object) {
            self.change();
        }
    }

    /// The object is another now: who saw it before may want to see it again.
    pub(super) fn change(&mut self) {
        self.changed = true;
        self.again.extend(self.asked.drain());
    }

    /// Whether it is somebody's turn: in the second round only of those who are asked again.
    pub(super) fn takes(&mut self, key: &K) -> bool {
        !self.second || self.again.remove(key)
    }

    /// Somebody saw the object, and wants to see what becomes of it.
    pub(super) fn remember(&mut self, key: K) {
        self.asked.insert(key);
    }

    pub(super) fn end(&mut self, object: &Value) {
        self.left = Some(object.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_may_be_asked_again_is_if_the_object_changed_since() {
        let mut rounds = Rounds::default();
        rounds.remember(0);
        rounds.end(&json!(1));
        rounds.begin_second(&json!(1));
        assert!(!rounds.has_changed() && !rounds.takes(&0));
        rounds.begin_second(&json!(2));
        assert!(rounds.has_changed() && rounds.takes(&0) && !rounds.takes(&0));
    }
}
