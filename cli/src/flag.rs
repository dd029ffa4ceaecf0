//! Parses one word of input: `--key=value`, its typed forms, and `?key=value`. Keys are interpreted elsewhere: in raw
//! calls by `body_args.rs`, in `oo call` by the schema of the operation (`input.rs`).

use openorch_sdk::api::json;
use serde_json::Value;

use crate::{error::CliError, manifest};

#[derive(Debug, PartialEq)]
pub struct Flag {
    pub key: String,
    pub value: FlagValue,
}

#[derive(Debug, PartialEq)]
pub enum FlagValue {
    /// `--key=value`: the type is guessed or taken from the schema.
    Plain(String),
    /// `--key:s=text`, and `--key@=FILE` with the content of the file.
    Text(String),
    /// `--key:=JSON`.
    Json(Value),
}

impl Flag {
    /// Parses a word; reads the file that it names.
    pub fn parse(word: &str) -> Result<Flag, CliError> {
        let invalid = || {
            let hint = if matches!(word, "-e" | "-u" | "-o" | "-f" | "-H" | "--curl" | "--timeout" | "--help" | "-h") {
                "options of `oo` precede the path"
            } else {
                "write `--key=value`"
            };
            CliError::Usage(format!("invalid flag format: `{word}`; {hint}"))
        };
        let (key, text) = word.strip_prefix("--").and_then(|pair| pair.split_once('=')).ok_or_else(invalid)?;
        let (key, value) = if let Some(key) = key.strip_suffix(":s") {
            (key, FlagValue::Text(text.to_owned()))
        } else if let Some(key) = key.strip_suffix(':') {
            let value = json::parse(text.as_bytes(), json::Limits::TRUSTED).ok().flatten();
            let refused =
                || CliError::Usage(format!("`{word}`: the value is not JSON; for text write `--{key}:s={text}`"));
            (key, FlagValue::Json(value.ok_or_else(refused)?))
        } else if let Some(key) = key.strip_suffix('@') {
            (key, FlagValue::Text(manifest::read_text(text)?))
        } else {
            (key, FlagValue::Plain(text.to_owned()))
        };
        if key.is_empty() {
            return Err(invalid());
        }
        Ok(Flag { key: key.to_owned(), value })
    }
}

impl FlagValue {
    /// The value as text, for a path or a query.
    pub fn into_text(self) -> String {
        match self {
            FlagValue::Plain(text) | FlagValue::Text(text) | FlagValue::Json(Value::String(text)) => text,
            FlagValue::Json(value) => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_taken_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        let from_file = format!("--key@={}", file.path().display());
        for (word, key, value) in [
            ("--key=value", "key", FlagValue::Plain("value".into())),
            ("--key=", "key", FlagValue::Plain(String::new())),
            ("--key=a=b", "key", FlagValue::Plain("a=b".into())),
            ("--key:s=7", "key", FlagValue::Text("7".into())),
            ("--key:=7.5", "key", FlagValue::Json(json!(7.5))),
            ("--key:=[1]", "key", FlagValue::Json(json!([1]))),
            ("--key:=null", "key", FlagValue::Json(json!(null))),
            ("--a.b:={\"c\":1}", "a.b", FlagValue::Json(json!({ "c": 1 }))),
            (&*from_file, "key", FlagValue::Text("from a file\n".into())),
        ] {
            assert_eq!(Flag::parse(word).unwrap(), Flag { key: key.into(), value }, "{word}");
        }
    }

    #[test]
    fn what_is_no_flag_is_refused_with_the_way_out() {
        for (word, words) in [
            ("--key", "write `--key=value`"),
            ("-k=v", "write `--key=value`"),
            ("key=value", "write `--key=value`"),
            ("--=v", "write `--key=value`"),
            ("--:=1", "write `--key=value`"),
            ("-e", "precede the path"),
            ("--key:=", "is not JSON"),
            ("--key:=text", "write `--key:s=text`"),
            ("--key:={\"a\":1,\"a\":2}", "is not JSON"),
            ("--key@=/does/not/exist", "/does/not/exist"),
        ] {
            let refusal = Flag::parse(word).unwrap_err().to_string();
            assert!(refusal.contains(words), "{word}: {refusal}");
        }
    }
}
