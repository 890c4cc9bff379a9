//! Domain names as the index looks them up: labels in lower case, the leftmost first.

use hickory_proto::rr::Name;

/// The labels of a name. A label that is no text, or contains a dot, equals no label of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<String>);

impl Labels {
    pub(crate) fn of(name: &Name) -> Self {
        let label = |label: &[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        Labels(name.iter().map(label).collect())
    }

    /// The labels before the zone's, if the name is in the zone or is the zone.
    pub(crate) fn below(&self, zone: &Labels) -> Option<&[String]> {
        self.0.strip_suffix(zone.0.as_slice())
    }

    pub(crate) fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// A name from its text, absolute with or without the final dot. `None`: it is none.
pub(crate) fn parse(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}
