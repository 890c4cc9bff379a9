//! Builds OCI image archives from the static busybox of the machine; no registry is asked.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image to be built.
pub struct Image<'a> {
    /// Full name with tag, such as `localhost/skep/web:1`.
    pub name: &'a str,
    pub command: &'a [&'a str],
    /// Files beside busybox, by path without the leading slash.
    pub files: &'a [(&'a str, &'a [u8])],
}

/// The image of sandboxes: a process that does nothing.
pub fn pause(file: &Path) -> Result<()> {
    let image =
        Image { name: super::containerd::SANDBOX_IMAGE, command: &["/bin/sleep", "2147483647"], files: &[] };
    build(&image, file)
}

/// Writes the image as an OCI archive: busybox with all its applets as links.
pub fn build(image: &Image<'_>, file: &Path) -> Result<()> {
    let layer = layer(image)?;
    let layer_digest = digest(&layer);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": image.command, "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": image.name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let mut archive = tar::Builder::new(fs::File::create(file)?);
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut archive, "index.json", &serde_json::to_vec(&index)?, 0o644)?;
    for blob in [&layer, &config, &manifest] {
        add(&mut archive, &format!("blobs/{}", digest(blob).replace(':', "/")), blob, 0o644)?;
    }
    archive.finish()?;
    Ok(())
}

fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    let busybox = busybox.context("no busybox (Debian: apt-get install busybox-static)")?;
    let mut archive = tar::Builder::new(Vec::new());
    for folder in
        ["bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "tmp", "dev", "proc", "sys", "var", "root"]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        archive.append_data(&mut header, folder, std::io::empty())?;
    }
    add(&mut archive, "bin/busybox", &busybox, 0o755)?;
    for applet in APPLETS {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
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

const APPLETS: [&str; 36] = [
    "sh",
    "ash",
    "sleep",
    "cat",
    "echo",
    "ls",
    "env",
    "id",
    "wget",
    "nc",
    "httpd",
    "hostname",
    "date",
    "grep",
    "sed",
    "head",
    "tail",
    "seq",
    "test",
    "true",
    "false",
    "kill",
    "ps",
    "mkdir",
    "touch",
    "rm",
    "ip",
    "ping",
    "nslookup",
    "dd",
    "printf",
    "stat",
    "mount",
    "awk",
    "tr",
    "traceroute",
];

fn add<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
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
