//! What lives is not deleted: owners, namespaces, quotas, evictions, rollouts.
