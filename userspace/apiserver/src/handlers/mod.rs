//! One file per verb, and `non_resource` for requests that are not for a resource.

pub(crate) mod apply;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod flows;
pub(crate) mod get;
mod health;
pub(crate) mod list;
mod list_body;
pub(crate) mod non_resource;
pub(crate) mod patch;
pub(crate) mod tunnel;
pub(crate) mod update;
pub(crate) mod watch;
