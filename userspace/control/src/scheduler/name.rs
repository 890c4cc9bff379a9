//! The name by which pods select this scheduler.

pub(super) const SCHEDULER_NAME: &str = "default-scheduler";
