//! The sources of volumes, as pods and PersistentVolumes have them: their defaults and what each must name.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::file_path::{validate_descending, validate_no_backsteps};
use crate::kinds::image_reference::{pulls_always, validate_pull_policy};
use crate::kinds::projection::{
    default_files, default_projected, validate_field_files, validate_files, validate_projected,
};
use crate::kinds::volume_holder::Holder;
use crate::names::{NameForm, validate_name, validate_optional_name};
use crate::value::{items, one_of, require_text, set_default, set_zero_default, text};

/// A type of volume: its field, the fields that it must have, and what else upstream checks.
pub(super) struct Source {
    pub(super) field: &'static str,
    required: &'static [&'static str],
    validate: fn(&Value, Holder, &Path, &mut Errors),
}

const fn source(field: &'static str, required: &'static [&'static str]) -> Source {
    Source { field, required, validate: |_, _, _, _| {} }
}

/// In the order in which upstream checks them. A second one is refused.
pub(super) const SOURCES: [Source; 31] = [
    Source { validate: validate_empty_dir, ..source("emptyDir", &[]) },
    Source { validate: validate_host_path, ..source("hostPath", &["path"]) },
    Source {
        validate: |git, _, path, errors| {
            validate_descending(&git["directory"], &path.child("directory"), errors);
        },
        ..source("gitRepo", &["repository"])
    },
    Source { validate: validate_partition, ..source("gcePersistentDisk", &["pdName"]) },
    Source { validate: validate_partition, ..source("awsElasticBlockStore", &["volumeID"]) },
    Source { validate: validate_files, ..source("secret", &["secretName"]) },
    Source { validate: validate_nfs, ..source("nfs", &["server", "path"]) },
    Source { validate: validate_iscsi, ..source("iscsi", &["targetPortal"]) },
    Source { validate: validate_glusterfs, ..source("glusterfs", &["endpoints", "path"]) },
    Source { validate: validate_flocker, ..source("flocker", &[]) },
    source("persistentVolumeClaim", &["claimName"]),
    Source { validate: validate_rbd, ..source("rbd", &[]) },
    Source { validate: validate_cinder, ..source("cinder", &["volumeID"]) },
    Source { validate: validate_monitors, ..source("cephfs", &[]) },
    Source { validate: validate_quobyte, ..source("quobyte", &[]) },
    Source { validate: validate_field_files, ..source("downwardAPI", &[]) },
    Source { validate: validate_fibre_channel, ..source("fc", &[]) },
    Source { validate: validate_flex, ..source("flexVolume", &["driver"]) },
    Source { validate: validate_files, ..source("configMap", &["name"]) },
    Source { validate: validate_azure_file, ..source("azureFile", &["secretName", "shareName"]) },
    source("vsphereVolume", &["volumePath"]),
    source("photonPersistentDisk", &["pdID"]),
    source("portworxVolume", &["volumeID"]),
    Source { validate: validate_azure_disk, ..source("azureDisk", &["diskName", "diskURI"]) },
    Source { validate: validate_local, ..source("local", &["path"]) },
    Source { validate: validate_storage_os, ..source("storageos", &["volumeName"]) },
    Source { validate: validate_projected, ..source("projected", &[]) },
    source("scaleIO", &["gateway", "system", "volumeName"]),
    Source { validate: super::csi::validate_csi, ..source("csi", &[]) },
    Source { validate: super::ephemeral_claim::validate, ..source("ephemeral", &[]) },
    Source { validate: validate_image, ..source("image", &[]) },
];

impl Source {
    /// The field of upstream's message for a second source: it spells two of them in its own way.
    pub(super) fn forbidden_field(&self) -> &'static str {
        match self.field {
            "cephfs" => "cephFS",
            "downwardAPI" => "downwarAPI",
            field => field,
        }
    }

    /// Checks one source at `path`, the path of the volume.
    pub(super) fn check(&self, source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
        let field = if self.field == "gcePersistentDisk" { "persistentDisk" } else { self.field };
        let at = path.child(field);
        let mut missing = false;
        for field in self.required {
            missing |= !require_text(source, field, &at, errors);
        }
        if !(missing && matches!(self.field, "hostPath" | "local")) {
            (self.validate)(source, holder, &at, errors);
        }
    }
}

