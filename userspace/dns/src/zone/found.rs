//! What a look-up is about, and what it finds.

use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::Index;
use crate::settings::Settings;

/// What the zone has at a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lookup {
    /// Records of the type, and addresses that help to use them.
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name is another name.
    Alias { target: Name, ttl: u32 },
    /// The name exists and has no record of the type.
    Empty,
    /// Only names below it exist.
    NonTerminal,
    /// Neither the name nor one below it exists.
    Absent,
    /// The name is in another zone.
    Outside,
}

impl Lookup {
    pub(super) fn records(answers: Vec<Record>) -> Lookup {
        match answers.is_empty() {
            true => Lookup::Empty,
            false => Lookup::Records { answers, additionals: Vec::new() },
        }
    }
}

/// A look-up in progress.
pub(super) struct Asked<'a> {
    /// As it was asked, in its case; the owner of the answers.
    pub(super) name: &'a Name,
    pub(super) kind: RecordType,
    pub(super) index: &'a Index,
    pub(super) settings: &'a Settings,
}

impl Asked<'_> {
    pub(super) fn ttl(&self) -> u32 {
        self.settings.ttl
    }

    pub(super) fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.ttl(), data)
    }
}
