//! Order-preserving encoding of JSON values: the byte order of keys is the order of values that the contract defines
//! (its decision "Queries and lists"). Index columns contain these bytes, on every engine; documents are never decoded
//! from them.
//!
//! Format: one type byte, then the value. Any change here requires a new database layout.

use serde_json::Value;

use crate::{Result, StoreError};

/// The key of null and of a missing field.
pub(crate) const NULL: &[u8] = &[0x10];
const FALSE: u8 = 0x20;
const TRUE: u8 = 0x21;
const NUMBER: u8 = 0x30;
const TEXT: u8 = 0x40;
const ARRAY: u8 = 0x50;
const OBJECT: u8 = 0x51;

/// The key of a value. `Invalid` for integers beyond 64 bits and for text with a NUL.
pub(crate) fn encode(value: &Value) -> Result<Vec<u8>> {
    let mut key = Vec::new();
    write(value, &mut key)?;
    Ok(key)
}

/// The key of a string.
pub(crate) fn encode_text(text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(text.len() + 1);
    key.push(TEXT);
    key.extend_from_slice(text.as_bytes());
    key
}

/// The key of the lower-cased string; any other type has the key of null.
pub(crate) fn encode_lowercase(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => encode_text(&text.to_lowercase()),
        _ => NULL.to_vec(),
    }
}

/// The smallest key above all strings with the prefix encoded in this key.
pub(crate) fn prefix_upper_bound(mut key: Vec<u8>) -> Vec<u8> {
    // UTF-8 bytes and the type byte are below 0xFF, so the last byte always has a successor.
    if let Some(last) = key.last_mut() {
        *last += 1;
    }
    key
}

fn write(value: &Value, key: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null => key.extend_from_slice(NULL),
        Value::Bool(false) => key.push(FALSE),
        Value::Bool(true) => key.push(TRUE),
        Value::Number(number) => {
            key.push(NUMBER);
            if let Some(integer) = number.as_i64() {
                write_integer(integer, key);
            } else if let (Some(float), false) = (number.as_f64(), number.is_u64()) {
                write_float(float, 0, key);
            } else {
                return Err(StoreError::Invalid(format!(
                    "the integer {number} does not fit 64 bits; send it as text or as a decimal fraction"
                )));
            }
        }
        Value::String(text) => {
            refuse_nul(text)?;
            key.push(TEXT);
            key.extend_from_slice(text.as_bytes());
        }
        // Each element of an array needs a terminator: 0 is below every type byte and occurs in no string.
        Value::Array(items) => {
            key.push(ARRAY);
            for item in items {
                write(item, key)?;
                key.push(0);
            }
            key.push(0);
        }
        Value::Object(fields) => {
            key.push(OBJECT);
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            for (name, item) in sorted {
                refuse_nul(name)?;
                key.push(TEXT);
                key.extend_from_slice(name.as_bytes());
                key.push(0);
                write(item, key)?;
                key.push(0);
            }
            key.push(0);
        }
    }
    Ok(())
}

pub(crate) fn refuse_nul(text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(StoreError::Invalid("text with a NUL character (\\u0000) cannot be stored or queried".into()));
    }
    Ok(())
}

/// The nearest float first, then the integer's distance from it: exact for all of i64, and in order with floats,
/// because no float lies between an integer and its nearest float.
fn write_integer(integer: i64, key: &mut Vec<u8>) {
    let nearest = integer as f64;
    let rest = i128::from(integer) - nearest as i128;
    write_float(nearest, rest as i16, key);
}

