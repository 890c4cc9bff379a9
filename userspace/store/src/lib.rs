//! skep-store
