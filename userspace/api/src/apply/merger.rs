//! One write of an object: which manager owns which field afterwards (structured-merge-diff's `Updater`).

use serde_json::Value;

use super::compare::{Comparison, compare};
use super::conflict::Conflicts;
use super::fields::fields_of;
use super::managers::{Entry, ManagerId, Managers};
use super::merge::merge;
use super::merge_type::MergeType;
use super::ownable::{Ownable, strip_system_fields};
use super::path_element::equal;
use super::prune::prune;

/// The type of an object, the fields that the writer can own, and the version and time of its entry.
pub(super) struct Merger<'a> {
    pub(super) root: MergeType<'a>,
    pub(super) ownable: Ownable,
    pub(super) version: String,
    pub(super) now: &'a str,
}

impl Merger<'_> {
    /// The managers after a write by `id` that changed `old` to `new`.
    pub(super) fn record(
        &self,
        mut managers: Managers,
        old: &Value,
        new: &Value,
        id: &ManagerId,
    ) -> Managers {
        managers.reconcile(self.root);
        let mut difference = compare(self.root, Some(old), Some(new));
        self.retain_ownable(&mut difference);
        let Comparison { mut changed, removed } = difference;
        if changed.is_empty() && removed.is_empty() {
            return managers;
        }
        managers.remove_fields(&changed);
        managers.remove_fields(&removed);
        strip_system_fields(&mut changed);
        if !changed.is_empty() {
            let time = Some(self.now.to_owned());
            match managers.0.get_mut(id) {
                Some(entry) => {
                    entry.fields.union(&changed);
                    entry.time = time;
                }
                None => {
                    let entry = Entry { version: self.version.clone(), time, fields: changed };
                    managers.0.insert(id.clone(), entry);
                }
            }
        }
        managers.cap_updates();
        managers
    }

    /// Merges the configuration of `id` into `live`. Err: the fields of other managers that this would change, unless
    /// forced.
    pub(super) fn merge(
        &self,
        mut managers: Managers,
        live: &Value,
        config: &Value,
        id: ManagerId,
        force: bool,
    ) -> Result<(Value, Managers), Conflicts> {
        managers.reconcile(self.root);
        let mut new = merge(self.root, live.clone(), config);
        let mut fields = fields_of(self.root, config);
        self.ownable.retain(&mut fields);
        let last = managers.0.remove(&id);
        // Nothing is pruned if the last configuration had nothing else.
        if let Some(last) = &last
            && !last.fields.is_subset(&fields)
        {
            let mut owned = fields.clone();
            managers.0.values().for_each(|other| owned.union(&other.fields));
            new = prune(self.root, new, &last.fields, &owned);
        }
        let mut difference = compare(self.root, Some(live), Some(&new));
        let is_different = !difference.changed.is_empty() || !difference.removed.is_empty();
        self.retain_ownable(&mut difference);
        let Comparison { changed, removed } = difference;
        let conflicts: Conflicts = managers
            .0
            .iter()
            .map(|(other, entry)| (other.clone(), entry.fields.intersection(&changed)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        managers.remove_fields(&changed);
        managers.remove_fields(&removed);
        strip_system_fields(&mut fields);
        if !fields.is_empty() {
            // An applier that changes nothing keeps its time; a new one has none.
            let now = || Some(self.now.to_owned());
            // The order of items is no difference of fields.
            let is_same = !is_different && equal(live, &new);
            let time = if is_same { last.and_then(|last| last.time) } else { now() };
            managers.0.insert(id, Entry { version: self.version.clone(), time, fields });
        }
        Ok((new, managers))
    }

    /// Removes the fields that the writer cannot own.
    fn retain_ownable(&self, difference: &mut Comparison) {
        self.ownable.retain(&mut difference.changed);
        self.ownable.retain(&mut difference.removed);
    }
}
