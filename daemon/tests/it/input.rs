//! Input validation: every input has limits, and they are checked as the OpenAPI document states. An independent JSON
//! Schema implementation validates random values against the document, and must agree with the daemon's checks.

use jsonschema::Validator;
use openorch_api::{Operation, RequestParts, SchemaValidator, text};
use serde_json::{Map, Value, json};

use crate::{matrix::Rng, support::Daemon};

fn bodies(document: &Value) -> impl Iterator<Item = (&'static Operation, &Value)> {
    openorch_api::operations().filter_map(|row| {
        let operation = &document["paths"][row.path][row.method.as_str().to_lowercase()];
        operation.pointer("/requestBody/content/application~1json/schema").map(|schema| (row, schema))
    })
}

/// Resolves a schema's reference.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

#[test]
fn every_text_list_and_map_of_an_input_has_a_limit() {
    let document = openorch_api::openapi::document("0");
    let mut unlimited = Vec::new();
    for (row, schema) in bodies(&document) {
        walk(&document, schema, &mut vec![row.id.to_owned()], &mut unlimited);
    }
    for path in document["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            // Headers have the limits of request heads.
            let of_url = |parameter: &&Value| parameter["in"] != "header";
            for parameter in operation["parameters"].as_array().into_iter().flatten().filter(of_url) {
                let place = vec![operation["operationId"].to_string(), parameter["name"].to_string()];
                walk(&document, &parameter["schema"], &mut place.clone(), &mut unlimited);
            }
        }
    }
    assert!(unlimited.is_empty(), "{unlimited:#?}");
}

fn walk(document: &Value, schema: &Value, path: &mut Vec<String>, unlimited: &mut Vec<String>) {
    // Stop at recursive schemas.
    if path.len() > 12 {
        return;
    }
    let schema = resolved(document, schema);
    let limit = match schema["type"].as_str() {
        Some("string") if schema.get("enum").is_none() && schema["format"] != "date-time" => "maxLength",
        Some("array") => "maxItems",
        Some("object") if schema.get("additionalProperties").is_some() => "maxProperties",
        _ => "type",
    };
    // Enumerations and untyped values need no limit.
    if schema.get(limit).is_none() && limit != "type" {
        unlimited.push(path.join("."));
    }
    let mut deeper = |name: &str, inner: &Value| {
        path.push(name.to_owned());
        walk(document, inner, path, unlimited);
        path.pop();
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        deeper(name, property);
    }
    for key in ["items", "additionalProperties"] {
        schema.get(key).into_iter().for_each(|inner| deeper(key, inner));
    }
    for branch in schema["anyOf"].as_array().into_iter().flatten() {
        deeper("anyOf", branch);
    }
}

#[test]
fn what_is_checked_is_what_the_document_says() {
    let document = openorch_api::openapi::permissive_document("0");
    let mut dice = Rng(11);
    let (mut good, mut bad) = (0, 0);
    for (row, schema) in bodies(&document) {
        let theirs = validator(&document, schema);
        let ours = SchemaValidator::new(row).unwrap();
        for _ in 0..400 {
            let value = value_of(&document, schema, &mut dice, 0);
            let checked = ours.check(&RequestParts { body: Some(value.clone()), ..RequestParts::default() });
            let want = theirs.iter_errors(&value).next().map(|error| error.to_string());
            assert_eq!(checked.is_ok(), want.is_none(), "{}: {value}\n{checked:?}\n{want:?}", row.id);
            if want.is_none() { good += 1 } else { bad += 1 }
        }
    }
    assert!(good > 3000 && bad > 3000, "{good} valid and {bad} invalid values");
}

fn validator(document: &Value, schema: &Value) -> Validator {
    let mut whole = json!({ "components": document["components"] });
    whole["anyOf"] = json!([schema]);
    jsonschema::options()
        .should_validate_formats(true)
        .with_format("name", |value: &str| text::first_hidden(value).is_none())
        .build(&whole)
        .unwrap()
}

