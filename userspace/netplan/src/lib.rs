//! skep-netplan
