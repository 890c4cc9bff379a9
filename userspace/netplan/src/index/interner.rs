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
}

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

    /// Drops values that nothing else refers to.
    pub(crate) fn shrink(&mut self) {
        self.texts.retain(|value| Arc::strong_count(value) > 1);
        self.labels.retain(|value| Arc::strong_count(value) > 1);
        self.ports.retain(|value| Arc::strong_count(value) > 1);
    }
}
