//! The functions of the language and of its libraries, as Kubernetes' base environment of v1.36 has them. Each file
//! declares and computes one library.

mod args;
mod convert;
mod format;
mod lists;
mod named_format;
mod net;
mod operators;
mod optional;
mod quantity;
mod regex;
mod semver;
mod strings;
mod time;
mod url;

use std::sync::LazyLock;

use super::authorizer;
use super::functions::Table;
use super::types::Type;
use super::values::Value;

pub(super) use args::MAX_ITEMS;
pub(super) use format::{FormatCheck, Verb, check_format};
pub(super) use named_format::{FORMAT, NamedFormat};
pub(super) use net::{CIDR, Cidr, IP};
pub(super) use operators::{is_index_error, item};
pub(super) use quantity::QUANTITY;
pub(super) use semver::SEMVER;
pub(super) use url::URL;

/// The names of the libraries' types.
pub(super) const TYPES: [&str; 11] = [
    QUANTITY,
    SEMVER,
    URL,
    FORMAT,
    IP,
    CIDR,
    authorizer::AUTHORIZER,
    authorizer::PATH,
    authorizer::GROUP,
    authorizer::RESOURCE,
    authorizer::DECISION,
];

/// All functions.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::default();
    declare(&mut table);
    table
});

/// Declares all functions.
fn declare(table: &mut Table) {
    operators::declare(table);
    convert::declare(table);
    strings::declare(table);
    time::declare(table);
    regex::declare(table);
    optional::declare(table);
    url::declare(table);
    lists::declare(table);
    authorizer::declare(table);
    quantity::declare(table);
    net::declare(table);
    named_format::declare(table);
    semver::declare(table);
    table.of_mutations(
        "jsonpatch.escapeKey",
        "string_jsonpatch_escapeKey_string",
        [Type::String],
        Type::String,
        |args| Ok(Value::text(args::text(args, 0)?.replace('~', "~0").replace('/', "~1"))),
    );
}
