//! The aggregation layer: API groups and versions that another API server serves, behind a Service of this cluster.
//!
//! [`Aggregator`] holds what requests need: the server of each version, and its discovery documents. It is filled from the
//! caches; `reconcilers::remote_api_services` refreshes it.

mod proxy;

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use skep_api::aggregate::Remote;
use skep_api::{Kind, find, meta};

use crate::cache::Caches;
use crate::config::FrontProxy;
use crate::dial::Dialer;
use crate::endpoints::ready_endpoints;
use crate::lock::RwLock;
use crate::object::prefix;
use crate::remote_address::RemoteAddress;
use crate::request_info::RequestInfo;
use crate::reverse_proxy::Security;
use crate::tls::{self, ClientCertificate, TlsError, Trust};

pub(crate) use proxy::{handle, openapi, set_user_headers};

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
const USER_HEADER: &str = "X-Remote-User";
const UID_HEADER: &str = "X-Remote-Uid";
const GROUP_HEADER: &str = "X-Remote-Group";
const EXTRA_PREFIX: &str = "X-Remote-Extra-";

/// The kind of APIServices.
pub(crate) fn kind() -> Option<&'static Kind> {
    find(GROUP, "v1", "apiservices")
}

/// The other API servers.
pub(crate) struct Aggregator {
    pub(crate) dialer: Dialer,
    /// The client certificate that this server presents to them.
    certificate: RwLock<Arc<ClientCertificate>>,
    table: RwLock<Arc<Table>>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) remotes: Vec<Remote>,
}

/// Another API server, for one version of a group.
pub(crate) struct Backend {
    /// The APIService's name.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// The spec of the APIService.
    pub(crate) spec: Value,
    /// The `Available` condition; the error is its message.
    pub(crate) available: Result<(), String>,
    /// Ready endpoints in random order.
    pub(crate) addresses: Vec<RemoteAddress>,
    /// The TLS configuration and server name, or why they cannot be made.
    pub(crate) security: Result<Security, String>,
}

impl Aggregator {
    pub(crate) fn new(config: &FrontProxy, dialer: Dialer) -> Result<Aggregator, TlsError> {
        Ok(Aggregator { dialer, certificate: RwLock::new(certificate(config)?), table: RwLock::default() })
    }

    /// Presents another certificate from now on.
    pub(crate) fn set_certificate(&self, config: &FrontProxy, caches: &Caches) -> Result<(), TlsError> {
        *self.certificate.write() = certificate(config)?;
        let remotes = self.table().remotes.clone();
        self.refresh_after(caches, &Table { backends: Vec::new(), remotes });
        Ok(())
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// The API server that a request is for, if it is another one.
    pub(crate) fn backend_of(&self, info: &RequestInfo<'_>) -> Option<Arc<Backend>> {
        let table = self.table();
        if table.backends.is_empty() || info.group.is_empty() {
            return None;
        }
        table.of(&info.group, &info.version)
    }

    /// The discovery documents of the other servers.
    pub(crate) fn remotes(&self) -> Remotes {
        Remotes(self.table())
    }

    /// Reads the APIServices from the caches. Discovery documents of known servers stay.
    pub(crate) fn refresh(&self, caches: &Caches) {
        self.refresh_after(caches, &self.table());
    }

    /// Keeps the TLS configurations and documents of an earlier table.
    fn refresh_after(&self, caches: &Caches, before: &Table) {
        let Some(kind) = kind() else { return };
        let objects = caches.of(kind).map(|services| services.list(&prefix(kind))).unwrap_or_default();
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
            table.backends.push(Arc::new(self.backend(caches, &api_service, before)));
            table.remotes.push(remote);
        }
        self.set(table);
    }

    fn backend(&self, caches: &Caches, api_service: &Value, before: &Table) -> Backend {
        let spec = &api_service["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, version) = (text(&spec["group"]), text(&spec["version"]));
        let same = before.of(&group, &version).filter(|known| known.spec == *spec);
        let security = same.map_or_else(|| self.security(spec), |known| known.security.clone());
        Backend {
            name: meta::name(api_service).to_owned(),
            available: availability(api_service),
            addresses: service_of(caches, spec).map_or(Vec::new(), |service| {
                ready_endpoints(caches, &service, &spec["service"]["port"].to_string())
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
        let certificate = self.certificate.read().clone();
        if spec["insecureSkipTLSVerify"] == true {
            return tls::client(Trust::Unverified, Some(&certificate)).map_err(|error| error.to_string());
        }
        tls::of_bundle(spec["caBundle"].as_str().unwrap_or_default(), Some(&certificate))
    }

    fn set(&self, table: Table) {
        *self.table.write() = Arc::new(table);
    }

    /// Changes the discovery documents of a server.
    pub(crate) fn update_remote(&self, group: &str, version: &str, change: impl FnOnce(&mut Remote)) {
        let mut table = self.table.write();
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

/// A snapshot of the discovery documents of the other servers.
pub(crate) struct Remotes(Arc<Table>);

impl std::ops::Deref for Remotes {
    type Target = [Remote];

    fn deref(&self) -> &[Remote] {
        &self.0.remotes
    }
}

/// The `Available` condition; the error is its message.
impl Backend {
    /// Why it may not be asked; `None`: it may. A client that has read the condition of its APIService may be ahead of the table.
    fn unavailability(&self, caches: &Caches) -> Option<String> {
        let before = self.available.as_ref().err()?;
        let now = kind().and_then(|kind| caches.get_or_404(kind, "", &self.name).ok());
        now.map_or_else(|| Some(before.clone()), |object| availability(&object.value()).err())
    }
}

fn availability(api_service: &Value) -> Result<(), String> {
    let mut conditions = api_service["status"]["conditions"].as_array().into_iter().flatten();
    match conditions.find(|condition| condition["type"] == "Available") {
        Some(condition) if condition["status"] == "True" => Ok(()),
        Some(condition) => Err(condition["message"].as_str().unwrap_or_default().to_owned()),
        None => Err("it was not checked yet".to_owned()),
    }
}

/// The Service that an APIService names.
pub(crate) fn service_of(caches: &Caches, spec: &Value) -> Option<Value> {
    let text = |field: &str| spec["service"][field].as_str().unwrap_or_default();
    let kind = find("", "v1", "services")?;
    caches.get_or_404(kind, text("namespace"), text("name")).ok().map(|service| service.value())
}

fn certificate(config: &FrontProxy) -> Result<Arc<ClientCertificate>, TlsError> {
    let what = "the front proxy's certificate";
    ClientCertificate::read(&config.certificate, &config.key, what).map(Arc::new)
}

/// The ConfigMap by which other API servers authenticate this one as a front proxy, and its clients by their CA.
pub(crate) fn trust(client_ca: &str, front_proxy: &FrontProxy) -> Value {
    let list = |names: &[&str]| json!(names).to_string();
    let FrontProxy { ca, names, .. } = front_proxy;
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": client_ca,
            "requestheader-allowed-names": json!(names).to_string(),
            "requestheader-client-ca-file": ca,
            "requestheader-extra-headers-prefix": list(&[EXTRA_PREFIX]),
            "requestheader-group-headers": list(&[GROUP_HEADER]),
            "requestheader-uid-headers": list(&[UID_HEADER]),
            "requestheader-username-headers": list(&[USER_HEADER]),
        },
    })
}
