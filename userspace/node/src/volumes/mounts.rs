//! The mounts of one container: its volumes, /etc/hosts, its termination message.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use super::VolumeManager;
use super::sub_path::{SubPathError, SubPathMounts};
use crate::cri::api;
use crate::{env, names};

/// Shown as CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("volume mount {0:?} names no volume of the pod")]
    NoVolume(String),
    #[error(
        "failed to prepare subPath {path:?} for volumeMount {mount:?} of container {container:?}: {source}"
    )]
    SubPath { path: String, mount: String, container: String, source: SubPathError },
    #[error("volume {0:?} requested recursive read-only mode, but it is not supported by the runtime")]
    RecursiveReadOnly(String),
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: String, source: io::Error },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.display().to_string();
    move |source| MountError::Io { operation, path, source }
}

impl VolumeManager {
    /// The container's volume mounts in the order of the spec. The subPaths among them last as long as the second value.
    pub fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        environment: &[(String, String)],
        recursive_read_only: bool,
    ) -> Result<(Vec<api::Mount>, SubPathMounts), MountError> {
        let mut sub_paths = SubPathMounts::default();
        let mounts = container.volume_mounts.iter().flatten().enumerate().map(|(index, mount)| {
            let (root, volume) = self.volume_of(pod, mount)?;
            let recursive = match mount.recursive_read_only.as_deref() {
                Some("Enabled") if !recursive_read_only => {
                    return Err(MountError::RecursiveReadOnly(mount.name.clone()));
                }
                Some("Enabled" | "IfPossible") => recursive_read_only,
                _ => false,
            };
            let host_path = match sub_path(mount, environment) {
                path if path.is_empty() => root,
                path => {
                    let target = self.sub_path_target(pod, &container.name, &mount.name, index);
                    sub_paths.add(&root, &path, target).map_err(|source| MountError::SubPath {
                        path,
                        mount: mount.name.clone(),
                        container: container.name.clone(),
                        source,
                    })?
                }
            };
            Ok(api::Mount { recursive_read_only: recursive, ..compile(mount, volume, &host_path) })
        });
        let mounts = mounts.collect::<Result<_, MountError>>()?;
        Ok((mounts, sub_paths))
    }

    fn volume_of<'a>(&self, pod: &'a Pod, mount: &VolumeMount) -> Result<(PathBuf, &'a Volume), MountError> {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let volume = volumes.into_iter().find(|v| v.name == mount.name);
        let root = volume.and_then(|volume| Some((self.host_path(pod, volume)?, volume)));
        root.ok_or_else(|| MountError::NoVolume(mount.name.clone()))
    }

    /// Where the subPath of the container's mount number `index` is mounted: in a folder that no container has.
    fn sub_path_target(&self, pod: &Pod, container: &str, volume: &str, index: usize) -> PathBuf {
        let (_, _, uid) = names::of(pod);
        let folder = self.pod_folder(&uid).join("volume-subpaths").join(volume).join(container);
        folder.join(index.to_string())
    }

    /// A file that becomes the container's terminationMessagePath, emptied for this attempt.
    pub fn termination_mount(
        &self,
        pod: &Pod,
        container: &Container,
        attempt: u32,
    ) -> Result<(PathBuf, api::Mount), MountError> {
        let (_, _, uid) = names::of(pod);
        let folder = self.pod_folder(&uid).join("containers").join(&container.name);
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let file = folder.join(format!("{attempt}.message"));
        fs::write(&file, b"").map_err(failed("write", &file))?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&file, open).map_err(failed("chmod", &file))?;
        let path = container.termination_message_path.clone().filter(|p| !p.is_empty());
        let mount = api::Mount {
            container_path: path.unwrap_or_else(|| "/dev/termination-log".to_owned()),
            host_path: file.display().to_string(),
            ..Default::default()
        };
        Ok((file, mount))
    }

    /// The pod's /etc/hosts; `None` when the container mounts a volume there.
    pub fn hosts_mount(
        &self,
        pod: &Pod,
        container: &Container,
        hostname: &str,
        ips: &[String],
        domain: &str,
    ) -> Result<Option<api::Mount>, MountError> {
        const PATH: &str = "/etc/hosts";
        if container.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == PATH) {
            return Ok(None);
        }
        let (_, _, uid) = names::of(pod);
        let folder = self.pod_folder(&uid);
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        let file = folder.join("etc-hosts");
        let text = hosts(pod, hostname, ips, domain);
        // A container may have written any amount into it.
        let same_length = fs::metadata(&file).is_ok_and(|m| usize::try_from(m.len()) == Ok(text.len()));
        if !same_length || fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
            // Write in place: running containers have this inode mounted.
            fs::write(&file, text).map_err(failed("write", &file))?;
        }
        Ok(Some(api::Mount {
            container_path: PATH.to_owned(),
            host_path: file.display().to_string(),
            ..Default::default()
        }))
    }
}

fn sub_path(mount: &VolumeMount, environment: &[(String, String)]) -> String {
    match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) => path.clone(),
        (None, Some(text)) => env::expand(text, environment),
        (None, None) => String::new(),
    }
}

/// A volume mount as the runtime receives it.
fn compile(mount: &VolumeMount, volume: &Volume, host_path: &Path) -> api::Mount {
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => api::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => api::MountPropagation::PropagationHostToContainer,
        _ => api::MountPropagation::PropagationPrivate,
    };
    // Containers cannot write what the agent writes.
    let own = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    let claim = volume.persistent_volume_claim.as_ref();
    let read_only_claim = claim.is_some_and(|source| source.read_only == Some(true));
    api::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: host_path.display().to_string(),
        readonly: own || read_only_claim || mount.read_only == Some(true),
        propagation: propagation as i32,
        ..Default::default()
    }
}

fn hosts(pod: &Pod, hostname: &str, ips: &[String], domain: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text;
    if spec.and_then(|s| s.host_network) == Some(true) {
        text = "# Kubernetes-managed hosts file (host network).\n".to_owned();
        text.push_str(&fs::read_to_string("/etc/hosts").unwrap_or_default());
    } else {
        text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned();
        let (_, namespace, _) = names::of(pod);
        let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
        for ip in ips {
            match subdomain {
                Some(sub) => {
                    text.push_str(&format!("{ip}\t{hostname}.{sub}.{namespace}.svc.{domain}\t{hostname}\n"));
                }
                None => text.push_str(&format!("{ip}\t{hostname}\n")),
            }
        }
    }
    let aliases: Vec<_> = spec.iter().flat_map(|s| s.host_aliases.iter().flatten()).collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
