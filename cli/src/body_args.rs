//! Maps `--key=value` to a JSON body in raw calls, which have no schema, by the documented rules. By their numbers
//! there: 1 is `flag.rs`; 2, 3, 4 and 6 are here; 5 was a bug and is not implemented; 7: the body is an object, `{}`
//! without any key.

use openorch_sdk::api::json::MAX_DEPTH;
use serde_json::{Map, Value, json};

use crate::{
    error::CliError,
    flag::{Flag, FlagValue},
};

/// Merges the flags into `body`: objects are merged, any other value of a flag replaces the body's.
pub fn merge_flags(mut body: Value, flags: Vec<Flag>) -> Result<Value, CliError> {
    if flags.is_empty() {
        return Ok(body);
    }
    if !body.is_object() {
        return Err(CliError::Usage("the body is not an object, so `--key=value` cannot be used".into()));
    }
    merge(&mut body, object_of(flags)?);
    Ok(body)
}

fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// The object that the flags describe, in their order.
fn object_of(flags: Vec<Flag>) -> Result<Value, CliError> {
    let mut fields = Map::new();
    for flag in flags {
        let value = match flag.value {
            FlagValue::Plain(text) => infer_type(text),
            FlagValue::Text(text) => text.into(),
            FlagValue::Json(value) => value,
        };
        let path = split_key(&flag.key);
        if path.len() > MAX_DEPTH {
            return Err(too_deep(path.len()));
        }
        put(&mut fields, &path, value);
    }
    Ok(Value::Object(fields))
}

/// A key with more parts than any server accepts. The message does not repeat it, because it is long.
pub fn too_deep(parts: usize) -> CliError {
    CliError::Usage(format!("a key has {parts} parts; bodies have at most {MAX_DEPTH} levels"))
}

/// Rule 2: a key with a dot is split at dots only, any other at dashes.
fn split_key(key: &str) -> Vec<&str> {
    key.split(if key.contains('.') { '.' } else { '-' }).collect()
}

/// Rule 3: an integer, else a word that the documented `oo` reads as a boolean, else text.
fn infer_type(text: String) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    match text.as_str() {
        "t" | "T" | "true" | "TRUE" | "True" => true.into(),
        "f" | "F" | "false" | "FALSE" | "False" => false.into(),
        _ => text.into(),
    }
}

/// Rules 4 and 6: a repeated leaf becomes a list of both values; a parent that is not an object is replaced by one.
fn put(fields: &mut Map<String, Value>, path: &[&str], value: Value) {
    let [name, deeper @ ..] = path else { return };
    let existing = fields.get_mut(*name);
    if !deeper.is_empty() {
        if let Some(Value::Object(inner)) = existing {
            return put(inner, deeper, value);
        }
        let mut inner = Map::new();
        put(&mut inner, deeper, value);
        fields.insert((*name).to_owned(), inner.into());
        return;
    }
    match existing {
        Some(Value::Array(list)) => list.push(value),
        Some(other) => *other = json!([other.take(), value]),
        None => {
            fields.insert((*name).to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(flags: &str) -> Value {
        let flags = flags.split_whitespace().map(|word| Flag::parse(word).unwrap()).collect();
        merge_flags(json!({}), flags).unwrap()
    }

    #[test]
    fn the_documented_rules() {
        for (flags, want) in [
            ("", json!({})),
            // 2: dots, dashes.
            ("--a.b=1", json!({ "a": { "b": 1 } })),
            ("--a-b=1", json!({ "a": { "b": 1 } })),
            ("--a-b.c=1", json!({ "a-b": { "c": 1 } })),
            ("--aB=1", json!({ "aB": 1 })),
            ("--a-b=1 --a-c=2", json!({ "a": { "b": 1, "c": 2 } })),
            // 3: types.
            ("--n=007", json!({ "n": 7 })),
            ("--n=-5", json!({ "n": -5 })),
            ("--n=1 --m=0", json!({ "n": 1, "m": 0 })),
            ("--n=7.5", json!({ "n": "7.5" })),
            ("--n=9223372036854775808", json!({ "n": "9223372036854775808" })),
            ("--a=t --b=F --c=True --d=tRUE", json!({ "a": true, "b": false, "c": true, "d": "tRUE" })),
            ("--a=null --b= --c=[1]", json!({ "a": "null", "b": "", "c": "[1]" })),
            // 4: lists.
            ("--id=5 --id=6", json!({ "id": [5, 6] })),
            ("--id=5 --id=6 --id=x", json!({ "id": [5, 6, "x"] })),
            // 5 is not implemented: a name that ends in `-id` does not become a list.
            ("--user-id.name=joe", json!({ "user-id": { "name": "joe" } })),
            ("--user-id=5 --user-id=5", json!({ "user": { "id": [5, 5] } })),
            // 6: conflicts.
            ("--a=1 --a.b=2", json!({ "a": { "b": 2 } })),
            ("--a.b=2 --a=1", json!({ "a": [{ "b": 2 }, 1] })),
            // The typed forms.
            ("--a:=[1] --b:=7.5 --c:=null", json!({ "a": [1], "b": 7.5, "c": null })),
            ("--a:=[1] --a=2", json!({ "a": [1, 2] })),
            ("--a:s=1234 --b:s=t", json!({ "a": "1234", "b": "t" })),
            ("--a.b:={\"c\":1} --a.b.d=2", json!({ "a": { "b": { "c": 1, "d": 2 } } })),
        ] {
            assert_eq!(body(flags), want, "{flags}");
        }
    }

    #[test]
    fn flags_go_over_a_body() {
        let flag = || vec![Flag::parse("--a=1").unwrap()];
        assert_eq!(merge_flags(json!({ "b": 2 }), flag()).unwrap(), json!({ "a": 1, "b": 2 }));
        assert_eq!(merge_flags(json!([1]), vec![]).unwrap(), json!([1]));
        assert!(merge_flags(json!([1]), flag()).is_err());
    }

    #[test]
    fn a_key_that_the_body_has_too_replaces_what_stands_there_and_does_not_join_it() {
        let over = |body: Value, flags: &str| {
            merge_flags(body, flags.split_whitespace().map(|word| Flag::parse(word).unwrap()).collect()).unwrap()
        };
        for (body, flags, want) in [
            (json!({ "a": 1 }), "--a=2", json!({ "a": 2 })),
            (json!({ "a": [1, 2] }), "--a=3", json!({ "a": 3 })),
            (json!({ "a": [1, 2] }), "--a=3 --a=4", json!({ "a": [3, 4] })),
            (json!({ "a": { "b": 1, "c": 2 } }), "--a.b=3", json!({ "a": { "b": 3, "c": 2 } })),
            (json!({ "a": 1 }), "--a.b=2", json!({ "a": { "b": 2 } })),
            (json!({ "a": { "b": 1 } }), "--a=2", json!({ "a": 2 })),
            (json!({ "a": { "b": 1 } }), "--a:={\"c\":2}", json!({ "a": { "b": 1, "c": 2 } })),
        ] {
            assert_eq!(over(body.clone(), flags), want, "{body} {flags}");
        }
    }

    #[test]
    fn a_key_deeper_than_any_body_is_refused() {
        let flag = |parts: usize| vec![Flag::parse(&format!("--{}=1", vec!["a"; parts].join("."))).unwrap()];
        assert!(merge_flags(json!({}), flag(MAX_DEPTH)).is_ok());
        let refusal = merge_flags(json!({}), flag(1_000_000)).unwrap_err();
        assert!(refusal.code() == 2 && refusal.to_string().contains("1000000 parts"), "{refusal}");
    }
}
