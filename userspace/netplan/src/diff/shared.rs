//! Backend sets by content, so that services with the same backends share one.
//!
//! What is noted is a guess: sets come and go, so whoever finds one is told only what the kernel holds.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use skep_abi::Backend;

use super::kernel::Kernel;

#[derive(Debug, Default)]
pub(crate) struct Shared {
    by_content: HashMap<u64, u32>,
    /// Notes that were true when they were last looked at.
    true_then: usize,
}

impl Shared {
    /// A set of the kernel with exactly these backends.
    pub(crate) fn find(&self, backends: &[Backend], kernel: &Kernel) -> Option<u32> {
        self.by_content.get(&content(backends)).copied().filter(|set| kernel.holds(*set, backends))
    }

    pub(crate) fn note(&mut self, backends: &[Backend], set: u32) {
        self.by_content.insert(content(backends), set);
    }

    /// Forgets sets that are gone, once they may be most of what is noted. Nothing is to be under way.
    pub(crate) fn prune(&mut self, kernel: &Kernel) {
        if self.by_content.len() > 2 * self.true_then {
            self.by_content.retain(|_, set| kernel.set(*set).next().is_some());
            self.true_then = self.by_content.len();
        }
    }
}

fn content(backends: &[Backend]) -> u64 {
    let mut hasher = DefaultHasher::new();
    backends.hash(&mut hasher);
    hasher.finish()
}