/// Defaults of a volume's source, in a pod or a PersistentVolume.
pub(super) fn default_source(volume: &mut Value) {
    let Some(fields) = volume.as_object_mut() else { return };
    for (field, source) in fields.iter_mut().filter(|(_, source)| source.is_object()) {
        match field.as_str() {
            "hostPath" => set_default(source, "type", ""),
            "secret" | "configMap" | "downwardAPI" => default_files(source),
            "projected" => default_projected(source),
            "iscsi" => set_zero_default(source, "iscsiInterface", "default"),
            "rbd" => {
                for (field, value) in [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")] {
                    set_zero_default(source, field, value);
                }
            }
            "azureDisk" => {
                for (field, value) in [("cachingMode", "ReadWrite"), ("fsType", "ext4"), ("kind", "Shared")] {
                    set_default(source, field, value);
                }
                set_default(source, "readOnly", false);
            }
            "scaleIO" => {
                set_zero_default(source, "storageMode", "ThinProvisioned");
                set_zero_default(source, "fsType", "xfs");
            }
            "ephemeral" => super::ephemeral_claim::default(source),
            "image" => {
                let reference = text(&source["reference"]);
                let policy = if pulls_always(reference) { "Always" } else { "IfNotPresent" };
                set_zero_default(source, "pullPolicy", policy);
            }
            _ => {}
        }
    }
}

fn validate_empty_dir(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    if crate::resources::quantity(&source["sizeLimit"]).is_some_and(|limit| limit.millis() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&path.child("sizeLimit"), detail);
    }
}

fn validate_host_path(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    validate_no_backsteps(&source["path"], &path.child("path"), errors);
    one_of(source, "type", path, &TYPES, errors);
}

fn validate_local(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    validate_no_backsteps(&source["path"], &path.child("path"), errors);
}

fn validate_partition(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    if source["partition"].as_i64().is_some_and(|number| !(0..=255).contains(&number)) {
        let detail = "must be between 1 and 255, inclusive";
        errors.invalid(&path.child("partition"), &source["partition"], detail);
    }
}

fn validate_nfs(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    let target = text(&source["path"]);
    if !target.starts_with('/') {
        errors.invalid(&path.child("path"), &target.into(), "must be an absolute path");
    }
}

fn validate_iscsi(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    let initiator = source["initiatorName"].as_str();
    let begins = match holder {
        Holder::PersistentVolume => "must be valid format",
        _ => "must be valid format starting with iqn, eui, or naa",
    };
    if require_text(source, "iqn", path, errors)
        && let Some(problem) = initiator_problem(text(&source["iqn"]), begins)
    {
        errors.invalid(&path.child("iqn"), &source["iqn"], problem);
    }
    validate_lun(source, path, errors);
    let needs_secret = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if needs_secret && source["secretRef"].is_null() {
        errors.required(&path.child("secretRef"), "");
    }
    if holder == Holder::PersistentVolume && source["secretRef"].is_object() {
        require_text(&source["secretRef"], "name", &path.child("secretRef"), errors);
    }
    if let Some(name) = initiator
        && let Some(problem) = initiator_problem(name, begins)
    {
        errors.invalid(&path.child("initiatorname"), &name.into(), problem);
    }
}

fn validate_lun(source: &Value, path: &Path, errors: &mut Errors) {
    if source["lun"].as_i64().is_some_and(|lun| !(0..=255).contains(&lun)) {
        errors.invalid(&path.child("lun"), &source["lun"], "must be between 0 and 255, inclusive");
    }
}

/// Why a text is no iSCSI name (RFC 3720: iqn, eui or naa).
fn initiator_problem(name: &str, begins: &'static str) -> Option<&'static str> {
    let is_word = |rest: &str, length: usize| {
        let rest = rest.strip_prefix(|_: char| true).unwrap_or_default();
        rest.len() == length && rest.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    let is_valid = if let Some(rest) = name.strip_prefix("iqn") {
        is_qualified_iscsi(rest)
    } else if let Some(rest) = name.strip_prefix("eui") {
        is_word(rest, 16)
    } else if let Some(rest) = name.strip_prefix("naa") {
        is_word(rest, 32)
    } else {
        return Some(begins);
    };
    (!is_valid).then_some("must be valid format")
}

/// `.2001-04.com.example:target`, after `iqn`.
fn is_qualified_iscsi(rest: &str) -> bool {
    let Some((authority, target)) = rest.split_once(':') else { return false };
    let is_digit = |i: usize| authority.as_bytes().get(i).is_some_and(u8::is_ascii_digit);
    let is = |i: usize, wanted: u8| authority.as_bytes().get(i) == Some(&wanted);
    let has_date = is(0, b'.') && (1..5).all(is_digit) && is(5, b'-') && (6..8).all(is_digit) && is(8, b'.');
    let domain = authority.get(9..).unwrap_or_default();
    let is_domain =
        !domain.is_empty() && domain.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.'));
    let is_target = !target.is_empty()
        && !target
            .contains(|c: char| matches!(c, ',' | ';' | '*' | '&' | '$' | '|') || c.is_ascii_whitespace());
    has_date && is_domain && is_target
}

fn validate_glusterfs(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    if holder == Holder::PersistentVolume
        && let Some(name) = source["endpointsNamespace"].as_str()
    {
        let at = path.child("endpointsNamespace");
        if name.is_empty() {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.invalid(&at, &"".into(), detail);
        } else {
            validate_name(name, NameForm::Label, &at, errors);
        }
    }
}

fn validate_flocker(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    let (name, uuid) = (text(&source["datasetName"]), text(&source["datasetUUID"]));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid(path, &"resource".into(), detail);
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), &name.into(), "must not contain '/'");
    }
}

