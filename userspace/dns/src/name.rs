//! Domain names as the index looks them up: labels in lower case, the leftmost first.

use std::borrow::Cow;

use hickory_proto::rr::Name;

/// The labels of a name. A label that is no text, or contains a dot, equals no label of the cluster.
pub(crate) struct Labels<'a>(Vec<Cow<'a, str>>);

impl<'a> Labels<'a> {
    pub(crate) fn of(name: &'a Name) -> Self {
        Labels(name.iter().map(lower_case).collect())
    }

    pub(crate) fn as_strs(&self) -> Vec<&str> {
        self.0.iter().map(AsRef::as_ref).collect()
    }

    pub(crate) fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// The labels before the zone's, if the name is in the zone or is the zone.
    pub(crate) fn below(&self, zone: &[String]) -> Option<Vec<&str>> {
        let (below, end) = self.0.split_at_checked(self.0.len().checked_sub(zone.len())?)?;
        (end == zone).then(|| below.iter().map(AsRef::as_ref).collect())
    }
}

/// Copies only labels that are not in lower case.
fn lower_case(label: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(label);
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text,
    }
}

/// A name from its text, absolute with or without the final dot. `None`: it is none.
pub(crate) fn parse(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}
