//! skep-cni
