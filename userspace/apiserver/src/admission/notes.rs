//! What admission reports besides its decision: warnings for the client, annotations for the audit event.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use crate::lock::Lock;

/// The notes of one request; sent with its response, whether it succeeds or fails.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    inner: Lock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Adds a warning once, even if the request is retried.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let (warning, mut inner) = (warning.into(), self.lock());
        if !inner.warnings.contains(&warning) {
            inner.warnings.push(warning);
        }
    }

    /// Adds an annotation; the first value of a key stays.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.lock().annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    pub(crate) fn take(&self) -> (Vec<String>, BTreeMap<String, String>) {
        let mut inner = self.lock();
        (std::mem::take(&mut inner.warnings), std::mem::take(&mut inner.annotations))
    }
}
