//! What this process knows of the cluster. In: watch events and the answers to our own writes. Out: [`Change`]s.
//!
//! [`kinds`] lists the kinds once; a [`Table`] holds the objects of one kind, [`View`] all tables, and [`InformerCache`]
//! a view that informers fill. PURE.

mod informer_cache;
mod key;
pub(crate) mod kinds;
mod stored;
mod table;
mod view;

pub(crate) use informer_cache::{Answer, InformerCache, WatchEvent};
pub use key::Key;
pub use kinds::{Kind, Object};
pub use stored::Stored;
pub(crate) use stored::transformed;
pub use table::Table;
pub use view::{Change, View};
