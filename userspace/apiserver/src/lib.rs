//! skep-apiserver

pub mod authz;
