//! The network configuration that a runtime passes on stdin.
//!
//! In: JSON. Out: [`NetConf`], or a [`CniError`] with the code that the specification gives.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{CniError, code};
use crate::result::CniResult;
use crate::version::{SUPPORTED, Version};

/// The fields of the configuration that this plugin uses.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    pub version: Version,
    pub name: String,
    /// The agent's socket; `None`: [`crate::agent::SOCKET`].
    pub socket: Option<PathBuf>,
    /// Bytes; `None`: the agent chooses.
    pub mtu: Option<u32>,
    /// prevResult. ADD: the result of the previous plugin in the chain. CHECK and DEL: our own result of ADD.
    pub previous: Option<CniResult>,
    /// GC: the attachments still in use; `None`: the runtime did not list them.
    pub valid: Option<Vec<AttachmentId>>,
}

/// One interface of one container.
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
    /// Needs a supported version and a name.
    pub fn parse(stdin: &[u8]) -> Result<NetConf, CniError> {
        let raw: Raw = serde_json::from_slice(stdin).map_err(|reason| {
            CniError::new(code::DECODE, "the network configuration cannot be decoded", reason.to_string())
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
