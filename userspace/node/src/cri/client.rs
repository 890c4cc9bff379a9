//! The CRI client. Each method is one or a few calls; an error carries the call and the runtime's message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use futures::TryFutureExt as _;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tonic::transport::{Channel, Endpoint, Uri};

use super::api::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use super::{
    Connector, CriError, GRACE, MESSAGE_FILE, MESSAGE_POLICY, POD_NAME, POD_NAMESPACE, POD_UID, PodIdentity,
    SPEC_IMAGE,
};
use crate::plan::{Container, ContainerState, Exit, Sandbox};
use crate::resources::Cgroup;

/// The largest accepted message: the output of an ExecSync can reach 16 MiB.
const MAX_MESSAGE_BYTES: usize = 20 << 20;

/// Optional features of the runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    pub supplemental_groups_policy: bool,
    pub recursive_read_only: bool,
}

/// Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

/// Calls one method and names it in the error.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr) => {
        $client
            .clone()
            .$method($request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| CriError { call: stringify!($method), status })
    };
}

impl Cri {
    /// A client that connects at its first call, and again after the connection was lost.
    pub fn new(connector: Connector) -> Result<Cri, tonic::transport::Error> {
        let channel = Endpoint::try_from("http://containerd")?.connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| connector.clone().connect().map_ok(TokioIo::new)),
        );
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Cri { runtime, images, channel })
    }

    /// The channel to containerd, for services other than the CRI.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub async fn version(&self) -> Result<api::VersionResponse, CriError> {
        call!(self.runtime, version, api::VersionRequest::default())
    }

    /// The runtime's conditions, RuntimeReady and NetworkReady.
    pub async fn conditions(&self) -> Result<Vec<api::RuntimeCondition>, CriError> {
        let response = call!(self.runtime, status, api::StatusRequest { verbose: false })?;
        Ok(response.status.map(|s| s.conditions).unwrap_or_default())
    }

    /// What the runtime says that it can do, by all of its handlers.
    pub async fn features(&self) -> Result<Features, CriError> {
        let response = call!(self.runtime, status, api::StatusRequest { verbose: false })?;
        let handlers = &response.runtime_handlers;
        let read_only =
            |h: &api::RuntimeHandler| h.features.as_ref().is_some_and(|f| f.recursive_read_only_mounts);
        Ok(Features {
            supplemental_groups_policy: response.features.is_some_and(|f| f.supplemental_groups_policy),
            recursive_read_only: !handlers.is_empty() && handlers.iter().all(read_only),
        })
    }

    pub async fn run_sandbox(
        &self,
        config: api::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, CriError> {
        let request = api::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(call!(self.runtime, run_pod_sandbox, request)?.pod_sandbox_id)
    }

    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = api::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        absent_is_fine(call!(self.runtime, stop_pod_sandbox, request).map(drop))
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        absent_is_fine(call!(self.runtime, remove_pod_sandbox, request).map(drop))
    }

    pub async fn create_container(
        &self,
        sandbox: &str,
        config: api::ContainerConfig,
        sandbox_config: api::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call!(self.runtime, create_container, request)?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = api::StartContainerRequest { container_id: id.to_owned() };
        call!(self.runtime, start_container, request).map(drop)
    }

    /// SIGTERM (or the image's stop signal), then SIGKILL after `grace`. Returns when the container is dead.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        /// containerd counts in nanoseconds: more seconds than these wrap to a kill at once.
        const MAX_GRACE_SECONDS: i64 = 1 << 31;
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX).min(MAX_GRACE_SECONDS);
        let request = api::StopContainerRequest { container_id: id.to_owned(), timeout };
        absent_is_fine(call!(self.runtime, stop_container, request).map(drop))
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = api::RemoveContainerRequest { container_id: id.to_owned() };
        absent_is_fine(call!(self.runtime, remove_container, request).map(drop))
    }

    /// Changes the cgroup of a running container.
    pub async fn update_container(
        &self,
        id: &str,
        resources: api::LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = api::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        call!(self.runtime, update_container_resources, request).map(drop)
    }

    pub async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let request = api::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime, reopen_container_log, request).map(drop)
    }

    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<api::ExecSyncResponse, CriError> {
        let timeout = i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = api::ExecSyncRequest { container_id: id.to_owned(), cmd: command, timeout };
        call!(self.runtime, exec_sync, request)
    }

    pub async fn checkpoint(&self, request: api::CheckpointContainerRequest) -> Result<(), CriError> {
        call!(self.runtime, checkpoint_container, request).map(drop)
    }

    pub async fn exec_url(&self, request: api::ExecRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime, exec, request)?.url)
    }

    pub async fn attach_url(&self, request: api::AttachRequest) -> Result<String, CriError> {
        Ok(call!(self.runtime, attach, request)?.url)
    }

    pub async fn port_forward_url(&self, sandbox: &str, ports: Vec<i32>) -> Result<String, CriError> {
        let request = api::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: ports };
        Ok(call!(self.runtime, port_forward, request)?.url)
    }

    /// The image's id and size if it is present.
    pub async fn image(&self, image: &str) -> Result<Option<api::Image>, CriError> {
        let request = api::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        Ok(call!(self.images, image_status, request)?.image)
    }

    /// The images of all containers: ids and references.
    pub async fn used_images(&self) -> Result<BTreeSet<String>, CriError> {
        let list = call!(self.runtime, list_containers, api::ListContainersRequest::default())?.containers;
        let names = |c: api::Container| [c.image_ref, c.image.map(|i| i.image).unwrap_or_default()];
        Ok(list.into_iter().flat_map(names).filter(|name| !name.is_empty()).collect())
    }

    pub async fn remove_image(&self, id: &str) -> Result<(), CriError> {
        let request = api::RemoveImageRequest { image: Some(image_spec(id)) };
        absent_is_fine(call!(self.images, remove_image, request).map(drop))
    }

    /// The image of sandboxes, as the runtime is configured.
    pub async fn sandbox_image(&self) -> Result<Option<String>, CriError> {
        Ok(self.config().await?["sandboxImage"].as_str().map(str::to_owned))
    }

    /// The digests of the image's layers, unpacked, the lowest first.
    pub(crate) async fn diff_ids(&self, id: &str) -> Result<Vec<String>, CriError> {
        let request = api::ImageStatusRequest { image: Some(image_spec(id)), verbose: true };
        let response = call!(self.images, image_status, request)?;
        let info = response.info.get("info").map_or("", String::as_str);
        let info: serde_json::Value = serde_json::from_str(info).unwrap_or_default();
        let ids = info["imageSpec"]["rootfs"]["diff_ids"].as_array().into_iter().flatten();
        Ok(ids.filter_map(|id| id.as_str().map(str::to_owned)).collect())
    }

    /// The snapshotter of images, as the runtime is configured.
    pub(crate) async fn snapshotter(&self) -> Result<String, CriError> {
        let config = self.config().await?;
        Ok(config["containerd"]["snapshotter"].as_str().unwrap_or("overlayfs").to_owned())
    }

    /// The configuration of containerd's CRI plugin.
    async fn config(&self) -> Result<serde_json::Value, CriError> {
        let response = call!(self.runtime, status, api::StatusRequest { verbose: true })?;
        let config = response.info.get("config");
        Ok(config.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    }

    /// The folder on whose file system the runtime keeps images.
    pub async fn image_folder(&self) -> Result<Option<String>, CriError> {
        let found = call!(self.images, image_fs_info, api::ImageFsInfoRequest::default())?;
        Ok(found.image_filesystems.into_iter().find_map(|fs| fs.fs_id).map(|id| id.mountpoint))
    }

    pub async fn images(&self) -> Result<Vec<api::Image>, CriError> {
        Ok(call!(self.images, list_images, api::ListImagesRequest::default())?.images)
    }

    pub async fn pull(&self, image: &str, auth: Option<api::AuthConfig>) -> Result<String, CriError> {
        let request = api::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config: None };
        Ok(call!(self.images, pull_image, request)?.image_ref)
    }

    pub async fn container_stats(&self) -> Result<Vec<api::ContainerStats>, CriError> {
        Ok(call!(self.runtime, list_container_stats, api::ListContainerStatsRequest::default())?.stats)
    }

    /// Every pod that has a sandbox.
    pub async fn pods(&self) -> Result<Vec<PodIdentity>, CriError> {
        let list = call!(self.runtime, list_pod_sandbox, api::ListPodSandboxRequest::default())?.items;
        let mut pods = BTreeMap::new();
        for sandbox in list {
            let text = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
            let uid = text(POD_UID);
            if uid.is_empty() {
                continue;
            }
            let grace = sandbox.annotations.get(GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
            let identity =
                PodIdentity { uid: uid.clone(), name: text(POD_NAME), namespace: text(POD_NAMESPACE), grace };
            pods.insert(uid, identity);
        }
        Ok(pods.into_values().collect())
    }

    /// A pod's sandboxes, newest first, and its containers.
    pub async fn observe(&self, uid: &str) -> Result<(Vec<Sandbox>, Vec<Container>), CriError> {
        let selector = HashMap::from([(POD_UID.to_owned(), uid.to_owned())]);
        let filter = api::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let request = api::ListPodSandboxRequest { filter: Some(filter) };
        let mut sandboxes = Vec::new();
        for item in call!(self.runtime, list_pod_sandbox, request)?.items {
            if let Some(sandbox) = self.sandbox(&item.id).await? {
                sandboxes.push(sandbox);
            }
        }
        sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created)));
        let filter = api::ContainerFilter { label_selector: selector, ..Default::default() };
        let request = api::ListContainersRequest { filter: Some(filter) };
        let mut containers = Vec::new();
        for item in call!(self.runtime, list_containers, request)?.containers {
            if let Some(status) = self.container(&item.id).await? {
                containers.push(container(status, item.pod_sandbox_id).await);
            }
        }
        containers.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created)));
        Ok((sandboxes, containers))
    }

    pub async fn container(&self, id: &str) -> Result<Option<api::ContainerStatus>, CriError> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        match call!(self.runtime, container_status, request) {
            Ok(response) => Ok(response.status),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first process of a running container; `None` if there is none.
    pub async fn container_pid(&self, id: &str) -> Result<Option<u32>, CriError> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let response = match call!(self.runtime, container_status, request) {
            Ok(response) => response,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let info = response.info.get("info").map_or("", String::as_str);
        let info: serde_json::Value = serde_json::from_str(info).unwrap_or_default();
        Ok(info["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
    }

    async fn sandbox(&self, id: &str) -> Result<Option<Sandbox>, CriError> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = match call!(self.runtime, pod_sandbox_status, request) {
            Ok(response) => response.status,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        Ok(status.map(|status| {
            let network = status.network.unwrap_or_default();
            let addresses = network.additional_ips.iter().map(|a| a.ip.as_str());
            let node = api::NamespaceMode::Node as i32;
            Sandbox {
                attempt: status.metadata.map_or(0, |m| m.attempt),
                ready: status.state == api::PodSandboxState::SandboxReady as i32,
                created: nanoseconds(status.created_at),
                ips: std::iter::once(network.ip.as_str())
                    .chain(addresses)
                    .filter_map(|ip| ip.parse().ok())
                    .collect(),
                host_network: status
                    .linux
                    .and_then(|l| l.namespaces)
                    .and_then(|n| n.options)
                    .is_some_and(|o| o.network == node),
                id: status.id,
            }
        }))
    }
}

fn image_spec(image: &str) -> api::ImageSpec {
    api::ImageSpec { image: image.to_owned(), ..Default::default() }
}

fn absent_is_fine(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn nanoseconds(value: i64) -> Timestamp {
    Timestamp::from_nanosecond(value.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn container(status: api::ContainerStatus, sandbox: String) -> Container {
    let started = nanoseconds(status.started_at);
    let state = match api::ContainerState::try_from(status.state) {
        Ok(api::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(api::ContainerState::ContainerRunning) => ContainerState::Running { started },
        Ok(api::ContainerState::ContainerExited) => {
            let message = exit_message(&status).await;
            ContainerState::Exited(Exit {
                started,
                finished: nanoseconds(status.finished_at),
                code: status.exit_code,
                reason: exit_reason(&status),
                message,
            })
        }
        _ => ContainerState::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    Container {
        id: status.id,
        name: metadata.name,
        attempt: metadata.attempt,
        sandbox,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_id: status.image_ref,
        created: nanoseconds(status.created_at),
        state,
        spec_image: status.annotations.get(SPEC_IMAGE).cloned(),
        cgroup: status.resources.and_then(|r| r.linux).map(|linux| {
            Cgroup::normal(linux.cpu_shares, linux.cpu_quota, linux.cpu_period, linux.memory_limit_in_bytes)
        }),
    }
}

fn exit_reason(status: &api::ContainerStatus) -> String {
    match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed".to_owned(),
        ("", _) => "Error".to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

/// The container's termination message, from its file or, if the policy says so, from the end of its log.
async fn exit_message(status: &api::ContainerStatus) -> String {
    const MAX_FILE_BYTES: usize = 4096;
    const MAX_LOG_BYTES: usize = 2048;
    const MAX_LOG_LINES: usize = 80;
    let from_file = match status.annotations.get(MESSAGE_FILE) {
        Some(path) => crate::logs::tail_bytes(Path::new(path), MAX_FILE_BYTES).await.unwrap_or_default(),
        None => String::new(),
    };
    if !from_file.is_empty() {
        return from_file;
    }
    let fall_back = status.annotations.get(MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if fall_back && status.exit_code != 0 {
        let tail = crate::logs::tail_text(Path::new(&status.log_path), MAX_LOG_LINES, MAX_LOG_BYTES).await;
        if !tail.is_empty() {
            return tail;
        }
    }
    status.message.clone()
}
