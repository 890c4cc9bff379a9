//! What calls to containerd's own services share; they go over the channel of the CRI.

use std::collections::HashMap;

use containerd_client::types::Descriptor;
use oci_spec::image::Descriptor as OciDescriptor;
use tonic::Request;

/// The namespace of the CRI's images and containers.
const NAMESPACE: &str = "k8s.io";

/// A request in the CRI's namespace. The lease protects what the call makes from garbage collection.
pub(crate) fn in_namespace<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|l| l.parse().ok()) {
        metadata.insert("containerd-lease", lease);
    }
    request
}

pub(crate) fn descriptor(of: &OciDescriptor) -> Descriptor {
    Descriptor {
        media_type: of.media_type().to_string(),
        digest: of.digest().to_string(),
        size: i64::try_from(of.size()).unwrap_or(i64::MAX),
        annotations: HashMap::new(),
    }
}