fn write_float(float: f64, rest: i16, key: &mut Vec<u8>) {
    let float = if float == 0.0 { 0.0 } else { float };
    let bits = float.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    key.extend_from_slice(&ordered.to_be_bytes());
    key.extend_from_slice(&(rest as u16 ^ 0x8000).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_in_the_order_of_the_contract() {
        let ascending = [
            json!(null),
            json!(false),
            json!(true),
            json!(f64::MIN),
            json!(-9223372036854775808i64),
            json!(-9223372036854775807i64),
            json!(-9007199254740993i64),
            json!(-9007199254740992i64),
            json!(-1.5),
            json!(-1),
            json!(-5e-324),
            json!(0),
            json!(5e-324),
            json!(0.5),
            json!(1),
            json!(1.5),
            json!(9),
            json!(10),
            json!(9007199254740991i64),
            json!(9007199254740992i64),
            json!(9007199254740993i64),
            json!(9007199254740994.0),
            json!(9007199254740995i64),
            json!(9223372036854774784i64),
            json!(9223372036854775295i64),
            json!(9223372036854775296i64),
            json!(9223372036854775806i64),
            json!(9223372036854775807i64),
            json!(9223372036854775808.0),
            json!(f64::MAX),
            json!(""),
            json!("10"),
            json!("9"),
            json!("B"),
            json!("Z"),
            json!("_"),
            json!("a"),
            json!("aa"),
            json!("é"),
            json!("\u{10FFFF}"),
            json!([]),
            json!([null]),
            json!([1]),
            json!([1, 2]),
            json!([2]),
            json!(["a"]),
            json!(["a", 1]),
            json!(["aa"]),
            json!({}),
            json!({"a": 1}),
            json!({"a": 1, "b": 1}),
            json!({"a": 2}),
            json!({"b": 0}),
        ];
        for pair in ascending.windows(2) {
            assert!(encode(&pair[0]).unwrap() < encode(&pair[1]).unwrap(), "{} < {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn equal_numbers_have_one_key_and_other_types_another() {
        for (a, b, same) in [
            (json!(1), json!(1.0), true),
            (json!(0), json!(-0.0), true),
            (json!(9007199254740992i64), json!(9007199254740992.0), true),
            (json!(9007199254740993i64), json!(9007199254740992.0), false),
            (json!(i64::MAX), json!(9223372036854775807.0), false),
            (json!(10), json!("10"), false),
            (json!(true), json!(1), false),
            (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), true),
        ] {
            assert_eq!(encode(&a).unwrap() == encode(&b).unwrap(), same, "{a} and {b}");
        }
    }

    #[test]
    fn integers_and_floats_compare_exactly_around_every_power_of_two() {
        for shift in 0..63 {
            for offset in -3i128..=3 {
                let Ok(integer) = i64::try_from((1i128 << shift) + offset) else { continue };
                for float in
                    [(1u64 << shift) as f64, ((1u64 << shift) as f64).next_up(), ((1u64 << shift) as f64).next_down()]
                {
                    let exact = if (float as i128) == i128::from(integer) {
                        0.0.partial_cmp(&float.fract()).unwrap()
                    } else {
                        i128::from(integer).cmp(&(float as i128))
                    };
                    assert_eq!(
                        encode(&json!(integer)).unwrap().cmp(&encode(&json!(float)).unwrap()),
                        exact,
                        "{integer} {float}"
                    );
                }
            }
        }
    }

    #[test]
    fn integers_beyond_64_bits_and_nul_are_refused() {
        for value in [json!(9223372036854775808u64), json!(u64::MAX), json!("a\0b"), json!(["\0"]), json!({"\0": 1})] {
            assert!(matches!(encode(&value), Err(StoreError::Invalid(_))), "{value}");
        }
    }

    #[test]
    fn a_prefix_covers_its_texts_and_no_other() {
        for (prefix, text, inside) in
            [("ab", "ab", true), ("ab", "abz", true), ("ab", "ac", false), ("", "\u{10FFFF}", true), ("é", "éa", true)]
        {
            let (low, high) = (encode_text(prefix), prefix_upper_bound(encode_text(prefix)));
            assert_eq!((low..high).contains(&encode_text(text)), inside, "{prefix} {text}");
        }
        assert!(prefix_upper_bound(encode_text("")) <= encode(&json!([])).unwrap());
    }
}
