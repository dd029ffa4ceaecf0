//! A document's text: what may be stored at all, and how a field is found in it.

use serde_json::Value;

use crate::{Result, StoreError, key};

/// Reads a body that is to be stored. It must be a JSON object within the size limit, without a NUL and without an
/// integer beyond 64 bits: those would come back as something else.
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
    refuse_what_would_change(body).map_err(|error| StoreError::Invalid(format!("{place}: {error}")))?;
    Ok(value)
}

/// Reads a body that was stored.
pub(crate) fn parse_stored(body: &str, collection: &str, id: &str) -> Result<Value> {
    serde_json::from_str(body)
        .map_err(|error| StoreError::Corrupt(format!("document `{id}` of {collection} cannot be read: {error}")))
}

/// The value at a dotted path; null where any step is missing.
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

/// Looks at the text itself, because the parser has made a float of a long integer already. The text is valid JSON.
fn refuse_what_would_change(body: &str) -> Result<()> {
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(body, at + 1)?,
            b'-' | b'0'..=b'9' => at = end_of_number(body, at)?,
            _ => at += 1,
        }
    }
    Ok(())
}

fn end_of_string(body: &str, mut at: usize) -> Result<usize> {
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

fn end_of_number(body: &str, start: usize) -> Result<usize> {
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
    use super::*;
    use serde_json::json;

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
