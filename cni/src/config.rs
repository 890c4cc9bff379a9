//! The network configuration that a runtime passes on stdin.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{CniError, code};
use crate::result::CniResult;

/// Oldest first.
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
}

/// What of the configuration concerns us; other keys are other plugins' business.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    pub version: Version,
    pub name: String,
    /// The agent's socket, if not the usual one.
    pub socket: Option<PathBuf>,
    pub mtu: Option<u32>,
    /// What the plugin before us made; with CHECK and DEL what we answered to ADD.
    pub previous: Option<CniResult>,
    /// GC: what is still in use. `None`: the runtime does not say.
    pub valid: Option<Vec<AttachmentId>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AttachmentId {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    agent_socket: Option<PathBuf>,
    mtu: Option<u32>,
    prev_result: Option<CniResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<AttachmentId>>,
}

impl NetConf {
    pub fn parse(stdin: &[u8]) -> Result<NetConf, CniError> {
        let raw: Raw = serde_json::from_slice(stdin).map_err(|reason| {
            CniError::new(code::DECODE, "the network configuration is not understood", reason.to_string())
        })?;
        let Raw { cni_version, name, agent_socket, mtu, prev_result, valid } = raw;
        let version = Version::parse(&cni_version).ok_or_else(|| {
            let details = format!("cniVersion {cni_version:?}; supported: {}", SUPPORTED.join(", "));
            CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details)
        })?;
        if name.is_empty() {
            return Err(CniError::new(code::BAD_CONFIG, "the network configuration has no name", ""));
        }
        Ok(NetConf { version, name, socket: agent_socket, mtu, previous: prev_result, valid })
    }
}

/// The version of a configuration that may otherwise be nonsense: an answer to it should bear it.
pub(crate) fn version_of(stdin: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct OnlyVersion {
        cni_version: String,
    }
    serde_json::from_slice::<OnlyVersion>(stdin).ok().map(|only| only.cni_version)
}
