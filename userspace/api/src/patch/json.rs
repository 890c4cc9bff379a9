//! JSON patch (RFC 6902): one operation at a time, each bounded in depth and work before it runs.

use json_patch::jsonptr::{Pointer, PointerBuf};
use json_patch::{AddOperation, Patch, PatchErrorKind, PatchOperation, RemoveOperation};
use serde_json::Value;

use super::{PatchError, TOO_DEEP, rejected};
use crate::document::{MAX_DEPTH, count, fits};

/// Number of operations of one JSON patch (upstream's MaxJSONPatchOperations).
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that all `copy` operations of a JSON patch may add: each could double the object (JSONPatchMaxCopyBytes).
const MAX_COPY_BYTES: usize = 3 << 20;
/// Values that all operations of a JSON patch may move or visit, about 0.2 s: an insertion at the front of a list moves all
/// of its items. Enough for 10,000 operations on a list of 2,000 items.
const MAX_WORK: usize = 20_000_000;

/// Applies a JSON patch; the object stays unchanged on error.
pub(super) fn apply(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    let patch: Patch = serde_json::from_value(patch)
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        let found = patch.0.len();
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {found}"
        )));
    }
    let mut new = object.clone();
    let mut budget = Budget { copied: 0, work: MAX_WORK };
    for operation in patch.0 {
        step(&mut new, operation, &mut budget)?;
    }
    *object = new;
    Ok(())
}

fn step(document: &mut Value, mut operation: PatchOperation, budget: &mut Budget) -> Result<(), PatchError> {
    match &mut operation {
        PatchOperation::Add(add) => plain(document, &mut add.path, true),
        PatchOperation::Remove(remove) => plain(document, &mut remove.path, false),
        PatchOperation::Replace(replace) => plain(document, &mut replace.path, false),
        PatchOperation::Copy(copy) => {
            plain(document, &mut copy.from, false);
            plain(document, &mut copy.path, true);
        }
        PatchOperation::Move(change) => plain(document, &mut change.from, false),
        PatchOperation::Test(test) => {
            plain(document, &mut test.path, false);
            // Upstream treats an absent value as null; clients use this to test that a list does not exist yet.
            if test.value.is_null() && document.pointer(test.path.as_str()).is_none() {
                return Ok(());
            }
        }
    }
    budget.spend(document, &operation)?;
    let PatchOperation::Move(change) = operation else { return run(document, operation) };
    // The number of a list item in the target counts in what is left without the moved value.
    let value = document.pointer_mut(change.from.as_str()).map(Value::take);
    run(document, PatchOperation::Remove(RemoveOperation { path: change.from }))?;
    let (value, mut path) = (value.unwrap_or_default(), change.path);
    plain(document, &mut path, true);
    budget.work(shifted(document, &path))?;
    run(document, PatchOperation::Add(AddOperation { path, value }))
}

fn run(document: &mut Value, operation: PatchOperation) -> Result<(), PatchError> {
    json_patch::patch_unsafe(document, &[operation]).map_err(|error| match error.kind {
        PatchErrorKind::TestFailed => PatchError::TestFailed(rejected(error)),
        _ => PatchError::DoesNotApply(rejected(error)),
    })
}

/// Gives list items in a path the plain number that RFC 6901 asks for: as upstream, `-1` is the last item (as the target of an
/// addition, the end of the list), and `+1` and `01` are 1. A path that leads nowhere stays as it is.
fn plain(document: &Value, path: &mut PointerBuf, adds: bool) {
    let is_plain = |token: &str| {
        token.bytes().all(|byte| byte.is_ascii_digit()) && (token.len() == 1 || !token.starts_with('0'))
    };
    let tokens = path.count();
    let mut at = Some(document);
    let mut changed = PointerBuf::new();
    for (number, token) in path.tokens().enumerate() {
        let text = token.decoded();
        let items = at.and_then(Value::as_array);
        let index = items.filter(|_| !is_plain(&text)).and_then(|items| {
            let count = i64::try_from(items.len()).ok()? + i64::from(adds && number + 1 == tokens);
            let index: i64 = text.parse().ok()?;
            Some(if index < 0 { index + count } else { index }).filter(|index| *index >= 0)
        });
        let token = index.map_or(text.into_owned(), |index| index.to_string());
        at = match at {
            Some(Value::Array(items)) => token.parse::<usize>().ok().and_then(|index| items.get(index)),
            Some(Value::Object(fields)) => fields.get(&token),
            _ => None,
        };
        changed.push_back(token);
    }
    *path = changed;
}

/// What is left for the operations of one patch.
struct Budget {
    /// Bytes copied so far.
    copied: usize,
    /// Values that may still be moved or visited.
    work: usize,
}

impl Budget {
    /// Refuses an operation that exceeds the budget or nests too deep.
    fn spend(&mut self, document: &Value, operation: &PatchOperation) -> Result<(), PatchError> {
        match operation {
            PatchOperation::Add(add) => {
                self.work(shifted(document, &add.path))?;
                check_depth(&add.path, &add.value)
            }
            PatchOperation::Replace(replace) => check_depth(&replace.path, &replace.value),
            PatchOperation::Remove(remove) => self.work(shifted(document, &remove.path)),
            PatchOperation::Move(change) => {
                let Some(value) = document.pointer(change.from.as_str()) else { return Ok(()) };
                self.work(shifted(document, &change.from))?;
                // On the same level or above, the value fits as it did.
                if change.path.count() <= change.from.count() {
                    return Ok(());
                }
                self.work(count(value))?;
                check_depth(&change.path, value)
            }
            PatchOperation::Copy(copy) => {
                let Some(value) = document.pointer(copy.from.as_str()) else { return Ok(()) };
                self.copied += value.to_string().len();
                let copied = self.copied;
                if copied > MAX_COPY_BYTES {
                    return Err(PatchError::DoesNotApply(rejected(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPY_BYTES}"
                    ))));
                }
                self.work(shifted(document, &copy.path))?;
                check_depth(&copy.path, value)
            }
            PatchOperation::Test(_) => Ok(()),
        }
    }

    fn work(&mut self, values: usize) -> Result<(), PatchError> {
        self.work = self.work.checked_sub(values).ok_or_else(|| {
            PatchError::TooLarge(format!(
                "The allowed maximum of values that a JSON patch moves is {MAX_WORK}"
            ))
        })?;
        Ok(())
    }
}

fn check_depth(path: &Pointer, value: &Value) -> Result<(), PatchError> {
    match MAX_DEPTH.checked_sub(path.count()) {
        Some(levels) if fits(value, levels) => Ok(()),
        _ => Err(PatchError::DoesNotApply(rejected(TOO_DEEP))),
    }
}

/// Number of list items that an insertion or a removal at `path` moves.
fn shifted(document: &Value, path: &Pointer) -> usize {
    let Some((parent, last)) = path.split_back() else { return 0 };
    match document.pointer(parent.as_str()) {
        Some(Value::Array(items)) => {
            last.encoded().parse::<usize>().map_or(0, |at| items.len().saturating_sub(at))
        }
        _ => 0,
    }
}
