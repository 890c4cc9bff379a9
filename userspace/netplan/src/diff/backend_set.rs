//! Backend sets: which number has which content, and the Maglev tables of sets that external packets reach.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use skep_abi::{Backend, MAGLEV_MAX, MaglevKey};

use super::kernel::Kernel;
use crate::maglev;
use crate::write::Write;

/// Backend sets by content, so that services with the same backends share one. An entry is a hint: sets come and go, so
/// [`SetIndex::find`] checks it against the kernel.
#[derive(Debug, Default)]
pub(crate) struct SetIndex {
    /// Keyed by a hash of this process only.
    by_content: HashMap<u64, u32>,
    /// Entries left after the last prune.
    pruned_to: usize,
}

impl SetIndex {
    /// A set in the kernel with exactly these backends.
    pub(crate) fn find(&self, backends: &[Backend], kernel: &Kernel) -> Option<u32> {
        self.by_content.get(&content(backends)).copied().filter(|set| kernel.holds(*set, backends))
    }

    pub(crate) fn insert(&mut self, backends: &[Backend], set: u32) {
        self.by_content.insert(content(backends), set);
    }

    /// Forgets sets that are gone, once they may be most entries. To be called with no plan outstanding.
    pub(crate) fn prune(&mut self, kernel: &Kernel) {
        if self.by_content.len() > 2 * self.pruned_to {
            self.by_content.retain(|_, set| kernel.maps.pages_of(*set).next().is_some());
            self.pruned_to = self.by_content.len();
        }
    }
}

fn content(backends: &[Backend]) -> u64 {
    let mut hasher = DefaultHasher::new();
    backends.hash(&mut hasher);
    hasher.finish()
}

/// Adds the pages of the set's Maglev table that the kernel lacks; false if there is no room for them. A table is complete
/// before a frontend uses it. A set without a table still spreads flows evenly, but more of them move when it changes.
pub(crate) fn plan_table(set: u32, backends: &[Backend], kernel: &Kernel, writes: &mut Vec<Write>) -> bool {
    let held = kernel.table(set).count();
    let more = maglev::page_count(backends).saturating_sub(held);
    if more > 0 && kernel.maps.maglev.len() + writes.len() + more > MAGLEV_MAX as usize {
        return false;
    }
    let pages = maglev::pages(backends).into_iter().zip(0..);
    writes.extend(pages.filter_map(|(page, number)| {
        let key = MaglevKey { set, page: number };
        let holds = kernel.maps.maglev.get(&key).is_some_and(|held| **held == page);
        (!holds).then(|| Write::PutMaglev(key, Arc::new(page)))
    }));
    true
}
