//! Shared JSON Schemas of string formats, used by several wire types for input validation and in the OpenAPI document.
//! A field uses one with `#[schemars(schema_with = "form::slug")]`.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{schema_validator, slug};

/// A slug ([`crate::Slug`]).
pub fn slug(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": slug::MAX_LENGTH,
        "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$",
        "x-form": "lower-case letters and digits in groups joined by single dashes, such as `my-service`",
        "examples": ["my-service"]
    })
}

/// A slug, or an empty string.
pub fn slug_if_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": slug::MAX_LENGTH,
        "pattern": "^([a-z0-9]+(-[a-z0-9]+)*)?$",
        "x-form": "lower-case letters and digits in groups joined by single dashes, such as `my-service`",
        "examples": ["my-service"]
    })
}

/// The id of an account, or an empty string.
pub fn account_id_if_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^[a-zA-Z0-9_-]{0,64}$",
        "maxLength": 64,
        "x-form": "letters, digits, `_` and `-`; omit it to have one generated"
    })
}

/// The id of an organization, or an empty string.
pub fn organization_id_if_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 128,
        "pattern": "^(([a-z0-9]+(-[a-z0-9]+)*:)?[a-zA-Z0-9_-]{1,64})?$",
        "x-form": "at most 64 letters, digits, `_` and `-`, optionally after your slug and a colon; omit it to have one generated"
    })
}

/// A list of IP addresses and networks.
pub fn networks(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "maxItems": 1000, "items": text::<64>(generator) })
}

/// The id of a role or a permission.
pub fn owned_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 256,
        "pattern": "^[a-zA-Z0-9_.-]+(:[a-zA-Z0-9_.-]+){1,7}$",
        "x-form": "`<slug>:<name>`: 2 to 8 parts of letters, digits, `_`, `.` and `-`",
        "examples": ["my-service:editor"]
    })
}

/// One-line human-readable text of at most `MAX` characters; may be empty.
pub fn name<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": MAX, "format": schema_validator::NAME_FORMAT })
}

/// The same, but not empty.
pub fn given_name<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX, "format": schema_validator::NAME_FORMAT })
}

/// A list of at most `COUNT` names.
pub fn names<const MAX: usize, const COUNT: usize>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": COUNT, "items": given_name::<MAX>(generator) })
}

/// Any text of at most `MAX` characters.
pub fn text<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": MAX })
}

/// A list of at most `COUNT` texts.
pub fn texts<const MAX: usize, const COUNT: usize>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": COUNT, "items": text::<MAX>(generator) })
}

/// A map of labels; keys and values are one-line text.
pub fn labels(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "propertyNames": given_name::<256>(generator),
        "additionalProperties": name::<256>(generator)
    })
}

/// Any text of 1 to `MAX` characters.
pub fn given_text<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX })
}

/// A list of at most `COUNT` slugs.
pub fn slugs<const COUNT: usize>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": COUNT, "items": slug(generator) })
}

/// A map of arbitrary text by key.
pub fn words(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 1000, "additionalProperties": text::<4096>(generator) })
}

/// A map of arbitrary JSON values by key, which are validated elsewhere.
pub fn fields(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 1000, "additionalProperties": true })
}

/// A URL path with an optional query, or an empty string.
pub fn health_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 256,
        "pattern": "^(/[!\"$-~]*)?$",
        "x-form": "the path of a URL, such as `/skeleton-svc/health`",
        "examples": ["/my-service/health"]
    })
}
