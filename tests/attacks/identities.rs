//! Certificates, names of nodes, and servers that share a store.
