//! Calls functions of kube-cel and cel with values. Their cost is computed before they run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use kube_cel::KubeCelExt as _;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};
use kube_cel::cel::{Context, ExecutionError, Value};

use super::budget::{CelError, PER_CALL};
use super::expressions;
use super::message::Message;

static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| {
    let mut functions = Context::default().with_all();
    expressions::add(&mut functions);
    functions
});

/// What a function is called on.
pub(super) enum Target {
    /// `value.function(...)`
    Value(Value),
    /// `math.function(...)`
    Namespace(String),
}

/// Calls a function. A panic within it becomes an error of the expression.
pub(super) fn call(on: Option<Target>, name: &str, args: Vec<Value>) -> Result<Value, CelError> {
    let ident = |name: String| IdedExpr { id: 0, expr: Expr::Ident(name) };
    let mut context = FUNCTIONS.new_inner_scope();
    let target = match on {
        None => None,
        Some(Target::Namespace(name)) => Some(Box::new(ident(name))),
        Some(Target::Value(value)) => {
            context.add_variable_from_value("@on", value);
            Some(Box::new(ident("@on".to_owned())))
        }
    };
    let names: Vec<String> = (0..args.len()).map(|at| format!("@{at}")).collect();
    for (name, value) in names.iter().zip(args) {
        context.add_variable_from_value(name.clone(), value);
    }
    let args = names.into_iter().map(ident).collect();
    let call = IdedExpr { id: 0, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target, args }) };
    match catch_unwind(AssertUnwindSafe(|| Value::resolve(&call, &context))) {
        Ok(result) => result.map_err(|error| of_execution(error, name)),
        Err(_) => Err(CelError::Evaluation(format!("the function '{name}' failed"))),
    }
}

/// Converts an error of cel to upstream's words.
pub(super) fn of_execution(error: ExecutionError, function: &str) -> CelError {
    CelError::Evaluation(match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::NotSupportedAsMethod { .. }
        | ExecutionError::InvalidArgumentCount { .. } => "no such overload".to_owned(),
        ExecutionError::UndeclaredReference(_) => format!("undeclared reference to '{function}'"),
        ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
        ExecutionError::Overflow(..) => "integer overflow".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        ExecutionError::FunctionError { message, .. } => message,
        other => other.to_string(),
    })
}

/// The bytes of a text or items of a list or map; 1 for other values.
pub(super) fn size(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(items) => items.len() as u64,
        Value::Map(map) => map.map.len() as u64,
        _ => 1,
    }
}

/// Counting stops at this weight, which exceeds every budget: a shared value may occur in another exponentially often.
const MAX_WEIGHT: u64 = 16 * PER_CALL;

/// The size of a value with everything in it.
pub(super) fn weight(value: &Value) -> u64 {
    let mut left = MAX_WEIGHT;
    weigh(value, &mut left);
    MAX_WEIGHT - left
}

fn weigh(value: &Value, left: &mut u64) {
    let own = match value {
        Value::List(_) | Value::Map(_) | Value::Opaque(_) => 1,
        other => size(other),
    };
    *left = left.saturating_sub(own);
    let mut below = |value: &Value| {
        if *left > 0 {
            weigh(value, left);
        }
    };
    match value {
        Value::List(items) => items.iter().for_each(&mut below),
        Value::Map(map) => map.map.values().for_each(&mut below),
        value => {
            if let Some(message) = Message::of(value) {
                message.fields().values().for_each(&mut below);
            }
        }
    }
}

/// The cost of a call. Values are copied into a call, so their weight counts.
pub(super) fn cost(name: &str, on: Option<&Value>, args: &[Value]) -> u64 {
    let all: u64 = on.into_iter().chain(args).map(weight).sum();
    let text = on.map_or(0, size);
    let more = match (name, args) {
        ("contains" | "intersects" | "equivalent", [a, b]) if on.is_none() => {
            weight(a).saturating_mul(weight(b))
        }
        ("replace", [from, to, ..]) => {
            let times = match size(from) {
                0 => text + 1,
                length => text / length,
            };
            times.saturating_mul(size(to)) / 10
        }
        ("matches" | "find" | "findAll", [pattern, ..]) => {
            (text / 10 + 1).saturating_mul(size(pattern) / 4 + 1)
        }
        ("indexOf" | "lastIndexOf" | "contains" | "split", [part, ..]) => {
            (text / 10 + 1).saturating_mul(size(part) / 10 + 1)
        }
        ("distinct" | "sort", _) => text.saturating_mul(text),
        _ => 0,
    };
    1 + all / 10 + more
}
