//! Paths of fields in a schema, as `fieldPath` and `jsonPath` of a definition have them.

use crate::custom::schema::Structural;

/// The schema at a path such as `.spec.a['b.c']`. Err: upstream's message.
pub(super) fn field_at<'a>(
    schema: &'a Structural,
    path: &str,
    subscripts: bool,
) -> Result<&'a Structural, String> {
    let (mut found, mut rest) = (schema, path);
    while !rest.is_empty() {
        let (name, after) = if let Some(inner) = rest.strip_prefix("['") {
            if !subscripts {
                return Err("array notation is not allowed".to_owned());
            }
            inner.split_once("']").ok_or("unexpected end of JSON path")?
        } else if let Some(inner) = rest.strip_prefix('.') {
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            if end == 0 {
                return Err("unexpected end of JSON path".to_owned());
            }
            inner.split_at(end)
        } else {
            return Err(format!("expected [ or . but got: {rest}"));
        };
        found = match found.properties.is_empty() {
            false => found.properties.get(name),
            true => found.additional.as_deref(),
        }
        .ok_or("does not refer to a valid field")?;
        rest = after;
    }
    Ok(found)
}
