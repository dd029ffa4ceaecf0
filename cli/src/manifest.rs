//! JSON and YAML files written by people: one document or several, in a file, a directory or standard input. Everything
//! is read and checked before anything is sent.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use openorch_sdk::api::json;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::error::CliError;

/// Maximum size of a file: no operation accepts more.
const MAX_BYTES: u64 = 64 << 20;
/// Maximum depth of nested directories: a symbolic link may form a cycle.
const MAX_DEPTH: usize = 32;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A document and its location, for error messages.
#[derive(Debug)]
pub struct Document {
    pub location: String,
    pub value: Value,
}

/// The text of a file; `-` is standard input.
pub fn read_text(file: &str) -> Result<String, CliError> {
    String::from_utf8(read_bytes(file)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::Usage(format!("`{}` is not text: byte {at} is not UTF-8", display_name(file)))
    })
}

/// The bytes of a file; `-` is standard input.
pub fn read_bytes(file: &str) -> Result<Vec<u8>, CliError> {
    let failed = |error: io::Error| CliError::Usage(format!("cannot read `{}`: {error}", display_name(file)));
    let mut bytes = Vec::new();
    if file == "-" {
        io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let opened = File::open(file).map_err(failed)?;
        if opened.metadata().map_err(failed)?.is_dir() {
            return Err(CliError::Usage(format!("`{file}` is a directory; expected a file")));
        }
        // The length in the metadata is not reliable: devices have none.
        opened.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(CliError::Usage(format!("`{}` is larger than {} MiB", display_name(file), MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// The only document of a file.
pub fn read_one(file: &str) -> Result<Value, CliError> {
    let mut documents = parse(file, &read_text(file)?)?;
    match (documents.pop(), documents.len()) {
        (Some(only), 0) => Ok(only.value),
        (_, others) => {
            let count = others + 1;
            Err(CliError::Usage(format!("`{}` contains {count} documents; a call takes one", display_name(file))))
        }
    }
}

/// All documents of a file, or of the files in a directory and its subdirectories, in the order of their names.
pub fn read_all(place: &str) -> Result<Vec<Document>, CliError> {
    if place == "-" || !Path::new(place).is_dir() {
        return parse(place, &read_text(place)?);
    }
    let mut files = Vec::new();
    collect(Path::new(place), 0, &mut files)?;
    if files.is_empty() {
        return Err(CliError::Usage(format!("the directory `{place}` contains no .yaml, .yml or .json file")));
    }
    let mut documents = Vec::new();
    for file in files {
        let file = file.to_string_lossy();
        documents.extend(parse(&file, &read_text(&file)?)?);
    }
    Ok(documents)
}

/// Collects the documents below a directory; hidden files and other types are skipped.
fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let failed =
        |error: io::Error| CliError::Usage(format!("cannot read the directory `{}`: {error}", folder.display()));
    if depth > MAX_DEPTH {
        return Err(CliError::Usage(format!("`{}` is nested deeper than {MAX_DEPTH} directories", folder.display())));
    }
    let entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known))) {
            files.push(path);
        }
    }
    Ok(())
}

fn parse(file: &str, text: &str) -> Result<Vec<Document>, CliError> {
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(CliError::Usage(format!("`{}` is empty", display_name(file))));
    }
    let values = match json_documents(text) {
        // JSON is read as JSON, with its errors: YAML reads some strings and numbers differently.
        Ok(raw) => parse_strictly(&raw),
        Err(error) if text.trim_start().starts_with('{') => yaml_documents(text).map_err(|_| error.to_string()),
        Err(_) => yaml_documents(text),
    };
    let values =
        values.map_err(|error| CliError::Usage(format!("`{}` cannot be used: {error}", display_name(file))))?;
    if values.is_empty() {
        return Err(CliError::Usage(format!("`{}` contains no document", display_name(file))));
    }
    let several = values.len() > 1;
    let place = |at: usize| match several {
        true => format!("{} (document {})", display_name(file), at + 1),
        false => display_name(file).to_owned(),
    };
    Ok(values.into_iter().enumerate().map(|(at, value)| Document { location: place(at), value }).collect())
}

/// Reads consecutive JSON values.
fn json_documents(text: &str) -> Result<Vec<&RawValue>, serde_json::Error> {
    serde_json::Deserializer::from_str(text).into_iter().collect()
}

/// The values, read as strictly as the server reads them.
fn parse_strictly(raw: &[&RawValue]) -> Result<Vec<Value>, String> {
    let read = raw
        .iter()
        .map(|raw| json::parse(raw.get().as_bytes(), json::Limits::TRUSTED).map_err(|refused| refused.to_string()));
    Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The documents of a YAML stream; empty ones (an extra `---`) are skipped.
fn yaml_documents(text: &str) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        // Through YAML's own value type, which rejects duplicate keys.
        let mut value = serde_norway::Value::deserialize(document).map_err(|error| error.to_string())?;
        value.apply_merge().map_err(|error| error.to_string())?;
        check_representable(&value)?;
        let text = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
        // As strict as JSON: numbers that would lose digits and excessive nesting are rejected.
        let value = json::parse(&text, json::Limits::TRUSTED).map_err(|refused| refused.to_string())?;
        values.extend(value.filter(|value| !value.is_null()));
    }
    Ok(values)
}

