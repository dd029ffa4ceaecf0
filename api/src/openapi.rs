//! Generates the OpenAPI 3.1 document from the table of operations.

use std::collections::BTreeMap;

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    Access, Effect, ErrorCode, Exempt, Operation, Service,
    header::{self, Header},
    input::InputSchema,
    output::Stream,
    schema_validator,
};

/// Generates the whole document. This takes some milliseconds, so the result should be cached.
pub fn document(version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for service in crate::SERVICES {
        // Schema names are unique within a service only, so each service has its own generator and a name prefix.
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
                qualify_references(&mut operation, &prefix(service));
                item[row.method.as_str().to_lowercase()] = operation;
            }
        }
        for (name, mut schema) in generator.take_definitions(true) {
            qualify_references(&mut schema, &prefix(service));
            schemas.insert(format!("{}.{name}", prefix(service)), schema);
        }
    }
    schemas.insert(
        "Error".into(),
        json!({
            "type": "object",
            "required": ["error", "code"],
            "properties": {
                "error": { "type": "string", "description": "A message that says what is wrong and how to fix it." },
                "code": { "type": "string", "description": "A stable error code for programs: one of `x-errors`." }
            }
        }),
    );
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenOrch",
            "version": version,
            "description": "Accounts, service registry, gateway and common services. Requests to `/<slug>/…` reach the instances of the account with that slug.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" } }
        }
    });
    remove_null_types(&mut document);
    let errors = crate::errors()
        .map(|code| json!({ "code": code.id, "status": code.status, "cause": code.cause, "remedy": code.remedy }));
    document["x-errors"] = errors.collect();
    document
}

/// A variant of the document that describes all accepted input instead of the recommended form: `null` for optional
/// fields, and the full range of integers. Tests generate requests from it.
pub fn permissive_document(version: &str) -> Value {
    let mut document = document(version);
    if let Some(Value::Object(schemas)) = document.pointer_mut(SCHEMAS) {
        schemas.values_mut().for_each(add_accepted_forms);
    }
    for operation in document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
        for operation in operation.as_object_mut().into_iter().flat_map(|methods| methods.values_mut()) {
            let Some(body) = operation.get_mut("requestBody").filter(|body| body.get("required").is_none()) else {
                continue;
            };
            let schema = &mut body["content"]["application/json"]["schema"];
            *schema = nullable(schema.take());
        }
    }
    document
}

/// Adds the other accepted values to a schema and its nested schemas.
fn add_accepted_forms(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if fields.get("type").is_some_and(|kind| kind == "integer") {
        let (min, max) = schema_validator::integer_range(fields.get("format").and_then(Value::as_str));
        fields.entry("minimum").or_insert(min.into());
        fields.entry("maximum").or_insert(max.into());
    }
    let required = fields.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|names| names.iter().any(|one| one == name));
    for (name, property) in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        add_accepted_forms(property);
        if !is_required(name) {
            *property = nullable(property.take());
        }
    }
    for key in ["items", "additionalProperties"] {
        fields.get_mut(key).into_iter().for_each(add_accepted_forms);
    }
}

fn nullable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

const SCHEMAS: &str = "/components/schemas";
/// The schema that all services share.
const ERROR_SCHEMA: &str = "#/components/schemas/Error";

/// Adds the service prefix to schema references.
fn qualify_references(value: &mut Value, prefix: &str) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields.iter_mut() {
                match inner {
                    Value::String(reference) if key == "$ref" && reference != ERROR_SCHEMA => {
                        if let Some(name) = reference.strip_prefix("#/components/schemas/") {
                            *reference = format!("#{SCHEMAS}/{prefix}.{name}");
                        }
                    }
                    inner => qualify_references(inner, prefix),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| qualify_references(item, prefix)),
        _ => {}
    }
}

fn prefix(service: &Service) -> String {
    service.slug.replace('-', "_")
}

