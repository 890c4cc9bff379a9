//! The kinds of `gateway.networking.k8s.io`, as far as they decide anything here. PURE. The server's schemas have checked them; fields of
//! later versions are left out.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub const GROUP: &str = "gateway.networking.k8s.io";

/// An object of the group. The status is that of the last event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(bound = "S: DeserializeOwned + Default")]
pub struct Object<S> {
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: S,
    #[serde(default)]
    pub status: Value,
}

macro_rules! kinds {
    ($group:literal, $version:literal: $($name:ident($spec:ty): $kind:literal, $plural:literal, $scope:ty;)+) => {$(
        pub type $name = Object<$spec>;

        impl Resource for Object<$spec> {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = $scope;
        }

        impl Metadata for Object<$spec> {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )+};
}

kinds! {
    "gateway.networking.k8s.io", "v1":
    GatewayClass(GatewayClassSpec): "GatewayClass", "gatewayclasses", ClusterResourceScope;
    Gateway(GatewaySpec): "Gateway", "gateways", NamespaceResourceScope;
    ListenerSet(ListenerSetSpec): "ListenerSet", "listenersets", NamespaceResourceScope;
    HttpRoute(HttpRouteSpec): "HTTPRoute", "httproutes", NamespaceResourceScope;
    GrpcRoute(GrpcRouteSpec): "GRPCRoute", "grpcroutes", NamespaceResourceScope;
    TlsRoute(TlsRouteSpec): "TLSRoute", "tlsroutes", NamespaceResourceScope;
    TcpRoute(TcpRouteSpec): "TCPRoute", "tcproutes", NamespaceResourceScope;
    UdpRoute(UdpRouteSpec): "UDPRoute", "udproutes", NamespaceResourceScope;
    ReferenceGrant(ReferenceGrantSpec): "ReferenceGrant", "referencegrants", NamespaceResourceScope;
    BackendTlsPolicy(BackendTlsPolicySpec): "BackendTLSPolicy", "backendtlspolicies", NamespaceResourceScope;
}

kinds! {
    "skep.io", "v1alpha1":
    LoadBalancerPool(PoolSpec): "LoadBalancerPool", "loadbalancerpools", ClusterResourceScope;
}

macro_rules! records {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
    )+};
}

