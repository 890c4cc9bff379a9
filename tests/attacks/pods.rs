//! Pods that reach for the node.
