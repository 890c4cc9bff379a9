//! A runtime's call.
//!
//! In: environment and stdin. Out: [`Request`], which cannot be invalid.

use crate::config::NetConf;
use crate::error::{CniError, code};

/// The environment variables of a call, not validated. Only `main` reads them from the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub command: Option<String>,
    pub container_id: Option<String>,
    pub netns: Option<String>,
    pub ifname: Option<String>,
    pub args: Option<String>,
}

/// A CNI operation with its parameters; `netns` is the path of the sandbox's network namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Add { target: Target, netns: String },
    Del { target: Target },
    Check { target: Target, netns: String },
    Gc,
    Status,
    Version,
}

/// The interface that a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub container_id: String,
    pub ifname: String,
    /// The pod, from CNI_ARGS; empty if the runtime does not name it.
    pub pod_namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
}

/// A valid call.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub command: Command,
    /// `None` for VERSION only.
    pub config: Option<NetConf>,
}

impl Request {
    pub fn parse(environment: &Environment, stdin: &[u8]) -> Result<Request, CniError> {
        let netns = || match environment.netns.as_deref() {
            Some(netns) if !netns.is_empty() => Ok(netns.to_owned()),
            _ => Err(missing("CNI_NETNS")),
        };
        let command = match environment.command.as_deref() {
            Some("ADD") => Command::Add { target: Target::parse(environment)?, netns: netns()? },
            Some("DEL") => Command::Del { target: Target::parse(environment)? },
            Some("CHECK") => Command::Check { target: Target::parse(environment)?, netns: netns()? },
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => return Ok(Request { command: Command::Version, config: None }),
            Some(other) => {
                let details = format!("CNI_COMMAND {other:?}");
                return Err(CniError::new(code::BAD_ENVIRONMENT, "unknown command", details));
            }
            None => return Err(missing("CNI_COMMAND")),
        };
        Ok(Request { command, config: Some(NetConf::parse(stdin)?) })
    }
}

impl Target {
    fn parse(environment: &Environment) -> Result<Target, CniError> {
        let container_id = environment.container_id.as_deref().filter(|id| !id.is_empty());
        let container_id = container_id.ok_or_else(|| missing("CNI_CONTAINERID"))?;
        if !is_container_id(container_id) {
            let details = format!("CNI_CONTAINERID {container_id:?}");
            return Err(CniError::new(code::BAD_ENVIRONMENT, "invalid container id", details));
        }
        let ifname = environment.ifname.as_deref().filter(|name| !name.is_empty());
        let ifname = ifname.ok_or_else(|| missing("CNI_IFNAME"))?;
        if !is_ifname(ifname) {
            let details = format!("CNI_IFNAME {ifname:?}");
            return Err(CniError::new(code::BAD_ENVIRONMENT, "invalid interface name", details));
        }
        let args = environment.args.as_deref().unwrap_or_default();
        let arg = |name: &str| {
            let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
                .next()
                .unwrap_or_default()
        };
        Ok(Target {
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            pod_namespace: arg("K8S_POD_NAMESPACE"),
            pod_name: arg("K8S_POD_NAME"),
            pod_uid: arg("K8S_POD_UID"),
        })
    }
}

fn missing(variable: &str) -> CniError {
    CniError::new(code::BAD_ENVIRONMENT, "required environment variables missing", variable)
}

/// An alphanumeric character, then alphanumerics, `_`, `.` and `-` (CNI specification, "Parameters").
fn is_container_id(text: &str) -> bool {
    let mut characters = text.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    first && characters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The kernel's rule: 1 to 15 bytes, no slash, colon or white space, neither `.` nor `..`.
fn is_ifname(text: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    (1..=15).contains(&text.len()) && text.chars().all(plain) && text != "." && text != ".."
}