fn operation(service: &Service, row: &Operation, is_alias: bool, generator: &mut SchemaGenerator) -> Value {
    let input = (row.input)(generator);
    let output = (row.output)(generator);
    let mut operation = json!({
        // Operation ids must be unique in a document, so the one of an alias has a suffix.
        "operationId": if is_alias { format!("{}Alias", row.id) } else { row.id.to_owned() },
        "tags": [service.name],
        "summary": row.summary(),
        "description": row.doc.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim(),
        "x-effect": match row.effect() { Effect::Read => "read", Effect::Write => "write" },
        "x-repeat": row.idempotency().as_str(),
    });
    let parameters = parameters(row, &input);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(schema) = &input.body {
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
        if has_required_fields(schema, generator) {
            operation["requestBody"]["required"] = true.into();
        }
    }
    match row.access {
        Access::Public => {}
        Access::SignedIn => operation["security"] = json!([{ "bearer": [] }]),
        Access::Needs(guard) => {
            operation["security"] = json!([{ "bearer": [] }]);
            operation["x-permission"] = guard.permission.id.into();
            match guard.exempt {
                Exempt::None => {}
                Exempt::Owner => operation["x-owner-may"] = true.into(),
                Exempt::Account => operation["x-account-itself-may"] = true.into(),
            }
        }
    }
    if let Some(condition) = row.condition {
        operation["x-condition"] = condition.allowed_callers.into();
    }
    if let Some(page) = pagination(&input, output.body.as_ref().map(|(_, schema)| schema), generator) {
        operation["x-page"] = page;
    }
    if let Some(stream) = &output.stream {
        operation["x-stream"] = stream.kind().into();
        if let Stream::Events(events) = stream {
            // The schema of the response body describes the main event only; these are the `data` of every event.
            operation["x-events"] = events.iter().map(|(name, schema)| (*name, schema.as_value().clone())).collect();
        }
    }
    let mut responses = Map::new();
    let mut success = json!({ "description": "Success" });
    if let Some((content_type, schema)) = output.body {
        success["content"] = json!({ content_type: { "schema": schema } });
    }
    if !row.response_headers.is_empty() {
        success["headers"] = row
            .response_headers
            .iter()
            .map(|header| (header.name.to_owned(), header_object(header, "string")))
            .collect();
    }
    responses.insert(output.status.to_string(), success);
    if row.request_headers.iter().any(|read| read.name == header::IF_NONE_MATCH.name) {
        responses.insert("304".into(), json!({ "description": "The client's cached response is current" }));
    }
    let mut refusals = BTreeMap::<u16, Vec<&ErrorCode>>::new();
    for code in row.error_codes(&input) {
        refusals.entry(code.status).or_default().push(code);
    }
    for (status, codes) in refusals {
        let causes: Vec<_> = codes.iter().map(|code| code.cause).collect();
        let mut refusal = json!({
            "description": causes.join("; "),
            "x-codes": codes.iter().map(|code| code.id).collect::<Vec<_>>(),
            "content": { "application/json": { "schema": { "$ref": ERROR_SCHEMA } } }
        });
        if [429, 503].contains(&status) {
            let retry_after = &header::RETRY_AFTER;
            refusal["headers"] = json!({ retry_after.name: header_object(retry_after, "integer") });
        }
        responses.insert(status.to_string(), refusal);
    }
    operation["responses"] = responses.into();
    operation
}

fn header_object(header: &Header, kind: &str) -> Value {
    json!({ "description": header.description, "schema": { "type": kind } })
}

/// Whether the body has required fields, so that the body itself is required.
fn has_required_fields(schema: &Schema, generator: &SchemaGenerator) -> bool {
    resolve_reference(schema, generator).get("required").is_some()
}

/// The schema, or the schema that it references.
fn resolve_reference<'a>(schema: &'a Schema, generator: &'a SchemaGenerator) -> &'a Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
    name.and_then(|name| generator.definitions().get(name)).unwrap_or(schema.as_value())
}

fn parameters(row: &Operation, input: &InputSchema) -> Vec<Value> {
    let mut list: Vec<Value> = row
        .path_parameters()
        .zip(&input.path)
        .map(|(name, schema)| json!({ "name": name, "in": "path", "required": true, "schema": schema }))
        .collect();
    let properties = input.query.as_ref().and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        list.push(json!({ "name": name, "in": "query", "schema": schema }));
    }
    for header in row.all_request_headers() {
        list.push(json!({
            "name": header.name, "in": "header", "description": header.description, "schema": { "type": "string" }
        }));
    }
    list
}

/// `x-page`: how a list is paginated, for client generators. A list is paginated if its input has the cursor `after` and
/// its output has `next`.
fn pagination(input: &InputSchema, output: Option<&Schema>, generator: &SchemaGenerator) -> Option<Value> {
    let (after, limit, next) = ("after", "limit", "next");
    let (location, asked) = match (&input.query, &input.body) {
        (Some(query), _) => ("query", query),
        (None, body) => ("body", body.as_ref()?),
    };
    let has = |schema: &Schema, key: &str| {
        resolve_reference(schema, generator).get("properties").is_some_and(|properties| properties.get(key).is_some())
    };
    let is_paged = has(asked, after) && output.is_some_and(|output| has(output, next));
    is_paged.then(|| json!({ "in": location, "cursor": after, "limit": limit, "next": next }))
}

/// Optional fields accept `null` and may be omitted. The document only says that they may be omitted, since client
/// generators produce worse types for nullable fields.
fn remove_null_types(document: &mut Value) {
    match document {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".into(), only);
                }
            }
            fields.values_mut().for_each(remove_null_types);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_null_types),
        _ => {}
    }
}
