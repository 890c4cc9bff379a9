//! Objects that a reconcile cannot handle: they hold up no other object.
