//! Builds OCI image archives from the machine's static busybox; no registry is asked.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// The sandbox image that containerd's configuration names.
pub const PAUSE: &str = "localhost/skep/pause:1";
/// Answers on port 8080 with its pod's and node's names, and echoes on port 9000.
pub const EXAMPLE: &str = "localhost/skep/example:1";

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// As process 1 the shell must catch SIGTERM itself: the kernel spares process 1 the default action.
const SERVE: &str = r#"#!/bin/sh
trap 'exit 0' TERM INT
mkdir -p /www
echo "${POD_NAME:-$(hostname)} ${NODE_NAME:--} ${GREETING:-}" >/www/index.html
nc -ll -p 9000 -e cat &
httpd -f -p 8080 -h /www &
wait
"#;

/// An image to be built.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// Full name with tag, such as `localhost/skep/web:1`.
    pub name: &'a str,
    pub command: &'a [&'a str],
    /// Files beside busybox, by path without the leading slash; those below `bin/` are programs.
    pub files: &'a [(&'a str, &'a [u8])],
    /// The signal that ends its process, as SIGTERM; `None`: the runtime's.
    pub stop_signal: Option<&'a str>,
}

/// The image of sandboxes: a process that does nothing.
pub fn pause(file: &Path) -> Result<()> {
    build(&Image { name: PAUSE, command: &["/bin/sleep", "2147483647"], files: &[], stop_signal: None }, file)
}

/// The image of the example application.
pub fn example(file: &Path) -> Result<()> {
    let files: &[(&str, &[u8])] = &[("bin/serve", SERVE.as_bytes())];
    build(&Image { name: EXAMPLE, command: &["/bin/serve"], files, stop_signal: None }, file)
}

/// Writes the image as an OCI archive: busybox with all its applets as links. The same input gives the same bytes.
pub fn build(image: &Image<'_>, file: &Path) -> Result<()> {
    let layer = layer(image)?;
    let mut config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": image.command, "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    if let Some(signal) = image.stop_signal {
        config["config"]["StopSignal"] = signal.into();
    }
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, &layer)],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": image.name});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;
    let mut archive = Builder::new(Vec::new());
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut archive, "index.json", &index, 0o644)?;
    for blob in [&layer, &config, &manifest] {
        add(&mut archive, &format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644)?;
    }
    write(file, &archive.into_inner()?)
}

/// Leaves an unchanged file alone, and never shows half of a new one.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let new = file.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("rename to {}", file.display()))
}

fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let program = crate::deps::program("busybox").context("no busybox (Debian: busybox-static)")?;
    let busybox = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let mut archive = Builder::new(Vec::new());
    for folder in
        ["bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "tmp", "dev", "proc", "sys", "var", "root"]
    {
        let mut header = header(EntryType::Directory, if folder == "tmp" { 0o1777 } else { 0o755 });
        archive.append_data(&mut header, folder, std::io::empty())?;
    }
    add(&mut archive, "bin/busybox", &busybox, 0o755)?;
    let list = Command::new(&program).arg("--list").output().context("run busybox")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        let mut header = header(EntryType::Symlink, 0o777);
        archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    add(&mut archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n", 0o644)?;
    add(&mut archive, "etc/group", b"root:x:0:\nweb:x:1000:\n", 0o644)?;
    for (path, content) in image.files {
        let mode = if path.starts_with("bin/") { 0o755 } else { 0o644 };
        add(&mut archive, path, content, mode)?;
    }
    Ok(archive.into_inner()?)
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

fn add<W: Write>(archive: &mut Builder<W>, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, mode);
    header.set_size(u64::try_from(content.len())?);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{text}")
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}
