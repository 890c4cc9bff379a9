//! The API server: HTTP in front of the store.
//!
//! In: requests over TLS, or from the same process by [`ApiServer::in_process`]. Both take the same steps: authenticate,
//! parse the path, authorise, decode, admit, validate, store, answer. Reads are served from [`cache`] without parsing.

mod admission;
mod aggregate;
mod allocate;
mod audit;
mod auth_config;
mod authn;
mod authorizers;
mod authz;
mod blocking;
mod body;
mod body_checks;
mod bootstrap;
mod cache;
mod call;
mod clock;
mod coalesce;
mod config;
mod connection;
mod connections;
mod convert;
mod deadline;
mod definitions;
mod deletion;
mod dial;
mod endpoints;
mod expiring;
mod fairness;
mod field_manager;
mod generated_name;
mod handlers;
mod http;
mod https;
mod identity;
mod kubeconfig;
mod live_authorizer;
mod lock;
mod log_socket;
mod metrics;
mod negotiate;
mod new_definition;
mod object;
mod perishable;
mod proxied_html;
mod query;
mod reconcilers;
mod remote_address;
mod request_body;
mod request_info;
mod resource_metrics;
mod reverse_proxy;
mod review;
mod serve;
mod server_endpoints;
mod spdy_frames;
mod start_error;
mod state;
mod stored;
mod subresources;
mod switched;
mod tls;
mod watched_file;
mod webhook;
mod webhook_call;
mod write;
mod write_options;
mod yaml_answer;
mod yaml_duplicates;

use std::future::ready;
use std::sync::Arc;

use ::http::HeaderValue;
use ::http::header::USER_AGENT;
use axum::Router;
use axum::extract::Request;
use axum::middleware::map_request;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use admission::Admission;
use aggregate::Aggregator;
use allocate::Allocator;
use authn::Authentication;
use authn::token::Tokens;
use authorizers::AuthorizationFile;
use blocking::LargeWork;
use cache::Caches;
use connections::{Connections, Limits};
use dial::Dialer;
use fairness::Fairness;
use metrics::Metrics;
use resource_metrics::collect::UsageCache;
use server_endpoints::ServerEndpoints;
use state::{Inner, LiveCredentials};
use stored::Storage;
use write::Writer;

pub use admission::{OptionalPlugin, PluginError};
pub use audit::{Audit, AuditPolicy, LogOptions};
pub use auth_config::ConfigError;
pub use authn::{AuthenticationError, TokenKeys, TokenWebhookOptions};
pub use authorizers::AuthorizationError;
pub use config::{
    AccessRules, Config, Credentials, FrontProxy, IssuerSource, NODE_PORTS, Neighbour, NodeTls,
    ServiceNetwork,
};
pub use identity::Identity;
pub use kubeconfig::KubeconfigError;
pub use serve::ServeError;
pub use start_error::StartError;
pub use tls::TlsError;

/// A running API server; cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

impl ApiServer {
    /// Loads the caches from the store and creates the objects of every cluster: namespaces, roles, the `kubernetes` Service.
    pub async fn new(config: Config) -> Result<ApiServer, StartError> {
        let metrics = Metrics::default();
        // Before the store is read: what the files say is wrong is said at once.
        let dialer = Dialer::new(&config.services.pod_cidrs, &config.services.cidrs);
        let authentication =
            Authentication::start(&config.access, &config.tokens.issuer, &metrics.authentication, &dialer)?;
        let authorization = config.access.authorization.as_deref();
        let authorization = authorization
            .map(|path| AuthorizationFile::open(path, &metrics.authorization, &dialer))
            .transpose()?;
        let storage = Storage::new(Caches::load(config.store.clone()).await?, dialer.clone());
        dialer.set_directory(storage.caches.clone());
        let credentials = LiveCredentials::new(&config)?;
        let aggregator = Arc::new(Aggregator::new(&config.front_proxy, dialer.clone())?);
        let allocator = Arc::new(Allocator { storage: storage.clone(), network: config.services.clone() });
        let tokens = Tokens::new(&config.tokens)?;
        let admission =
            Admission::new(storage.clone(), config.access.clone(), config.services.clone(), config.advertise);
        bootstrap::run(&config, &allocator).await?;
        reconcilers::cluster_dns::ensure_cluster_dns(&allocator).await?;
        let endpoints = ServerEndpoints::new(storage.clone(), config.advertise, config.shared_store);
        let endpoints = Arc::new(endpoints);
        // Another server that writes them now is right as well; the next round follows.
        endpoints.round().await.or_else(|error| if error.is_stale() { Ok(()) } else { Err(error) })?;
        aggregator.refresh(&storage.caches);
        let writer = Arc::new(Writer { storage: storage.clone(), admission, allocator });
        let large_work = LargeWork::default();
        let fairness = Fairness::new(metrics.fairness.clone());
        reconcilers::flow_control::start(&storage, &fairness).await?;
        let Authentication { anonymous, remote: remote_tokens, file } = authentication;
        let mut files: Vec<BoxFuture<'static, ()>> = Vec::new();
        files.extend(file.map(|file| file.follow(remote_tokens.clone()).boxed()));
        if let Some((file, chain)) = authorization {
            storage.caches.authorizer().set_chain(chain);
            files.push(file.follow(storage.caches.clone()).boxed());
        }
        let reconcilers = reconcilers::start(&writer, &aggregator, &fairness, endpoints.clone(), files);
        let connections = Connections::new(Limits::of_this_process());
        let inner = Inner {
            config,
            storage,
            writer,
            tokens,
            remote_tokens,
            anonymous,
            credentials,
            dialer,
            aggregator,
            metrics,
            endpoints,
            connections,
            fairness,
            large_work,
            usage: UsageCache::default(),
            _reconcilers: reconcilers,
        };
        Ok(ApiServer { inner: Arc::new(inner) })
    }

    /// Uses renewed certificates and rotated CAs and keys from now on. Connections stay; [`ApiServer::serve`] takes the CA of
    /// clients when it is called.
    pub async fn reload(&self, new: &Credentials) -> Result<(), StartError> {
        let inner = &self.inner;
        inner.credentials.replace(new)?;
        inner.tokens.set_keys(&new.tokens)?;
        inner.aggregator.set_certificate(&new.front_proxy, &inner.storage.caches)?;
        let published =
            bootstrap::publish(&inner.storage, &new.client_ca, &new.front_proxy, &new.node_tls).await;
        Ok(published?)
    }

    /// Takes this server out of the endpoints of the `kubernetes` Service, before it stops. Does nothing if no other server
    /// can use the store.
    pub async fn withdraw(&self) -> Result<(), StartError> {
        Ok(self.inner.endpoints.withdraw().await?)
    }

    /// Replaces the keys of service account tokens. Tokens of a key that is not among them end at once.
    pub fn set_token_keys(&self, keys: &TokenKeys) -> Result<(), StartError> {
        self.inner.tokens.set_keys(keys)
    }

    /// The API as a tower service. A request with an `Arc` of an [`Identity`] in its extensions counts as authenticated.
    pub fn router(&self) -> Router {
        let server = self.inner.clone();
        Router::new().fallback(move |request| http::handle(server.clone(), request))
    }

    /// The API for a caller in this process that acts as `identity`: the same code without TCP and TLS. `agent` names its
    /// program, as a User-Agent header does.
    pub fn in_process(&self, identity: Identity, agent: &'static str) -> Router {
        let name = map_request(move |mut request: Request| {
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
            ready(request)
        });
        self.router().layer(axum::Extension(Arc::new(identity))).layer(name)
    }
}