/// Rejects YAML values that JSON cannot represent.
fn check_representable(value: &serde_norway::Value) -> Result<(), String> {
    use serde_norway::Value;
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|number| !number.is_finite()) => {
            Err(format!("{number} cannot be represented as a JSON number"))
        }
        Value::Tagged(tagged) => Err(format!("the tag `{}` is not supported; remove it", tagged.tag)),
        Value::Sequence(list) => list.iter().try_for_each(check_representable),
        Value::Mapping(fields) => fields.iter().try_for_each(|(key, value)| {
            check_representable(key)?;
            check_representable(value)
        }),
        _ => Ok(()),
    }
}

fn display_name(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Result<Vec<Value>, String> {
        let documents = parse("f", text).map_err(|failure| failure.to_string())?;
        Ok(documents.into_iter().map(|document| document.value).collect())
    }

    #[test]
    fn json_and_yaml_one_document_or_several() {
        for (text, want) in [
            (r#"{"a": 1}"#, vec![json!({ "a": 1 })]),
            ("{\"a\": 1}\n{\"a\": 2}\n", vec![json!({ "a": 1 }), json!({ "a": 2 })]),
            ("a: 1\n", vec![json!({ "a": 1 })]),
            ("\u{feff}a: 1\n", vec![json!({ "a": 1 })]),
            ("---\na: 1\n---\na: yes\n---\n", vec![json!({ "a": 1 }), json!({ "a": "yes" })]),
            ("{a: 1}", vec![json!({ "a": 1 })]),
            ("- 1\n- 2\n", vec![json!([1, 2])]),
            ("1: x", vec![json!({ "1": "x" })]),
            (
                "base: &b {x: 1, y: 2}\na: {<<: *b, y: 3}",
                vec![json!({ "base": { "x": 1, "y": 2 }, "a": { "x": 1, "y": 3 } })],
            ),
            ("n: 9223372036854775807\nm: 0.1", vec![json!({ "n": i64::MAX, "m": 0.1 })]),
        ] {
            assert_eq!(values(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_place() {
        for (text, words) in [
            ("", "`f` is empty"),
            (" \n\t", "`f` is empty"),
            ("---\n", "contains no document"),
            ("# a comment alone\n", "contains no document"),
            ("{\"a\": 1,", "EOF while parsing"),
            ("{\"a\": 1, \"a\": 2}", "`a` appears twice"),
            ("a: 1\na: 2\n", "duplicate entry"),
            ("a: [1", "line 1"),
            ("a: 1\n b: 2\n", "line 2"),
            ("? [1]\n: x", "cannot be used"),
            ("{\"n\": 123456789012345678901}", "send it as text"),
            ("n: 123456789012345678901", "123456789012345678901"),
            ("n: 9223372036854775808", "send it as text"),
            ("n: .inf", "cannot be represented as a JSON number"),
            ("- [.nan]", "cannot be represented as a JSON number"),
            ("a: !secret x", "the tag `!secret`"),
            ("!thing {a: 1}", "the tag `!thing`"),
            ("a: {<<: 1}", "cannot be used"),
            (&*format!("a: {}{}", "[".repeat(70), "]".repeat(70)), "nested deeper"),
        ] {
            let refusal = values(text).unwrap_err();
            assert!(refusal.contains(words), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn folders_are_walked_by_name_and_other_files_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let all = || read_all(folder.path().to_str().unwrap());
        assert!(all().unwrap_err().to_string().contains("contains no .yaml"));
        write("b.json", "{\"n\": 3}");
        write("a/x.yaml", "n: 1\n---\nn: 2\n");
        write("README.md", "# not meant");
        write(".hidden.yaml", "n: 9");
        let documents = all().unwrap();
        let numbers: Vec<_> = documents.iter().map(|document| document.value["n"].as_i64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(documents[1].location.ends_with("x.yaml (document 2)"), "{}", documents[1].location);
        write("c.yml", "");
        assert!(all().unwrap_err().to_string().contains("c.yml` is empty"));
    }

    #[test]
    fn one_document_is_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        fs::write(path, "a: 1\n---\na: 2\n").unwrap();
        assert!(read_one(path).unwrap_err().to_string().contains("contains 2 documents"));
        fs::write(path, b"\xff\xfe").unwrap();
        assert!(read_one(path).unwrap_err().to_string().contains("byte 0 is not UTF-8"));
        assert!(read_one("/").unwrap_err().to_string().contains("is a directory"));
        #[cfg(unix)]
        assert!(read_one("/dev/zero").unwrap_err().to_string().contains("larger than 64 MiB"));
    }
}
