//! The data plane with real sockets: clients, the gateway, endpoints.

mod abuse;
mod acme;
mod annotations;
mod changes;
mod endpoint;
mod faults;
mod filters;
mod frames;
mod harness;
mod protocols;
mod requests;
