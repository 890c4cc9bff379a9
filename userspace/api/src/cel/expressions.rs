//! The functions of regular expressions: `matches`, `find`, `findAll`. They have Go's syntax.

use std::sync::Arc;

use kube_cel::cel::extractors::{Arguments, This};
use kube_cel::cel::{Context, ExecutionError, Value};

use crate::regexp::{Regexp, RegexpError};

/// Adds the functions; they replace those of other libraries.
pub(super) fn add(functions: &mut Context<'static>) {
    functions.add_function("matches", matches);
    functions.add_function("find", find);
    functions.add_function("findAll", find_all);
}

type Result<T> = std::result::Result<T, ExecutionError>;

fn matches(This(text): This<Arc<String>>, pattern: Arc<String>) -> Result<bool> {
    let regexp = Regexp::new(&pattern);
    let regexp = regexp.map_err(|error| ExecutionError::function_error("matches", error))?;
    Ok(regexp.is_match(&text))
}

fn find(This(text): This<Arc<String>>, pattern: Arc<String>) -> Result<Value> {
    let regexp = Regexp::new(&pattern).map_err(|error| illegal("find", &error))?;
    Ok(Value::String(Arc::new(regexp.find(&text).unwrap_or_default().to_owned())))
}

/// `text.findAll(pattern)` or `text.findAll(pattern, limit)`; a negative limit is none.
fn find_all(This(text): This<Arc<String>>, Arguments(args): Arguments) -> Result<Value> {
    let (pattern, limit) = match args.as_slice() {
        [Value::String(pattern)] => (pattern, usize::MAX),
        [Value::String(pattern), Value::Int(limit)] => {
            (pattern, usize::try_from(*limit).unwrap_or(usize::MAX))
        }
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    let regexp = Regexp::new(pattern).map_err(|error| illegal("findAll", &error))?;
    let found = regexp.find_all(&text).take(limit);
    let found: Vec<Value> = found.map(|part| Value::String(Arc::new(part.to_owned()))).collect();
    Ok(Value::List(Arc::new(found)))
}

fn illegal(function: &str, error: &RegexpError) -> ExecutionError {
    ExecutionError::function_error(function, format!("Illegal regex: {error}"))
}
