//! Regular expressions: `matches`, `find` and `findAll`. They have Go's syntax.

use super::args::{int, text};
use crate::cel::budget::CelError;
use crate::cel::functions::Table;
use crate::cel::types::Type;
use crate::cel::values::{Value, failed};
use crate::regexp::Regexp;

pub(super) fn declare(table: &mut Table) {
    let texts = [Type::String, Type::String];
    table.global("matches", "matches", &texts, Type::Bool, matches);
    table.member("matches", "matches_string", &texts, Type::Bool, matches);
    table.member("find", "string_find_string", &texts, Type::String, |args| {
        Ok(Value::text(compiled(text(args, 1)?)?.find(text(args, 0)?).unwrap_or_default()))
    });
    let list = || Type::list(Type::String);
    table.member("findAll", "string_find_all_string", &texts, list(), |args| find_all(args, -1));
    table.member(
        "findAll",
        "string_find_all_string_int",
        [Type::String, Type::String, Type::Int],
        list(),
        |args| find_all(args, int(args, 2)?),
    );
}

fn compiled(pattern: &str) -> Result<Regexp, CelError> {
    Regexp::new(pattern).or_else(|error| failed(format!("Illegal regex: {error}")))
}

fn matches<'a>(args: &[Value<'a>]) -> Result<Value<'a>, CelError> {
    match Regexp::new(text(args, 1)?) {
        Ok(regexp) => Ok(Value::Bool(regexp.is_match(text(args, 0)?))),
        Err(error) => failed(error.to_string()),
    }
}

fn find_all<'a>(args: &[Value<'a>], most: i64) -> Result<Value<'a>, CelError> {
    let regexp = compiled(text(args, 1)?)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Ok(Value::list(regexp.find_all(text(args, 0)?).take(most).map(Value::text).collect()))
}
