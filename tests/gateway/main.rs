//! Ingresses on a real API server, served by a node's gateway with the node's own rights to endpoints with sockets.

mod acme;
mod certificates;
mod conformance;
mod gateway_api;
mod story;
mod world;
