//! skep-policy