/// A random value based on the schema, with likely errors.
fn value_of(document: &Value, schema: &Value, dice: &mut Rng, depth: usize) -> Value {
    if dice.below(12) == 0 {
        return anything(dice);
    }
    let schema = resolved(document, schema);
    if let Some(branches) = schema["anyOf"].as_array() {
        return value_of(document, &branches[dice.below(branches.len() * 3).min(branches.len() - 1) % 2], dice, depth);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values[dice.below(values.len())].clone();
    }
    if let Some(branches) = schema["oneOf"].as_array() {
        return value_of(document, &branches[dice.below(branches.len())], dice, depth);
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    match schema["type"].as_str() {
        Some("string") => text_of(schema, dice).into(),
        Some("integer") => {
            let bound = |key: &str| schema[key].as_i64().unwrap_or_default();
            [bound("minimum"), bound("maximum"), 1, 7][dice.below(4)].into()
        }
        Some("boolean") => (dice.below(2) == 0).into(),
        Some("array") if depth < 6 => {
            (0..dice.below(3)).map(|_| value_of(document, &schema["items"], dice, depth + 1)).collect()
        }
        Some("array") => json!([]),
        Some("object") => {
            let mut object = Map::new();
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if depth < 6 && (dice.below(3) == 0 || required.contains(&name.as_str())) {
                    object.insert(name.clone(), value_of(document, property, dice, depth + 1));
                }
            }
            if let Some(values) = schema.get("additionalProperties") {
                object
                    .insert(dice.pick(&["a", "", "b\u{202e}"]).to_owned(), value_of(document, values, dice, depth + 1));
            }
            if dice.below(10) == 0 {
                object.insert("unknown".to_owned(), anything(dice));
            }
            Value::Object(object)
        }
        _ => anything(dice),
    }
}

fn text_of(schema: &Value, dice: &mut Rng) -> String {
    let longest = schema["maxLength"].as_u64().unwrap_or(10) as usize;
    match dice.below(12) {
        0 => String::new(),
        1 if longest < 5000 => "ä".repeat(longest),
        2 if longest < 5000 => "a".repeat(longest + 1),
        3 => "a\u{200b}b".to_owned(),
        4 => "A b!".to_owned(),
        _ if schema["format"] == "date-time" => "2026-01-31T12:00:00Z".to_owned(),
        _ => dice.pick(&["a", "my-service", "my-service:editor", "/health", "192.0.2.0/24"]).to_owned(),
    }
}

fn anything(dice: &mut Rng) -> Value {
    let values = [
        json!(null),
        json!(1.0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([null]),
        json!({}),
        json!(true),
    ];
    values[dice.below(values.len())].clone()
}

#[tokio::test]
async fn a_refusal_names_the_field_and_what_would_be_right() {
    let daemon = Daemon::start().await;
    let admin = daemon.admin().await;
    for (method, path, body, want) in [
        ("POST", "/user-svc/register", Value::Null, "`slug` is required"),
        (
            "POST",
            "/user-svc/register",
            json!({ "slug": "A", "password": "p" }),
            "`slug` is `A`; it must be lower-case letters",
        ),
        ("POST", "/user-svc/register", json!([]), "the input is a list; an object is expected"),
        ("POST", "/user-svc/user", json!({ "user": { "slug": "a" } }), "`user.name` is required"),
        ("PUT", "/user-svc/permits", json!({ "permits": [{}] }), "`permits[0].permission` is required"),
        ("PUT", "/user-svc/self", json!({ "labels": { "a": 1 } }), "`labels.a` is a number; text is expected"),
        ("PUT", "/user-svc/self", json!({ "name": "a\u{202e}" }), "`name` contains the character U+202E"),
        ("POST", "/user-svc/invitation", json!({ "uses": 10_001 }), "`uses` is 10001; at most 10000 is allowed"),
        ("POST", "/user-svc/audit", json!({ "outcome": "x" }), "`outcome` is `x`; it must be one of done, refused"),
        ("POST", "/user-svc/audit", json!({ "from": "today" }), "`from` is `today`; a time like"),
        (
            "POST",
            "/user-svc/users",
            json!({ "query": { "filters": [{ "op": "or", "filters": [{ "fields": ["slug"], "valuesJson": 1 }] }] } }),
            "`query.filters[0].filters[0].jsonValues` is a number; text is expected",
        ),
        ("POST", "/user-svc/users", json!({ "query": { "afterJson": "[1]", "jsonAfter": "[2]" } }), "Invalid JSON: "),
        ("GET", "/user-svc/invitations?limit=x", Value::Null, "`limit` is text; a whole number is expected"),
    ] {
        let answer = daemon.call(method, path, &admin, body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        assert_eq!(answer.json()["code"], "request.invalid_input", "{}", answer.text);
        assert!(answer.error().starts_with(want), "{path}: {}", answer.text);
    }
}
