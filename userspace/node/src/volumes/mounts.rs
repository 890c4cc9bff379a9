//! The mounts of one container: its volumes, /etc/hosts, its termination message.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::VolumeManager;
use crate::cri::api;
use crate::{env, names};

/// Shown as CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("volume mount {0:?} names no volume of the pod")]
    NoVolume(String),
    #[error("subPath {0:?} of volume mount {1:?} leaves the volume")]
    SubPath(String, String),
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: String, source: io::Error },
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.display().to_string();
    move |source| MountError::Io { operation, path, source }
}

impl VolumeManager {
    /// The container's volume mounts in the order of the spec.
    pub fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        environment: &[(String, String)],
    ) -> Result<Vec<api::Mount>, MountError> {
        container.volume_mounts.iter().flatten().map(|mount| self.mount(pod, mount, environment)).collect()
    }

    fn mount(
        &self,
        pod: &Pod,
        mount: &VolumeMount,
        environment: &[(String, String)],
    ) -> Result<api::Mount, MountError> {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let volume = volumes.into_iter().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| MountError::NoVolume(mount.name.clone()))?;
        let root = self.host_path(pod, volume).ok_or_else(|| MountError::NoVolume(mount.name.clone()))?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) => path.clone(),
            (None, Some(text)) => env::expand(text, environment),
            (None, None) => String::new(),
        };
        let host_path = if sub_path.is_empty() { root } else { within(&root, &sub_path, &mount.name)? };
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
        Ok(api::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.display().to_string(),
            readonly: own || mount.read_only == Some(true),
            propagation: propagation as i32,
            ..Default::default()
        })
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
        if fs::read_to_string(&file).ok().as_deref() != Some(text.as_str()) {
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

/// The path of a subPath; creates missing folders. Every component is resolved, so that no link leaves the volume.
fn within(root: &Path, sub_path: &str, mount: &str) -> Result<PathBuf, MountError> {
    let escapes = || MountError::SubPath(sub_path.to_owned(), mount.to_owned());
    let relative = Path::new(sub_path);
    if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(escapes());
    }
    let root = fs::canonicalize(root).map_err(failed("resolve", root))?;
    let mut path = root.clone();
    for part in relative.components() {
        path.push(part);
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir(&path).map_err(failed("create", &path))?;
        }
        path = fs::canonicalize(&path).map_err(failed("resolve", &path))?;
        if !path.starts_with(&root) {
            return Err(escapes());
        }
    }
    Ok(path)
}
