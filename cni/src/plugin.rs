//! One call of the plugin.
//!
//! In: environment and stdin. Out: [`Outcome`]. In between: one request to the agent.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::agent::{
    self, AddReply, AddRequest, Attachment, Chained, CheckRequest, DelRequest, GcRequest, Pod, StatusRequest,
};
use crate::config::NetConf;
use crate::error::{CniError, code};
use crate::request::{Command, Environment, Request, Target};
use crate::result::{CniResult, Interface, Ip, Route};
use crate::version::{SUPPORTED, Version};

/// What to print on stdout, and whether the call failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub stdout: Option<Value>,
    pub failed: bool,
}

/// Serves one call. Never panics, whatever the input.
pub async fn run(environment: &Environment, stdin: &[u8]) -> Outcome {
    let answer = match Request::parse(environment, stdin) {
        Ok(request) => perform(request, stdin).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(stdout) => Outcome { stdout, failed: false },
        Err(mut error) => {
            Version::of_answer(stdin).as_str().clone_into(&mut error.cni_version);
            Outcome { stdout: serde_json::to_value(&error).ok(), failed: true }
        }
    }
}

async fn perform(request: Request, stdin: &[u8]) -> Result<Option<Value>, CniError> {
    let Some(config) = request.config else {
        let version = Version::of_answer(stdin).as_str();
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": SUPPORTED})));
    };
    let socket = config.socket.clone().unwrap_or_else(|| PathBuf::from(agent::SOCKET));
    match request.command {
        Command::Add { target, netns } => add(&config, &socket, target, netns).await.map(Some),
        Command::Del { target } => del(&socket, target).await,
        Command::Check { target, netns } => check(&config, &socket, target, netns).await,
        Command::Gc => gc(&config, &socket).await,
        Command::Status => status(&socket).await,
        Command::Version => Ok(None),
    }
}

async fn add(config: &NetConf, socket: &Path, target: Target, netns: String) -> Result<Value, CniError> {
    let previous = config.previous.as_ref();
    let chained = match previous {
        Some(previous) => Some(chained(previous, &target, &netns)?),
        None => None,
    };
    let request = AddRequest {
        attachment: Some(attachment(&target)),
        netns: netns.clone(),
        pod: Some(Pod {
            namespace: target.pod_namespace.clone(),
            name: target.pod_name.clone(),
            uid: target.pod_uid.clone(),
        }),
        mtu: config.mtu.unwrap_or_default(),
        chained,
    };
    let reply = connect(socket).await?.add(request).await?.into_inner();
    let result = match previous {
        Some(previous) => previous.clone(),
        None => result(&reply, &target.ifname, &netns),
    };
    Ok(result.print(config.version))
}

/// The interface that the previous plugin made.
fn chained(previous: &CniResult, target: &Target, netns: &str) -> Result<Chained, CniError> {
    let bad = |details: &str| CniError::new(code::BAD_CONFIG, "prevResult cannot be used", details);
    let (index, interface) = previous
        .in_sandbox(netns, &target.ifname)
        .ok_or_else(|| bad("it does not name the interface in the sandbox"))?;
    let host = previous.host_end(index).ok_or_else(|| bad("it does not name an interface of the host"))?;
    let addresses = previous.addresses(index);
    if addresses.is_empty() {
        return Err(bad("it has no address of the interface"));
    }
    Ok(Chained { host_ifname: host.name.clone(), addresses, mac: interface.mac.clone() })
}

fn result(reply: &AddReply, ifname: &str, netns: &str) -> CniResult {
    let mtu = Some(reply.mtu).filter(|mtu| *mtu > 0);
    let interface = |name: &str, mac: &str, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: mac.to_owned(),
        mtu,
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    };
    let is_v6 = |text: &str| text.contains(':');
    let gateway = |v6: bool| reply.gateways.iter().find(|gateway| is_v6(gateway) == v6).cloned();
    let ips = reply.addresses.iter().map(|address| Ip {
        address: format!("{address}/{}", if is_v6(address) { 128 } else { 32 }),
        gateway: gateway(is_v6(address)),
        interface: Some(1),
    });
    let routes = reply.gateways.iter().map(|gateway| Route {
        dst: if is_v6(gateway) { "::/0" } else { "0.0.0.0/0" }.to_owned(),
        gw: Some(gateway.clone()),
        ..Route::default()
    });
    CniResult {
        interfaces: vec![
            interface(&reply.host_ifname, &reply.host_mac, ""),
            interface(ifname, &reply.mac, netns),
        ],
        ips: ips.collect(),
        routes: routes.collect(),
        ..CniResult::default()
    }
}

/// Fails without the agent: the runtime must retry, or the pod's addresses leak.
async fn del(socket: &Path, target: Target) -> Result<Option<Value>, CniError> {
    let attachment = Some(attachment(&target));
    connect(socket).await?.del(DelRequest { attachment }).await?;
    Ok(None)
}

async fn check(
    config: &NetConf,
    socket: &Path,
    target: Target,
    netns: String,
) -> Result<Option<Value>, CniError> {
    require_version(config, Version::V0_4_0)?;
    let previous = config
        .previous
        .as_ref()
        .ok_or_else(|| CniError::new(code::BAD_CONFIG, "CHECK needs the prevResult of ADD", ""))?;
    let index = previous.in_sandbox(&netns, &target.ifname).map(|(index, _)| index);
    let addresses = index.map(|index| previous.addresses(index)).unwrap_or_default();
    let request = CheckRequest { attachment: Some(attachment(&target)), netns, addresses };
    connect(socket).await?.check(request).await?;
    Ok(None)
}

async fn gc(config: &NetConf, socket: &Path) -> Result<Option<Value>, CniError> {
    require_version(config, Version::V1_1_0)?;
    // An absent list must not delete every attachment.
    let valid = config
        .valid
        .as_ref()
        .ok_or_else(|| CniError::new(code::BAD_CONFIG, "GC needs cni.dev/valid-attachments", ""))?;
    let valid = valid
        .iter()
        .map(|id| Attachment { container_id: id.container_id.clone(), ifname: id.ifname.clone() });
    connect(socket).await?.gc(GcRequest { valid: valid.collect() }).await?;
    Ok(None)
}

async fn status(socket: &Path) -> Result<Option<Value>, CniError> {
    let not_available = |error: CniError| CniError { code: code::NOT_AVAILABLE, ..error };
    let mut agent = connect(socket).await.map_err(not_available)?;
    agent.status(StatusRequest {}).await.map_err(|status| not_available(status.into()))?;
    Ok(None)
}

async fn connect(socket: &Path) -> Result<agent::NetworkClient<tonic::transport::Channel>, CniError> {
    agent::connect(socket).await.map_err(|reason| {
        let details = format!("{}: {}", socket.display(), root_cause(&reason));
        CniError::new(code::TRY_AGAIN, "the node agent cannot be reached", details)
    })
}

/// The innermost error; the outer ones have no details.
fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}

fn require_version(config: &NetConf, oldest: Version) -> Result<(), CniError> {
    match config.version < oldest {
        true => {
            let details = format!(
                "the configuration has {}, the command needs {}",
                config.version.as_str(),
                oldest.as_str()
            );
            Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                "the CNI version does not have this command",
                details,
            ))
        }
        false => Ok(()),
    }
}

fn attachment(target: &Target) -> Attachment {
    Attachment { container_id: target.container_id.clone(), ifname: target.ifname.clone() }
}
