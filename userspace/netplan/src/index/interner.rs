//! Shares equal values: pods of one template differ in little but their name and address.

use std::collections::HashSet;
use std::sync::Arc;

use skep_policy::{Labels, NamedPort};

/// Values by content; equal ones are handed out as clones of one `Arc`.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Arc<Labels>>,
    ports: HashSet<Arc<[NamedPort]>>,
    /// Values left after the last shrink.
    shrunk_to: usize,
}

/// Fewer values than these are not worth a shrink.
const MIN_SHRINK: usize = 1_024;

impl Interner {
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    pub(crate) fn labels(&mut self, labels: Labels) -> Arc<Labels> {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        let labels = Arc::new(labels);
        self.labels.insert(labels.clone());
        labels
    }

    pub(crate) fn ports(&mut self, ports: Vec<NamedPort>) -> Arc<[NamedPort]> {
        if let Some(known) = self.ports.get(ports.as_slice()) {
            return known.clone();
        }
        let ports: Arc<[NamedPort]> = ports.into();
        self.ports.insert(ports.clone());
        ports
    }

    fn len(&self) -> usize {
        self.texts.len() + self.labels.len() + self.ports.len()
    }

    /// Drops values that nothing else refers to, if their number has doubled since the last time: pods of unique labels
    /// come and go for as long as the agent runs.
    pub(crate) fn shrink(&mut self) {
        if self.len() < 2 * self.shrunk_to.max(MIN_SHRINK) {
            return;
        }
        self.texts.retain(|value| Arc::strong_count(value) > 1);
        self.labels.retain(|value| Arc::strong_count(value) > 1);
        self.ports.retain(|value| Arc::strong_count(value) > 1);
        self.shrunk_to = self.len();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn labels_of_pods_that_are_gone_do_not_pile_up() {
        let mut interner = Interner::default();
        let stays = interner.text("namespace");
        let mut most = 0;
        for n in 0..20 * MIN_SHRINK {
            let labels = BTreeMap::from([("job".to_owned(), n.to_string())]);
            drop(interner.labels(Labels::from(&labels)));
            interner.shrink();
            most = most.max(interner.len());
        }
        assert!(most <= 2 * MIN_SHRINK, "{most} values");
        assert!(Arc::ptr_eq(&stays, &interner.text("namespace")));
    }
}
