//! One file a verb; `other` is what is no resource.

pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
mod health;
mod items;
pub(crate) mod list;
pub(crate) mod other;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;
