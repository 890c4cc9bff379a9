//! Reconcilers that need the server's own stores: each compares objects with what they should be, and writes the
//! difference. They run until [`Running`] is dropped.

pub(crate) mod cluster_dns;
mod crd;
pub(crate) mod flow_control;
mod kubernetes_service;
mod local_api_services;
mod policy_status;
mod reconcile_loop;
mod remote_api_services;
pub(crate) mod service_allocations;
mod system_namespaces;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::task::JoinSet;

use crate::aggregate::Aggregator;
use crate::fairness::Fairness;
use crate::server_endpoints::ServerEndpoints;
use crate::write::Writer;

/// The tasks of all reconcilers; dropping it stops them.
pub(crate) struct Running {
    _tasks: JoinSet<()>,
}

/// Starts all reconcilers, and the followers of files.
pub(crate) fn start(
    writer: &Arc<Writer>,
    aggregator: &Arc<Aggregator>,
    fairness: &Fairness,
    endpoints: Arc<ServerEndpoints>,
    files: Vec<BoxFuture<'static, ()>>,
) -> Running {
    let mut tasks = JoinSet::new();
    let storage = &writer.storage;
    tasks.spawn(service_allocations::run(writer.allocator.clone()));
    tasks.spawn(cluster_dns::run(writer.allocator.clone()));
    tasks.spawn(crd::run(writer.clone()));
    tasks.spawn(flow_control::run(storage.clone(), fairness.clone()));
    tasks.spawn(remote_api_services::run(storage.clone(), aggregator.clone()));
    tasks.spawn(local_api_services::run(storage.clone()));
    tasks.spawn(policy_status::run(storage.clone()));
    tasks.spawn(system_namespaces::run(storage.clone()));
    tasks.spawn(kubernetes_service::run(writer.clone(), endpoints));
    for file in files {
        tasks.spawn(file);
    }
    Running { _tasks: tasks }
}
