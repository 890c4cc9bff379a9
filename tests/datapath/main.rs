//! The datapath in the kernel: real programs, namespaces as pods, nodes and clients.

mod namespaces;
mod node;
mod overlay;