records! {
    PoolSpec { cidrs: Vec<String>, }
    GatewayClassSpec { controller_name: String, parameters_ref: Option<LocalRef>, }
    GatewaySpec {
        gateway_class_name: String,
        listeners: Vec<ListenerSpec>,
        addresses: Vec<AddressSpec>,
        infrastructure: Option<Infrastructure>,
        allowed_listeners: Option<AllowedListeners>,
        tls: Option<GatewayTls>,
    }
    ListenerSetSpec { parent_ref: ParentRef, listeners: Vec<ListenerSpec>, }
    ListenerSpec {
        name: String,
        hostname: Option<String>,
        port: u16,
        protocol: String,
        tls: Option<ListenerTls>,
        allowed_routes: Option<AllowedRoutes>,
    }
    ListenerTls { mode: Option<String>, certificate_refs: Vec<ObjectRef>, }
    AllowedRoutes { namespaces: Option<FromNamespaces>, kinds: Vec<KindRef>, }
    AllowedListeners { namespaces: Option<FromNamespaces>, }
    FromNamespaces { from: Option<String>, selector: Option<LabelSelector>, }
    KindRef { group: Option<String>, kind: String, }
    AddressSpec { r#type: Option<String>, value: String, }
    Infrastructure {
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        parameters_ref: Option<LocalRef>,
    }
    GatewayTls { backend: Option<BackendTls>, frontend: Option<FrontendTls>, }
    BackendTls { client_certificate_ref: Option<ObjectRef>, }
    FrontendTls { default: ClientTls, per_port: Vec<PortTls>, }
    PortTls { port: u16, tls: ClientTls, }
    ClientTls { validation: Option<ClientValidationSpec>, }
    ClientValidationSpec { ca_certificate_refs: Vec<ObjectRef>, mode: Option<String>, }
    LocalRef { group: String, kind: String, name: String, }
    /// A reference to an object, perhaps in another namespace.
    ObjectRef {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
    }
    ParentRef {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
        section_name: Option<String>,
        port: Option<u16>,
    }
    HttpRouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<HttpRule>, }
    HttpRule {
        matches: Vec<HttpMatch>,
        filters: Vec<Filter>,
        backend_refs: Vec<BackendRef>,
        timeouts: Option<TimeoutsSpec>,
        retry: Option<RetrySpec>,
        session_persistence: Option<SessionSpec>,
    }
    SessionSpec {
        session_name: Option<String>,
        absolute_timeout: Option<String>,
        r#type: Option<String>,
        cookie_config: Option<CookieSpec>,
    }
    CookieSpec { lifetime_type: Option<String>, }
    HttpMatch {
        path: Option<PathSpec>,
        headers: Vec<NamedMatch>,
        query_params: Vec<NamedMatch>,
        method: Option<String>,
    }
    PathSpec { r#type: Option<String>, value: Option<String>, }
    NamedMatch { r#type: Option<String>, name: String, value: String, }
    TimeoutsSpec { request: Option<String>, backend_request: Option<String>, }
    RetrySpec { codes: Vec<u16>, attempts: Option<usize>, backoff: Option<String>, }
    BackendRef {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
        port: Option<u16>,
        weight: Option<u32>,
        filters: Vec<Filter>,
    }
    Filter {
        r#type: String,
        request_header_modifier: Option<HeaderModifier>,
        response_header_modifier: Option<HeaderModifier>,
        request_redirect: Option<RedirectSpec>,
        url_rewrite: Option<RewriteSpec>,
        request_mirror: Option<MirrorSpec>,
        cors: Option<CorsSpec>,
    }
    HeaderModifier { set: Vec<HeaderSpec>, add: Vec<HeaderSpec>, remove: Vec<String>, }
    HeaderSpec { name: String, value: String, }
    RedirectSpec {
        scheme: Option<String>,
        hostname: Option<String>,
        path: Option<PathModifier>,
        port: Option<u16>,
        status_code: Option<u16>,
    }
    RewriteSpec { hostname: Option<String>, path: Option<PathModifier>, }
    PathModifier { replace_full_path: Option<String>, replace_prefix_match: Option<String>, }
    MirrorSpec { backend_ref: BackendRef, percent: Option<u32>, fraction: Option<Fraction>, }
    Fraction { numerator: u32, denominator: Option<u32>, }
    CorsSpec {
        allow_origins: Vec<String>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        allow_credentials: Option<bool>,
        max_age: Option<u32>,
    }
    GrpcRouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<GrpcRule>, }
    GrpcRule {
        matches: Vec<GrpcMatch>,
        filters: Vec<Filter>,
        backend_refs: Vec<BackendRef>,
        session_persistence: Option<SessionSpec>,
    }
    GrpcMatch { method: Option<GrpcMethod>, headers: Vec<NamedMatch>, }
    GrpcMethod { r#type: Option<String>, service: Option<String>, method: Option<String>, }
    TlsRouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<StreamRule>, }
    TcpRouteSpec { parent_refs: Vec<ParentRef>, rules: Vec<StreamRule>, }
    UdpRouteSpec { parent_refs: Vec<ParentRef>, rules: Vec<StreamRule>, }
    StreamRule { backend_refs: Vec<BackendRef>, }
    ReferenceGrantSpec { from: Vec<GrantFrom>, to: Vec<GrantTo>, }
    GrantFrom { group: String, kind: String, namespace: String, }
    GrantTo { group: String, kind: String, name: Option<String>, }
    BackendTlsPolicySpec { target_refs: Vec<PolicyTarget>, validation: PolicyValidation, }
    PolicyTarget { group: String, kind: String, name: String, section_name: Option<String>, }
    PolicyValidation {
        ca_certificate_refs: Vec<ObjectRef>,
        #[serde(rename = "wellKnownCACertificates")]
        well_known_ca_certificates: Option<String>,
        hostname: String,
        subject_alt_names: Vec<SubjectAltName>,
    }
    SubjectAltName { r#type: String, hostname: String, uri: String, }
}
