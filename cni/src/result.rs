//! The result of ADD: read as prevResult, printed in the form of each CNI version.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::version::Version;

/// The form of 1.1.0. 0.3.1 and 0.4.0 also name each address's family, which is not read back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    #[serde(default)]
    pub cni_version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    #[serde(default)]
    pub dns: Map<String, Value>,
    /// Fields of other plugins, passed on unchanged.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the network namespace; empty for the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ip {
    /// In CIDR notation.
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub dst: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl CniResult {
    /// The result in the form of `version`.
    pub fn print(&self, version: Version) -> Value {
        let mut result = self.clone();
        version.as_str().clone_into(&mut result.cni_version);
        if version < Version::V1_1_0 {
            result.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        let mut value = serde_json::to_value(&result).unwrap_or_default();
        let ips = value.get_mut("ips").and_then(Value::as_array_mut);
        if version < Version::V1_0_0 {
            for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
                let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
                ip.insert("version".to_owned(), if v6 { "6" } else { "4" }.into());
            }
        }
        value
    }

    /// The interface of that name in that network namespace, with its index.
    pub fn in_sandbox(&self, netns: &str, ifname: &str) -> Option<(usize, &Interface)> {
        let mut interfaces = self.interfaces.iter().enumerate();
        interfaces.find(|(_, i)| i.name == ifname && !i.sandbox.is_empty() && same_path(&i.sandbox, netns))
    }

    /// The host's end of the interface at `index`. Plugins list a bridge, then the host's end, then the container's: so
    /// the last host interface before `index`.
    pub fn host_end(&self, index: usize) -> Option<&Interface> {
        let host = |interface: &&Interface| interface.sandbox.is_empty();
        let before = self.interfaces.get(..index)?.iter().rfind(|i| host(i));
        before.or_else(|| self.interfaces.iter().find(|i| host(i)))
    }

    /// Addresses of the interface at `index`, without prefix length; an address that names no interface counts too.
    pub fn addresses(&self, index: usize) -> Vec<String> {
        let ips = self.ips.iter().filter(|ip| ip.interface.is_none_or(|of| of == index));
        ips.map(|ip| ip.address.split('/').next().unwrap_or_default().to_owned()).collect()
    }
}

/// `/var/run` is a link to `/run`, and runtimes use both.
fn same_path(a: &str, b: &str) -> bool {
    fn plain(path: &str) -> &str {
        path.strip_prefix("/var/run/").or_else(|| path.strip_prefix("/run/")).unwrap_or(path)
    }
    plain(a) == plain(b)
}
