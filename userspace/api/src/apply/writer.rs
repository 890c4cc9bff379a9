//! Who writes: the manager of a request, the subresource it goes through, and its time.

use super::managers::ManagerId;

/// The manager of a write, the subresource it goes through, and its time.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or the client's name; empty becomes `unknown`.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, in whole seconds.
    pub now: &'a str,
}

impl Writer<'_> {
    pub(super) fn id(&self, version: &str, applies: bool) -> ManagerId {
        let name = if self.manager.is_empty() { "unknown" } else { self.manager };
        ManagerId {
            name: name.to_owned(),
            applies,
            version: if applies { String::new() } else { version.to_owned() },
            subresource: self.subresource.to_owned(),
        }
    }
}
