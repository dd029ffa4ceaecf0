//! Strict JSON parser for requests. Where RFC 8259 leaves a choice, it rejects: duplicate keys, text after the value,
//! invalid UTF-8, integers beyond 64 bits, and more nesting or values than the limits allow (decision "JSON input",
//! decision "Limits" and 27).

use std::{cell::Cell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::InvalidInput;

/// Default maximum nesting depth of arrays and objects.
pub const MAX_DEPTH: usize = 64;

/// Limits for one JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum nesting depth of arrays and objects.
    pub depth: usize,
    /// Maximum number of values. Each object, array, string, number, boolean and null counts as one; keys do not count.
    pub values: usize,
}

impl Limits {
    /// For text from a trusted source: any number of values.
    pub const TRUSTED: Limits = Limits { depth: MAX_DEPTH, values: usize::MAX };
}

/// Why a text was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// The parser does not accept it: not UTF-8, not JSON, a duplicate key, too much nesting. The message says where.
    Invalid(InvalidInput),
    /// It has more values than [`Limits::values`], whose value is given here.
    TooManyValues(usize),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Invalid(reason) => reason.fmt(f),
            JsonError::TooManyValues(most) => write!(f, "the JSON text contains more than {most} values"),
        }
    }
}

/// Parses one JSON value within the limits. `Ok(None)` for an empty text or one of white space only.
pub fn parse(bytes: &[u8], limits: Limits) -> Result<Option<Value>, JsonError> {
    let invalid = |reason: String| JsonError::Invalid(InvalidInput(format!("Invalid JSON: {reason}")));
    let text = std::str::from_utf8(bytes)
        .map_err(|error| invalid(format!("byte {} is not UTF-8; send the text in UTF-8", error.valid_up_to())))?;
    if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
        return Ok(None);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let count = Cell::new(0);
    let strict = StrictVisitor { depth: 0, limits, count: &count };
    match strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => Ok(Some(value)),
        Err(_) if count.get() > limits.values => Err(JsonError::TooManyValues(limits.values)),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// Upper bound in bytes of the memory that [`parse`] and the deserialization after it may allocate, estimated in one
/// pass over the text: a map with one entry allocates a whole B-tree node, a list with one element capacity for four.
pub fn estimate_memory(bytes: &[u8], limits: Limits) -> usize {
    const BYTES_PER_OBJECT: usize = 700;
    const BYTES_PER_LIST: usize = 160;
    const BYTES_PER_VALUE: usize = 150;
    let (mut objects, mut lists, mut values) = (0_usize, 0_usize, 0_usize);
    for byte in bytes {
        match byte {
            b'{' => objects += 1,
            b'[' => lists += 1,
            b',' | b':' => values += 1,
            _ => {}
        }
    }
    let capped = |count: usize| count.min(limits.values);
    bytes.len() + BYTES_PER_OBJECT * capped(objects) + BYTES_PER_LIST * capped(lists) + BYTES_PER_VALUE * capped(values)
}

/// The number of values in `value`, as [`Limits::values`] counts them.
pub fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// Whether arrays and objects are nested at most `depth` levels deep.
pub fn is_within_depth(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| is_within_depth(item, depth - 1)),
        Value::Object(fields) => depth > 0 && fields.values().all(|field| is_within_depth(field, depth - 1)),
        _ => true,
    }
}

#[derive(Clone, Copy)]
struct StrictVisitor<'a> {
    depth: usize,
    limits: Limits,
    /// Number of values started so far, in the whole text.
    count: &'a Cell<usize>,
}

impl StrictVisitor<'_> {
    fn nested<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == self.limits.depth {
            return Err(E::custom(format_args!("nested deeper than {} levels", self.limits.depth)));
        }
        Ok(StrictVisitor { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for StrictVisitor<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count.set(self.count.get() + 1);
        if self.count.get() > self.limits.values {
            return Err(de::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor<'_> {
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
        // serde_json parses an integer beyond 64 bits as a float, which loses digits; reject it like every such integer.
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
        while let Some(item) = items.next_element_seed(self.nested()?)? {
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
            let value = fields.next_value_seed(self.nested()?)?;
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
            assert_eq!(parse(text.as_bytes(), Limits::TRUSTED).is_ok(), good, "{text}");
        }
        assert!(parse(b"\"\xff\"", Limits::TRUSTED).is_err());
    }

    #[test]
    fn the_values_of_the_whole_text_are_counted() {
        let limits = Limits { depth: 8, values: 5 };
        for (text, good) in [
            ("[1,2,3,4]", true),
            ("[1,2,3,4,5]", false),
            (r#"{"a":[{"b":1}]}"#, true),
            (r#"{"a":[{"b":1}],"c":{}}"#, true),
            (r#"{"a":[{"b":1}],"c":{},"d":null}"#, false),
        ] {
            let read = parse(text.as_bytes(), limits);
            assert_eq!(read.is_ok(), good, "{text}");
            assert!(good || read == Err(JsonError::TooManyValues(5)), "{text}");
        }
        // A syntax error before the limit is reached is reported as invalid JSON.
        assert!(matches!(parse(b"[1,,,,,,,,,]", limits), Err(JsonError::Invalid(_))));
    }
}
