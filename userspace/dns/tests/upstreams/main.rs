//! A whole server on loopback sockets, in front of upstreams that are dead, slow, lying, truncating, or asked by TLS.

mod faults;
mod hold;
mod node;
mod storm;
mod tls;
mod turns;
mod upstream;
