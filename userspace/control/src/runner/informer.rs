//! One watch a kind, shared by all controllers: its steps go to the runner over a channel.
//! What no controller reads is dropped on arrival.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{core::Event, io::typed};
use crate::{
    pool::LoadBalancerPool,
    slim::slimmed,
    view::{Kind, Object, Stored},
};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    batch::v1::Job,
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service,
        ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
};

/// What an informer tells the runner.
pub(crate) enum Notice {
    Event(Kind, Event),
    /// The server does not serve the kind (it may later).
    Absent(Kind),
}

/// Watches one kind until the receiver is gone.
pub(crate) async fn watch(client: Client, kind: Kind, notices: mpsc::Sender<Notice>) {
    typed!(kind, K => {
        let api: Api<K> = Api::all(client);
        follow(api, kind, notices).await
    })
}

async fn follow<K>(api: Api<K>, kind: Kind, notices: mpsc::Sender<Notice>)
where
    K: Resource + Stored + DeserializeOwned + Debug,
    Object: From<K>,
{
    // Only these of a possibly large kind matter to any controller.
    let config = match kind {
        Kind::Lease => watcher::Config::default().fields("metadata.namespace=kube-node-lease"),
        Kind::ConfigMap => watcher::Config::default().fields("metadata.name=kube-root-ca.crt"),
        _ => watcher::Config::default(),
    };
    let mut stream = pin!(watcher(api, config).default_backoff());
    while let Some(step) = stream.next().await {
        let notice = match step {
            Ok(watcher::Event::Init) => Notice::Event(kind, Event::Begin),
            Ok(watcher::Event::InitApply(o)) => Notice::Event(kind, Event::Listing(slimmed(o))),
            Ok(watcher::Event::InitDone) => Notice::Event(kind, Event::End),
            Ok(watcher::Event::Apply(o)) => Notice::Event(kind, Event::Listed(slimmed(o))),
            Ok(watcher::Event::Delete(o)) => Notice::Event(kind, Event::Deleted(slimmed(o))),
            Err(error) if not_served(&error) => {
                // A kind can appear with an upgrade of the server; asking seldom costs nothing.
                if notices.send(Notice::Absent(kind)).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(300)).await;
                continue;
            }
            Err(error) => {
                tracing::debug!(kind = kind.name(), %error, "watch interrupted");
                continue;
            }
        };
        if notices.send(notice).await.is_err() {
            return;
        }
    }
}

fn not_served(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.code == 404
}
