//! The Kubernetes API without a server: kinds, schema facts, defaults, validation, patches, selectors, tables.
//!
//! PURE: values in, values out. The API server applies what this crate decides; time and random names are arguments.

pub mod aggregate;
pub mod apply;
pub mod cel;
pub mod conversion;
pub mod cron;
pub mod custom;
pub mod decode;
pub mod discovery;
pub mod document;
pub mod field;
pub mod fit;
pub mod flow_log;
pub mod kinds;
pub mod local_path;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod regexp;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
mod value;
mod version_order;
pub mod watch;

pub use field::{Errors, FieldError};
pub use kinds::{Kind, KindRef, Registry, Scope, find, find_kind, kinds};
pub use status::{Reason, Status};
