//! The data plane with real sockets: clients, the gateway, endpoints.

mod abuse;
mod acme;
mod annotations;
mod changes;
mod demand;
mod endpoint;
mod faults;
mod filters;
mod frames;
mod harness;
mod mutual_tls;
mod protocols;
mod requests;
mod tls_endpoint;
mod upstream_tls;
