//! The OpenAPI 3.1 document as a fold over the table of operations.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{Access, Effect, Row, Service, input::InputShape};

/// The whole document. Making it takes some milliseconds: whoever serves it keeps it.
pub fn document(version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for service in crate::SERVICES {
        // Schema names are unique within a service, so each has a generator and its names get the service as prefix.
        let mut generator = SchemaSettings::draft2020_12()
            .with(|settings| {
                settings.meta_schema = None;
                settings.definitions_path = SCHEMAS.into();
            })
            .into_generator();
        for row in service.operations {
            for path in std::iter::once(&row.path).chain(row.aliases) {
                let is_alias = *path != row.path;
                let item = paths.entry(*path).or_insert_with(|| json!({}));
                let mut operation = operation(service, row, is_alias, &mut generator);
                qualify(&mut operation, &prefix(service));
                item[row.method.as_str().to_lowercase()] = operation;
            }
        }
        for (name, mut schema) in generator.take_definitions(true) {
            qualify(&mut schema, &prefix(service));
            schemas.insert(format!("{}.{name}", prefix(service)), schema);
        }
    }
    schemas.insert(
        "Error".into(),
        json!({
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": { "type": "string", "description": "A sentence that names what is wrong and the remedy." },
                "code": { "type": "string", "description": "Stable, for programs; not every refusal has one." }
            }
        }),
    );
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenOrch",
            "version": version,
            "description": "Accounts, registry, gateway and the services everybody needs. Requests to `/<slug>/…` reach the instances of the account with that slug.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } }
        }
    });
    leave_out_null(&mut document);
    document
}

const SCHEMAS: &str = "/components/schemas";
/// The one schema that all services share.
const ERROR: &str = "#/components/schemas/Error";

/// References within a service get its prefix, as its schemas do.
fn qualify(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields.iter_mut() {
                match inner {
                    Value::String(reference) if key == "$ref" && reference != ERROR => {
                        if let Some(name) = reference.strip_prefix("#/components/schemas/") {
                            *reference = format!("#{SCHEMAS}/{prefix}.{name}");
                        }
                    }
                    inner => qualify(inner, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| qualify(item, prefix)),
        _ => {}
    }
}

fn prefix(service: &Service) -> String {
    service.slug.replace('-', "_")
}

fn operation(service: &Service, row: &Row, is_alias: bool, generator: &mut SchemaGenerator) -> Value {
    let input = (row.input)(generator);
    let output = (row.output)(generator);
    let mut operation = json!({
        // Ids are unique in a document, so that of an alias says which path it is.
        "operationId": if is_alias { format!("{}Alias", row.id) } else { row.id.to_owned() },
        "tags": [service.name],
        "summary": row.summary(),
        "description": row.doc.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim(),
        "x-effect": match row.effect() { Effect::Read => "read", Effect::Write => "write" },
    });
    let parameters = parameters(row, &input);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(schema) = &input.body {
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    match row.access {
        Access::Public => {}
        Access::SignedIn => operation["security"] = json!([{ "bearer": [] }]),
        Access::Needs(guard) => {
            operation["security"] = json!([{ "bearer": [] }]);
            operation["x-permission"] = guard.permission.id.into();
            if guard.owner {
                operation["x-owner-may"] = true.into();
            }
        }
    }
    let mut responses = Map::new();
    let mut success = json!({ "description": "Success" });
    if let Some((content_type, schema)) = output.body {
        success["content"] = json!({ content_type: { "schema": schema } });
    }
    responses.insert(output.status.to_string(), success);
    for (status, when) in refusals(row, &input) {
        let entry = responses.entry(status.to_string()).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/json": { "schema": { "$ref": ERROR } } }
            })
        });
        let text = entry["description"].as_str().unwrap_or_default();
        entry["description"] = if text.is_empty() { when.to_owned() } else { format!("{text}; {when}") }.into();
    }
    operation["responses"] = responses.into();
    operation
}

fn parameters(row: &Row, input: &InputShape) -> Vec<Value> {
    let mut list: Vec<Value> = row
        .path_parameters()
        .zip(&input.path)
        .map(|(name, schema)| json!({ "name": name, "in": "path", "required": true, "schema": schema }))
        .collect();
    let properties = input.query.as_ref().and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        list.push(json!({ "name": name, "in": "query", "schema": schema }));
    }
    list
}

/// The refusals that every such operation can answer, then those of its own.
fn refusals(row: &Row, input: &InputShape) -> Vec<(u16, &'static str)> {
    let mut list = Vec::new();
    if input.body.is_some() || !input.path.is_empty() {
        list.push((400, "the input is not valid"));
    }
    if !matches!(row.access, Access::Public) {
        list.push((401, "no valid token"));
    }
    if matches!(row.access, Access::Needs(_)) {
        list.push((403, "the account lacks the permission"));
    }
    if !matches!(row.access, Access::Public) && !row.delegated {
        list.push((403, "the token was made for a service alone"));
    }
    if input.body.is_some() {
        list.push((413, "the body is too large"));
    }
    list.extend_from_slice(row.errors);
    list
}

/// Optional fields accept `null` and may be left out; the document says the second alone, since generated clients make
/// worse types of the first.
fn leave_out_null(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".into(), only);
                }
            }
            fields.values_mut().for_each(leave_out_null);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_null),
        _ => {}
    }
}
