//! What tests share: packets, network namespaces, nodes.
