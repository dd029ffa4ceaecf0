//! The OpenAPI document as a golden file. `UPDATE=1 cargo test` rewrites it; the API is reviewed by its diff.

use std::{fs, path::Path};

use serde_json::Value;

/// The meta-schema of OpenAPI 3.1 (2022-10-07) as the OpenAPI Initiative publishes it, Apache-2.0.
const META_SCHEMA: &str = include_str!("openapi-3.1-schema.json");

#[test]
fn the_openapi_document_is_the_golden_one_and_valid() {
    let document = openorch_api::openapi::document(openorch::VERSION);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi.json");
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "openapi.json differs from the table: run UPDATE=1 cargo test and review the difference");

    let schema: Value = serde_json::from_str(META_SCHEMA).unwrap();
    let validator = jsonschema::options().build(&schema).unwrap();
    let mistakes: Vec<String> =
        validator.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(mistakes.is_empty(), "{mistakes:#?}");
    // The validator detects errors: a response without a description is invalid.
    let mut broken = document.clone();
    broken["paths"]["/health"]["get"]["responses"]["200"] = serde_json::json!({});
    assert!(!validator.is_valid(&broken));
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference} does not resolve");
                }
                fields.values().for_each(|inner| walk(inner, document));
            }
            Value::Array(items) => items.iter().for_each(|inner| walk(inner, document)),
            _ => {}
        }
    }
    let document = openorch_api::openapi::document(openorch::VERSION);
    walk(&document, &document);
}
