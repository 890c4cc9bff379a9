//! The requirements on a cached type: metadata, at most one index of its own, and the fields dropped on arrival.

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::kinds::{Object, for_each_kind};
use crate::transform::trim_pod;

/// A type that a table can hold.
pub trait Stored: Metadata<Ty = ObjectMeta> + Clone + Send + Sync + 'static {
    /// Value under which `Table::indexed` finds the object.
    fn index(&self) -> Option<&str> {
        None
    }

    /// Drops fields that no controller and no scheduler reads (client-go's SetTransform).
    fn transform(&mut self) {}
}

macro_rules! stored {
    ($({$variant:ident, $field:ident, $type:ty, [$($index:ident)?], [$($transform:ident)?]})*) => {$(
        impl Stored for $type {
            $(fn index(&self) -> Option<&str> {
                $index(self)
            })?

            $(fn transform(&mut self) {
                $transform(self);
            })?
        }
    )*};
}
for_each_kind!(stored!);

/// Pods are found by the name of the node that they are bound to.
fn node_of_pod(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// EndpointSlices are found by the name of their Service, in any namespace.
fn service_of_slice(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name").map(String::as_str)
}

/// Claims are found by the name of their volume.
fn volume_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Volumes are found by the uid of their claim.
fn claim_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref()
}

/// An object as it is kept, in no more memory than it needs. Answers are decoded with room for four items in every
/// list; a clone has no room to spare. Kinds that controllers write back whole lose only their managedFields, which the
/// server then keeps as they were.
pub(crate) fn transformed<K: Stored>(mut object: K) -> Object
where
    Object: From<K>,
{
    object.metadata_mut().managed_fields = None;
    object.transform();
    Object::from(K::clone(&object))
}
