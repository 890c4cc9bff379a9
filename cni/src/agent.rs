//! The agent's gRPC messages, client and server, and a connection to its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

mod generated {
    #![allow(clippy::all, missing_docs, unreachable_pub, reason = "made by prost")]
    tonic::include_proto!("skep.agent.v1");
}

pub use generated::network_client::NetworkClient;
pub use generated::network_server::{Network, NetworkServer};
pub use generated::*;

/// Where the agent listens by default; the network configuration may name another socket.
pub const SOCKET: &str = "/run/skep/cni.sock";

/// Bounds one request. The agent's own waits are shorter, so its answer comes first; runtimes kill a plugin later.
pub const TIMEOUT: Duration = Duration::from_secs(40);

/// Fails if nothing listens on the socket.
pub async fn connect(socket: &Path) -> Result<NetworkClient<Channel>, tonic::transport::Error> {
    let path: PathBuf = socket.to_owned();
    // The connector below ignores this address.
    let endpoint = Endpoint::from_static("http://agent").timeout(TIMEOUT);
    let channel = endpoint
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await?;
    Ok(NetworkClient::new(channel))
}
