//! The aggregation layer: versions of groups that a Service of the cluster serves, named by APIServices.
//!
//! [`Aggregator`] holds what requests need: which version is whose, and what discovery tells of it. It is filled from the
//! caches; `available` keeps it and the APIServices' conditions, `local` the APIServices of what this server serves.

mod available;
mod local;
mod proxy;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use skep_api::aggregate::Remote;
use skep_api::{Kind, find, meta};

use crate::config::FrontProxy;
use crate::endpoints::ready_endpoints;
use crate::forward::Security;
use crate::object::prefix;
use crate::tls::{self, ClientCertificate, Trust};
use crate::{Inner, StartError, write};

pub(crate) use available::run as keep_available;
pub(crate) use local::run as keep_local;
pub(crate) use proxy::{handle, openapi};

const GROUP: &str = "apiregistration.k8s.io";
const USER_HEADER: &str = "X-Remote-User";
const UID_HEADER: &str = "X-Remote-Uid";
const GROUP_HEADER: &str = "X-Remote-Group";
const EXTRA_PREFIX: &str = "X-Remote-Extra-";

/// The kind of APIServices.
fn kind() -> Option<&'static Kind> {
    find(GROUP, "v1", "apiservices")
}

/// Who serves what beside this server.
pub(crate) struct Aggregator {
    /// What this server shows of itself when it speaks for a user.
    certificate: ClientCertificate,
    table: RwLock<Arc<Table>>,
}

#[derive(Default)]
pub(crate) struct Table {
    backends: Vec<Arc<Backend>>,
    remotes: Vec<Remote>,
}

/// Another API server, for one version of a group.
pub(crate) struct Backend {
    /// The APIService's name.
    name: String,
    group: String,
    version: String,
    /// What the APIService says, to notice a change.
    spec: Value,
    /// As its condition says.
    available: Result<(), String>,
    /// Ready endpoints, in no order.
    addresses: Vec<SocketAddr>,
    /// Under which name, and as whose; or why it cannot be spoken to.
    security: Result<Security, String>,
}

impl Aggregator {
    pub(crate) fn new(config: &FrontProxy) -> Result<Aggregator, StartError> {
        let what = "the front proxy's certificate";
        let certificate = ClientCertificate::read(&config.certificate, &config.key, what)?;
        Ok(Aggregator { certificate, table: RwLock::default() })
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who serves a path, if another server does.
    pub(crate) fn backend_of(&self, path: &str) -> Option<Arc<Backend>> {
        let table = self.table();
        if table.backends.is_empty() {
            return None;
        }
        let mut parts = path.strip_prefix("/apis/")?.split('/').filter(|part| !part.is_empty());
        let (group, version) = (parts.next()?, parts.next()?);
        table.of(group, version)
    }

    /// For discovery and schemas.
    pub(crate) fn told(&self) -> Told {
        Told(self.table())
    }

    /// Takes the APIServices over as the caches have them now. What is known of others' discovery stays.
    pub(crate) fn refresh(&self, server: &Inner) {
        let Some(kind) = kind() else { return };
        let objects = server.caches.of(kind).map(|services| services.list(&prefix(kind))).unwrap_or_default();
        let before = self.table();
        let mut table = Table::default();
        for api_service in objects.iter().map(|object| object.value()) {
            if !api_service["spec"]["service"].is_object() || api_service["spec"]["group"] == GROUP {
                continue;
            }
            let mut remote = Remote::of(&api_service);
            let known =
                before.remotes.iter().find(|r| r.group == remote.group && r.version == remote.version);
            if let Some(known) = known {
                remote.resources.clone_from(&known.resources);
                remote.openapi.clone_from(&known.openapi);
                remote.current = known.current;
            }
            table.backends.push(Arc::new(self.backend(server, &api_service, &before)));
            table.remotes.push(remote);
        }
        self.set(table);
    }

    fn backend(&self, server: &Inner, api_service: &Value, before: &Table) -> Backend {
        let spec = &api_service["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, version) = (text(&spec["group"]), text(&spec["version"]));
        let same = before.of(&group, &version).filter(|known| known.spec == *spec);
        let security = same.map_or_else(|| self.security(spec), |known| known.security.clone());
        Backend {
            name: meta::name(api_service).to_owned(),
            available: availability(api_service),
            addresses: service_of(server, spec).map_or(Vec::new(), |service| {
                ready_endpoints(server, &service, &spec["service"]["port"].to_string())
            }),
            security,
            spec: spec.clone(),
            group,
            version,
        }
    }

    fn security(&self, spec: &Value) -> Result<Security, String> {
        let text = |field: &str| spec["service"][field].as_str().unwrap_or_default();
        let host = format!("{}.{}.svc", text("name"), text("namespace"));
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        Ok(Security::Tls { config: self.tls(spec)?, name })
    }

    fn tls(&self, spec: &Value) -> Result<Arc<ClientConfig>, String> {
        if spec["insecureSkipTLSVerify"] == true {
            return tls::client(Trust::Anyone, Some(&self.certificate)).map_err(|error| error.to_string());
        }
        tls::of_bundle(spec["caBundle"].as_str().unwrap_or_default(), Some(&self.certificate))
    }

    fn set(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// Takes over what was learned of another server.
    fn learned(&self, group: &str, version: &str, change: impl FnOnce(&mut Remote)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (backends, mut remotes) = (table.backends.clone(), table.remotes.clone());
        let found = remotes.iter_mut().find(|remote| remote.group == group && remote.version == version);
        if let Some(remote) = found {
            change(remote);
        }
        *table = Arc::new(Table { backends, remotes });
    }
}

impl Table {
    fn of(&self, group: &str, version: &str) -> Option<Arc<Backend>> {
        let mut backends = self.backends.iter();
        backends.find(|backend| backend.group == group && backend.version == version).cloned()
    }
}

/// What other servers serve, as of one moment.
pub(crate) struct Told(Arc<Table>);

impl std::ops::Deref for Told {
    type Target = [Remote];

    fn deref(&self) -> &[Remote] {
        &self.0.remotes
    }
}

/// The error is what the condition says.
fn availability(api_service: &Value) -> Result<(), String> {
    let mut conditions = api_service["status"]["conditions"].as_array().into_iter().flatten();
    match conditions.find(|condition| condition["type"] == "Available") {
        Some(condition) if condition["status"] == "True" => Ok(()),
        Some(condition) => Err(condition["message"].as_str().unwrap_or_default().to_owned()),
        None => Err("it was not checked yet".to_owned()),
    }
}

/// The Service that an APIService names.
fn service_of(server: &Inner, spec: &Value) -> Option<Value> {
    let text = |field: &str| spec["service"][field].as_str().unwrap_or_default();
    let kind = find("", "v1", "services")?;
    write::find(server, kind, text("namespace"), text("name")).ok().map(|service| service.value())
}

/// By what other servers know that it is this one who speaks for a user; also whom this one takes for clients.
pub(crate) fn trust(server: &Inner) -> Value {
    let list = |names: &[&str]| json!(names).to_string();
    let FrontProxy { ca, names, .. } = &server.config.front_proxy;
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": server.config.client_ca,
            "requestheader-allowed-names": json!(names).to_string(),
            "requestheader-client-ca-file": ca,
            "requestheader-extra-headers-prefix": list(&[EXTRA_PREFIX]),
            "requestheader-group-headers": list(&[GROUP_HEADER]),
            "requestheader-uid-headers": list(&[UID_HEADER]),
            "requestheader-username-headers": list(&[USER_HEADER]),
        },
    })
}
