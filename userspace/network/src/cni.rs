//! The gRPC server that `skep-cni` calls, on a unix socket that only root can open.
//!
//! In: the plugin's requests. Out: calls to the [`engine`](crate::engine), its answers as gRPC.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use skep_abi::{POD_GATEWAY_V4, POD_GATEWAY_V6};
use skep_cni::agent::{
    AddReply, AddRequest, Attachment, CheckReply, CheckRequest, DelReply, DelRequest, GcReply, GcRequest,
    Network, NetworkServer, StatusReply, StatusRequest,
};
use skep_netplan::Owner;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::NetworkError;
use crate::allocations::key;
use crate::engine::{Add, Added, Call, CallError, Check, Message};

/// Listens on `path`, replacing a socket that an earlier agent left.
pub fn listen(path: &Path) -> Result<UnixListener, NetworkError> {
    let failed = |source| NetworkError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stop` is cancelled.
pub async fn serve(
    listener: UnixListener,
    engine: mpsc::Sender<Message>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .add_service(NetworkServer::new(Service { engine }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await
}

struct Service {
    engine: mpsc::Sender<Message>,
}

impl Service {
    async fn call<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, CallError>>) -> Call,
    ) -> Result<T, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        let (send, receive) = oneshot::channel();
        self.engine.send(Message::Cni(call(send))).await.map_err(|_| stopping())?;
        receive.await.map_err(|_| stopping())?.map_err(status)
    }
}

fn status(error: CallError) -> Status {
    let message = error.to_string();
    match error {
        CallError::NotYet(_) => Status::unavailable(message),
        CallError::Unknown(_) => Status::not_found(message),
        CallError::Invalid(_) => Status::invalid_argument(message),
        CallError::Failed(_) => Status::internal(message),
    }
}

#[tonic::async_trait]
impl Network for Service {
    async fn add(&self, request: Request<AddRequest>) -> Result<Response<AddReply>, Status> {
        let add = parse_add(request.into_inner())?;
        let added = self.call(|answer| Call::Add(add, answer)).await?;
        Ok(Response::new(reply(added)))
    }

    async fn del(&self, request: Request<DelRequest>) -> Result<Response<DelReply>, Status> {
        let Attachment { container_id, ifname } = attachment(request.into_inner().attachment)?;
        self.call(|answer| Call::Del { container_id, ifname, answer }).await?;
        Ok(Response::new(DelReply {}))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckReply>, Status> {
        let CheckRequest { attachment: of, netns, addresses: texts } = request.into_inner();
        let of = attachment(of)?;
        let key = key(&of.container_id, &of.ifname);
        let check = Check { key, netns: PathBuf::from(netns), addrs: addresses(&texts)? };
        self.call(|answer| Call::Check(check, answer)).await?;
        Ok(Response::new(CheckReply {}))
    }

    async fn gc(&self, request: Request<GcRequest>) -> Result<Response<GcReply>, Status> {
        let valid = request.into_inner().valid;
        let valid: BTreeSet<String> = valid.iter().map(|a| key(&a.container_id, &a.ifname)).collect();
        self.call(|answer| Call::Gc(valid, answer)).await?;
        Ok(Response::new(GcReply {}))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.call(Call::Status).await?;
        Ok(Response::new(StatusReply {}))
    }
}

fn parse_add(request: AddRequest) -> Result<Add, Status> {
    let AddRequest { attachment: of, netns, pod, mtu, chained } = request;
    let Attachment { container_id, ifname } = attachment(of)?;
    let pod = pod.unwrap_or_default();
    let chained = match chained {
        None => None,
        Some(chained) => Some((chained.host_ifname, addresses(&chained.addresses)?)),
    };
    let owner = Owner { namespace: pod.namespace, name: pod.name, uid: pod.uid };
    Ok(Add { container_id, ifname, netns: PathBuf::from(netns), owner, mtu, chained })
}

fn attachment(attachment: Option<Attachment>) -> Result<Attachment, Status> {
    let complete = attachment.filter(|a| !a.container_id.is_empty() && !a.ifname.is_empty());
    complete
        .ok_or_else(|| Status::invalid_argument("the attachment needs a container id and an interface name"))
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, Status> {
    let parse = |text: &String| {
        text.parse().map_err(|_| Status::invalid_argument(format!("{text:?} is not an IP address")))
    };
    texts.iter().map(parse).collect()
}

fn reply(added: Added) -> AddReply {
    let Added { addrs, mac, host_ifname, host_mac, mtu } = added;
    let ipv4 = addrs.iter().any(IpAddr::is_ipv4).then(|| POD_GATEWAY_V4.to_string());
    let ipv6 = addrs.iter().any(IpAddr::is_ipv6).then(|| POD_GATEWAY_V6.to_string());
    AddReply {
        addresses: addrs.iter().map(ToString::to_string).collect(),
        gateways: ipv4.into_iter().chain(ipv6).collect(),
        mac: mac_text(mac),
        host_ifname,
        host_mac: mac_text(host_mac),
        mtu,
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