fn validate_monitors(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    if items(source, "monitors").next().is_none() {
        errors.required(&path.child("monitors"), "");
    }
}

fn validate_rbd(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    validate_monitors(source, holder, path, errors);
    require_text(source, "image", path, errors);
}

fn validate_cinder(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    if source["secretRef"].is_object() {
        let at = path.child("secretRef");
        require_text(&source["secretRef"], "name", &at, errors);
        if holder == Holder::PersistentVolume {
            require_text(&source["secretRef"], "namespace", &at, errors);
        }
    }
}

fn validate_quobyte(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    let registry = text(&source["registry"]);
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        errors.required(&path.child("registry"), detail);
    } else if text(&source["tenant"]).len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), detail);
    } else {
        for pair in registry.split(',') {
            let host = pair.rsplit_once(':').map(|(host, _)| host);
            let is_pair =
                host.is_some_and(|host| !host.contains(':') || host.starts_with('[') && host.ends_with(']'));
            if !is_pair {
                errors.invalid(&path.child("registry"), &source["registry"], detail);
            }
        }
    }
    require_text(source, "volume", path, errors);
}

fn validate_fibre_channel(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    let has = |field: &str| items(source, field).next().is_some();
    let at = path.child("targetWWNs");
    if !has("targetWWNs") && !has("wwids") {
        errors.required(&at, "must specify either targetWWNs or wwids, but not both");
    }
    if has("targetWWNs") && has("wwids") {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&at, &source["targetWWNs"], detail);
    }
    if has("targetWWNs") {
        if source["lun"].is_null() {
            errors.required(&path.child("lun"), "lun is required if targetWWNs is specified");
        }
        validate_lun(source, path, errors);
    }
}

fn validate_flex(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    for key in source["options"].as_object().into_iter().flatten().map(|(key, _)| key) {
        let domain = key.split_once('/').map_or(key.as_str(), |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(&path.child("options").key(key), &key.as_str().into(), detail);
        }
    }
}

fn validate_azure_file(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    if holder == Holder::PersistentVolume && source["secretNamespace"] == "" {
        errors.required(&path.child("secretNamespace"), "");
    }
}

fn validate_azure_disk(source: &Value, _: Holder, path: &Path, errors: &mut Errors) {
    one_of(source, "cachingMode", path, &["None", "ReadOnly", "ReadWrite"], errors);
    one_of(source, "kind", path, &["Dedicated", "Managed", "Shared"], errors);
    let (uri, at) = (text(&source["diskURI"]), path.child("diskURI"));
    let (begin, form) = if source["kind"] == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if source["kind"].is_string() && !uri.starts_with(begin) {
        errors.not_supported(&at, &uri.into(), &[form]);
    }
}

fn validate_storage_os(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    for field in ["volumeName", "volumeNamespace"] {
        validate_optional_name(source, field, NameForm::Label, path, errors);
    }
    if source["secretRef"].is_object() {
        let at = path.child("secretRef");
        require_text(&source["secretRef"], "name", &at, errors);
        if holder == Holder::PersistentVolume {
            require_text(&source["secretRef"], "namespace", &at, errors);
        }
    }
}

fn validate_image(source: &Value, holder: Holder, path: &Path, errors: &mut Errors) {
    if holder == Holder::Pod {
        require_text(source, "reference", path, errors);
    }
    validate_pull_policy(source, "pullPolicy", path, errors);
}

/// Whether a volume has a source.
pub(super) fn has_source(volume: &Value) -> bool {
    SOURCES.iter().any(|source| volume.get(source.field).is_some_and(|found| !found.is_null()))
}
