//! The names by which the built-in local-path provisioner, the nodes and the API server agree about a volume.
//!
//! The controller writes the PersistentVolume, the node that it belongs to makes the folder and adds the finalizer, and the
//! same node removes the folder and the finalizer when the volume is deleted.

/// The provisioner of the StorageClass.
pub const PROVISIONER: &str = "skep.io/local-path";
/// The StorageClass of a new cluster.
pub const CLASS: &str = "local-path";
/// Finalizer of a volume whose folder exists on its node.
pub const FINALIZER: &str = "skep.io/local-path";
/// Label of a volume: the node that has its folder.
pub const NODE_LABEL: &str = "skep.io/local-path-node";
/// Annotation of a Node: the folder that holds its volumes, an absolute path.
pub const FOLDER_ANNOTATION: &str = "skep.io/local-path-folder";
/// Annotation of a PersistentVolume, as upstream's: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
