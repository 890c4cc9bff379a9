//! The CNI plugin `skep-cni`.

fn main() {}
