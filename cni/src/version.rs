//! Versions of the CNI protocol.

use serde::Deserialize;

/// The versions that the plugin speaks, oldest first.
pub const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One of [`SUPPORTED`]; ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub const LATEST: Version = Version::V1_1_0;

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0.3.1" => Some(Version::V0_3_1),
            "0.4.0" => Some(Version::V0_4_0),
            "1.0.0" => Some(Version::V1_0_0),
            "1.1.0" => Some(Version::V1_1_0),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version in which to answer a configuration that may be invalid otherwise: its own if supported, else the
    /// latest.
    pub(crate) fn of_answer(stdin: &[u8]) -> Version {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct OnlyVersion {
            cni_version: String,
        }
        let only = serde_json::from_slice::<OnlyVersion>(stdin).ok();
        only.and_then(|only| Version::parse(&only.cni_version)).unwrap_or(Version::LATEST)
    }
}
