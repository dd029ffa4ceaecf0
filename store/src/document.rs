//! Validation of document bodies, and access to fields by dotted path.

use serde_json::Value;

use crate::{Result, StoreError, key, query::check_field};

/// The maximum length of an id in bytes.
const MAX_ID_BYTES: usize = 512;

/// Validates an id.
pub(crate) fn check_id(collection: &str, id: &str) -> Result<()> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.contains('\0') {
        return Err(StoreError::Invalid(format!(
            "an id of {collection} must have 1 to {MAX_ID_BYTES} bytes and no NUL"
        )));
    }
    Ok(())
}

/// Parses and validates a body that is to be stored. It must be a JSON object within the size limit, without a NUL and
/// without an integer beyond 64 bits, neither of which would round-trip.
pub(crate) fn parse_new(body: &str, limit: usize, place: &str) -> Result<Value> {
    if body.len() > limit {
        return Err(StoreError::TooLarge(format!(
            "{place} has {} bytes; a document may have at most {limit}",
            body.len()
        )));
    }
    let value: Value = serde_json::from_str(body)
        .map_err(|error| StoreError::Invalid(format!("the body of {place} is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(StoreError::Invalid(format!("the body of {place} must be a JSON object")));
    }
    reject_lossy_literals(body).map_err(|error| StoreError::Invalid(format!("{place}: {error}")))?;
    Ok(value)
}

/// Parses a stored body.
pub(crate) fn parse_stored(body: &str, collection: &str, id: &str) -> Result<Value> {
    serde_json::from_str(body)
        .map_err(|error| StoreError::Corrupt(format!("document `{id}` of {collection} cannot be read: {error}")))
}

/// The value at a dotted path; null if it is missing.
pub(crate) fn field<'a>(document: &'a Value, path: &str) -> &'a Value {
    let mut value = document;
    for name in path.split('.') {
        value = match value.get(name) {
            Some(inner) => inner,
            None => return &Value::Null,
        };
    }
    value
}

/// The body with these fields set, as text and parsed; validated like a new one.
pub(crate) fn with_fields(
    body: &str,
    fields: &[(String, Value)],
    limit: usize,
    collection: &str,
    id: &str,
) -> Result<(Box<str>, Value)> {
    let place = format!("document `{id}` of {collection}");
    let mut value = parse_stored(body, collection, id)?;
    for (path, new) in fields {
        set(&mut value, path, new.clone())?;
    }
    let text = value.to_string();
    let value = parse_new(&text, limit, &place)?;
    Ok((text.into(), value))
}

/// Refuses a field that cannot be set in any document.
pub(crate) fn check_settable(path: &str) -> Result<()> {
    if path == "id" {
        return Err(StoreError::Invalid(
            "the id of a document cannot be changed; create another document and delete this one".into(),
        ));
    }
    check_field(path)
}

/// Sets the value at a dotted path; missing objects on the path are created.
pub(crate) fn set(document: &mut Value, path: &str, value: Value) -> Result<()> {
    let mut current = document;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        if current.is_null() {
            *current = Value::Object(serde_json::Map::new());
        }
        let Some(fields) = current.as_object_mut() else {
            return Err(StoreError::Invalid(format!(
                "`{path}` cannot be set: the value before `{name}` is not an object"
            )));
        };
        current = fields.entry(name).or_insert(Value::Null);
        if names.peek().is_none() {
            *current = value;
            return Ok(());
        }
    }
    Ok(())
}

/// Checks the text itself, because the parser has already turned a long integer into a float. The text is valid JSON.
fn reject_lossy_literals(body: &str) -> Result<()> {
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = skip_string(body, at + 1)?,
            b'-' | b'0'..=b'9' => at = skip_number(body, at)?,
            _ => at += 1,
        }
    }
    Ok(())
}

fn skip_string(body: &str, mut at: usize) -> Result<usize> {
    let bytes = body.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Ok(at + 1),
            b'\\' if bytes[at..].starts_with(br"\u0000") => key::refuse_nul("\0")?,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

fn skip_number(body: &str, start: usize) -> Result<usize> {
    let part_of_number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    let length = body.as_bytes()[start..].iter().take_while(|byte| part_of_number(byte)).count();
    let literal = &body[start..start + length];
    if !literal.contains(['.', 'e', 'E']) && literal.parse::<i64>().is_err() {
        let shown: String = literal.chars().take(40).collect();
        return Err(StoreError::Invalid(format!("the integer {shown} does not fit 64 bits; send it as text")));
    }
    Ok(start + length)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_come_back_the_same_is_refused() {
        for (body, fine) in [
            (r#"{}"#, true),
            (r#"{"a":9223372036854775807,"b":-9223372036854775808}"#, true),
            (r#"{"a":9223372036854775808}"#, false),
            (r#"{"a":[{"b":99999999999999999999999999}]}"#, false),
            (r#"{"a":-9223372036854775809}"#, false),
            (r#"{"a":1e300,"b":12345678901234567890.5}"#, true),
            (r#"{"a":"9223372036854775808"}"#, true),
            (r#"{"a":"x\"99999999999999999999\""}"#, true),
            ("{\"a\":\"\\u0000\"}", false),
            ("{\"a\\u0000\":1}", false),
            ("{\"a\":\"\\\\u0000\"}", true),
            ("{\"a\":\"\\\\\\u0000\"}", false),
            ("{\"a\":\"\0\"}", false),
            ("[]", false),
            ("null", false),
            ("", false),
            ("{", false),
        ] {
            assert_eq!(parse_new(body, 1000, "x").is_ok(), fine, "{body:?}");
        }
        assert!(matches!(parse_new("{}   ", 4, "x"), Err(StoreError::TooLarge(_))));
    }

    #[test]
    fn a_field_is_set_by_its_path() {
        for (path, want) in [
            ("a", Some(json!({"a": 7, "n": null}))),
            ("b", Some(json!({"a": {"b": 1}, "b": 7, "n": null}))),
            ("a.b", Some(json!({"a": {"b": 7}, "n": null}))),
            ("a.c.d", Some(json!({"a": {"b": 1, "c": {"d": 7}}, "n": null}))),
            ("n.x", Some(json!({"a": {"b": 1}, "n": {"x": 7}}))),
            ("a.b.c", None),
        ] {
            let mut document = json!({"a": {"b": 1}, "n": null});
            assert_eq!(set(&mut document, path, json!(7)).ok().map(|()| document), want, "{path}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let document = json!({"a": {"b": {"c": 1}}, "list": [{"a": 1}], "text": "x"});
        for (path, want) in [
            ("a.b.c", json!(1)),
            ("a.x", json!(null)),
            ("text.a", json!(null)),
            ("list.a", json!(null)),
            ("text", json!("x")),
        ] {
            assert_eq!(*field(&document, path), want, "{path}");
        }
    }
}
