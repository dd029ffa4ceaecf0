//! Forms of texts that several wire types have, as schemas: what is checked before a handler runs, and what the document
//! shows. A field takes one with `#[schemars(schema_with = "form::slug")]`.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{check, slug};

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

/// A slug, or nothing.
pub fn slug_if_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": slug::MAX_LENGTH,
        "pattern": "^([a-z0-9]+(-[a-z0-9]+)*)?$",
        "x-form": "lower-case letters and digits in groups joined by single dashes, such as `my-service`",
        "examples": ["my-service"]
    })
}

/// The id of an account, or nothing.
pub fn account_id_if_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^[a-zA-Z0-9_-]{0,64}$",
        "maxLength": 64,
        "x-form": "letters, digits, `_` and `-`; leave it out to be given one"
    })
}

/// The id of an organization, or nothing.
pub fn organization_id_if_any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 128,
        "pattern": "^(([a-z0-9]+(-[a-z0-9]+)*:)?[a-zA-Z0-9_-]{1,64})?$",
        "x-form": "letters, digits, `_` and `-`, 64 at most, perhaps after your slug and a colon; leave it out to be given one"
    })
}

/// Addresses and networks.
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

/// A text of one line, with a limit of its own, that people read; may be empty.
pub fn name<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": MAX, "format": check::NAME })
}

/// The same, at least a character.
pub fn given_name<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX, "format": check::NAME })
}

/// Names in a list of at most `COUNT`.
pub fn names<const MAX: usize, const COUNT: usize>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": COUNT, "items": given_name::<MAX>(generator) })
}

/// Any text of at most so many characters.
pub fn text<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": MAX })
}

/// Any texts in a list of at most `COUNT`.
pub fn texts<const MAX: usize, const COUNT: usize>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": COUNT, "items": text::<MAX>(generator) })
}

/// Words by name, both of one line.
pub fn labels(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "propertyNames": given_name::<256>(generator),
        "additionalProperties": name::<256>(generator)
    })
}

/// Any text of at most so many characters, and at least one.
pub fn given_text<const MAX: usize>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX })
}

/// Slugs in a list of at most `COUNT`.
pub fn slugs<const COUNT: usize>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": COUNT, "items": slug(generator) })
}

/// Free words by name.
pub fn words(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 1000, "additionalProperties": text::<4096>(generator) })
}

/// Values of any kind by name, which are checked elsewhere.
pub fn fields(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 1000, "additionalProperties": true })
}

/// The path of a URL with its query, or nothing.
pub fn health_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 256,
        "pattern": "^(/[!\"$-~]*)?$",
        "x-form": "the path of a URL, such as `/skeleton-svc/health`",
        "examples": ["/my-service/health"]
    })
}
