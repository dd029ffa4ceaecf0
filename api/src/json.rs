//! Strict JSON for requests: RFC 8259 without its freedoms. Duplicate keys, text after the value, invalid UTF-8 and
//! nesting beyond a limit are refused (contract decisions 3, 23 and 27); numbers beyond 64 bits too.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::InvalidInput;

/// Arrays and objects inside one another are at most this deep, where no setting says otherwise.
pub const MAX_DEPTH: usize = 64;

/// Reads one JSON value, nested at most `depth` deep. `Ok(None)` for an empty body or one of white space alone.
pub fn parse(bytes: &[u8], depth: usize) -> Result<Option<Value>, InvalidInput> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        InvalidInput(format!("Invalid JSON: byte {} is not UTF-8; send the text in UTF-8", error.valid_up_to()))
    })?;
    if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
        return Ok(None);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let value =
        Strict { depth: 0, most: depth }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map(Some).map_err(|error| InvalidInput(format!("Invalid JSON: {error}")))
}

struct Strict {
    depth: usize,
    most: usize,
}

impl Strict {
    fn deeper<E: de::Error>(&self) -> Result<Strict, E> {
        if self.depth == self.most {
            return Err(E::custom(format_args!("nested deeper than {} levels", self.most)));
        }
        Ok(Strict { depth: self.depth + 1, most: self.most })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => Ok(value.into()),
            Err(_) => Err(E::custom(format_args!("the integer {value} does not fit 64 bits; send it as text"))),
        }
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // serde_json reads an integer beyond 64 bits as a float and so loses digits: refused, like every such integer.
        if value.fract() == 0.0 && value.abs() >= 9_223_372_036_854_775_808.0 {
            return Err(E::custom(format_args!("the number {value:e} does not fit 64 bits; send it as text")));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        if value.contains('\0') {
            return Err(E::custom("text with a NUL character (\\u0000) cannot be stored"));
        }
        Ok(Value::String(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.deeper()?)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if key.contains('\0') {
                return Err(de::Error::custom("a key with a NUL character (\\u0000) cannot be stored"));
            }
            if object.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key `{key}` appears twice")));
            }
            let value = fields.next_value_seed(self.deeper()?)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_reading_refuses_what_two_readers_could_read_differently() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        for (text, good) in [
            ("{}", true),
            ("  ", true),
            ("null", true),
            (r#"{"a":{"a":1}}"#, true),
            ("9223372036854775807", true),
            (&deep(64), true),
            (&deep(66), false),
            (r#"{"a":1,"a":2}"#, false),
            (r#"{"a":{"b":1,"b":2}}"#, false),
            (r#"{"a":1,"\u0061":2}"#, false),
            ("{} {}", false),
            ("{", false),
            ("9223372036854775808", false),
            ("123456789012345678901234567890", false),
            ("1e400", false),
            (r#""\u0000""#, false),
            (r#""\ud800""#, false),
        ] {
            assert_eq!(parse(text.as_bytes(), MAX_DEPTH).is_ok(), good, "{text}");
        }
        assert!(parse(b"\"\xff\"", MAX_DEPTH).is_err());
    }
}
