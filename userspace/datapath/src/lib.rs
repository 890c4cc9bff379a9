//! skep-datapath
