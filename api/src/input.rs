//! Operation inputs: path parameters, query and JSON body, decoded by the server and encoded by the client with the same
//! types.

use std::{collections::HashSet, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::strict;

/// The parts of a request: path parameters in order and query pairs, both percent-decoded, and the JSON body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestParts {
    /// The values of the path parameters, in the order of the path template.
    pub path: Vec<String>,
    /// The query parameters as pairs of key and value, in order; a key may occur more than once.
    pub query: Vec<(String, String)>,
    /// The JSON body; `None` if there is none.
    pub body: Option<Value>,
}

/// Why an input is invalid, as a message for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInput(pub String);

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The JSON Schemas of an input, for the OpenAPI document.
#[derive(Default)]
pub struct InputSchema {
    /// Schemas of the path parameters in order.
    pub path: Vec<Schema>,
    /// An object schema whose properties are the query keys.
    pub query: Option<Schema>,
    /// The schema of the JSON body; `None` if the operation reads none.
    pub body: Option<Schema>,
}

/// The input of an operation.
pub trait Input: Sized + Send + 'static {
    /// Whether the operation reads a body.
    const HAS_BODY: bool;
    /// The schemas of this input; `generator` collects the definitions that they reference.
    fn describe(generator: &mut SchemaGenerator) -> InputSchema;
    /// Takes the input out of the parts of a request; fails if a part is missing or does not match the type.
    fn decode(parts: &mut RequestParts) -> Result<Self, InvalidInput>;
    /// Adds the input to the parts of a request. The inverse of `decode`.
    fn encode(&self, parts: &mut RequestParts);
}

/// The JSON body. `null`, `{}` and no body are equivalent (decision "JSON input").
#[derive(Clone, Debug, PartialEq)]
pub struct Body<T>(pub T);

/// One path parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Path<T>(pub T);

/// The query string as a struct of optional fields; unknown keys are ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct Query<T>(pub T);

/// The type of a path parameter, validated when it is parsed.
pub trait PathValue: Sized + Send + 'static {
    /// Maximum number of characters.
    const MAX_LENGTH: usize;
    /// Parses the percent-decoded text of the parameter; fails if it is not well-formed.
    fn parse(text: String) -> Result<Self, InvalidInput>;
    /// The text of the parameter, before percent-encoding.
    fn text(&self) -> &str;
}

impl Input for () {
    const HAS_BODY: bool = false;
    fn describe(_: &mut SchemaGenerator) -> InputSchema {
        InputSchema::default()
    }
    fn decode(_: &mut RequestParts) -> Result<Self, InvalidInput> {
        Ok(())
    }
    fn encode(&self, _: &mut RequestParts) {}
}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Input for Body<T> {
    const HAS_BODY: bool = true;
    fn describe(generator: &mut SchemaGenerator) -> InputSchema {
        InputSchema { body: Some(generator.subschema_for::<T>()), ..InputSchema::default() }
    }
    fn decode(parts: &mut RequestParts) -> Result<Self, InvalidInput> {
        let body = match parts.body.take() {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(body) => body,
        };
        strict::read(body).map(Body).map_err(|reason| InvalidInput(format!("Invalid JSON: {reason}")))
    }
    fn encode(&self, parts: &mut RequestParts) {
        // Serialization of a wire type cannot fail: it consists of strings, numbers, lists and objects.
        parts.body = serde_json::to_value(&self.0).ok();
    }
}

impl<T: PathValue> Input for Path<T> {
    const HAS_BODY: bool = false;
    fn describe(_: &mut SchemaGenerator) -> InputSchema {
        let schema = schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": T::MAX_LENGTH,
            "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$"
        });
        InputSchema { path: vec![schema], ..InputSchema::default() }
    }
    fn decode(parts: &mut RequestParts) -> Result<Self, InvalidInput> {
        if parts.path.is_empty() {
            return Err(InvalidInput("the path lacks a parameter".into()));
        }
        T::parse(parts.path.remove(0)).map(Path)
    }
    fn encode(&self, parts: &mut RequestParts) {
        parts.path.push(self.0.text().to_owned());
    }
}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Input for Query<T> {
    const HAS_BODY: bool = false;
    fn describe(generator: &mut SchemaGenerator) -> InputSchema {
        InputSchema { query: Some(generator.subschema_for::<T>()), ..InputSchema::default() }
    }
    fn decode(parts: &mut RequestParts) -> Result<Self, InvalidInput> {
        let mut seen = HashSet::new();
        let first = parts.query.drain(..).filter(|(key, _)| seen.insert(key.clone())).collect();
        strict::read_query(first)
            .map(Query)
            .map_err(|reason| InvalidInput(format!("the query cannot be read: {reason}")))
    }
    fn encode(&self, parts: &mut RequestParts) {
        if let Ok(Value::Object(fields)) = serde_json::to_value(&self.0) {
            for (key, value) in fields {
                match value {
                    Value::Null => {}
                    Value::String(text) => parts.query.push((key, text)),
                    other => parts.query.push((key, other.to_string())),
                }
            }
        }
    }
}

macro_rules! pairs {
    ($(($($part:ident $index:tt),+);)*) => {
        $(impl<$($part: Input),+> Input for ($($part,)+) {
            const HAS_BODY: bool = $($part::HAS_BODY)||+;
            fn describe(generator: &mut SchemaGenerator) -> InputSchema {
                let mut whole = InputSchema::default();
                $({
                    let part = $part::describe(generator);
                    whole.path.extend(part.path);
                    whole.query = whole.query.or(part.query);
                    whole.body = whole.body.or(part.body);
                })+
                whole
            }
            fn decode(parts: &mut RequestParts) -> Result<Self, InvalidInput> {
                Ok(($($part::decode(parts)?,)+))
            }
            fn encode(&self, parts: &mut RequestParts) {
                $(self.$index.encode(parts);)+
            }
        })*
    };
}

pairs! {
    (A 0, B 1);
    (A 0, B 1, C 2);
}

/// Declares path parameters that are plain names with a maximum length.
#[macro_export]
macro_rules! path_values {
    ($($(#[doc = $doc:literal])+ $name:ident at most $limit:literal;)*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, PartialEq, Eq, Hash)]
            pub struct $name(pub String);

            impl $crate::input::PathValue for $name {
                const MAX_LENGTH: usize = $limit;
                fn parse(text: String) -> Result<Self, $crate::InvalidInput> {
                    $crate::input::check_parameter(stringify!($name), &text, Self::MAX_LENGTH)?;
                    Ok($name(text))
                }
                fn text(&self) -> &str {
                    &self.0
                }
            }
        )*
    };
}

/// Renames an alternative key to the canonical one, unless the canonical key is present. If both are present, decoding
/// fails because of the field's `alias`.
pub(crate) fn rename_key(body: &mut Value, from: &str, to: &str) {
    let Value::Object(fields) = body else { return };
    if fields.get(to).is_none_or(Value::is_null)
        && let Some(value) = fields.remove(from)
    {
        fields.insert(to.to_owned(), value);
    }
}

/// Rejects a path parameter that is empty, longer than `limit` characters, or contains control characters. The error
/// names the parameter as in the path: `userId` for the type `UserId`. Other hidden characters are allowed, so that
/// resources whose names were created before hidden characters were forbidden can still be removed.
pub fn check_parameter(kind: &str, text: &str, limit: usize) -> Result<(), InvalidInput> {
    check_plain("", text, limit).or_else(|_| {
        let (first, rest) = kind.split_at(kind.len().min(1));
        check_plain(&format!("{}{rest}", first.to_lowercase()), text, limit)
    })
}

/// Rejects a name that is empty, longer than `limit` characters, or contains [hidden](crate::text::first_hidden) characters.
pub fn check_name(what: &str, text: &str, limit: usize) -> Result<(), InvalidInput> {
    check_plain(what, text, limit)?;
    refuse_hidden(what, text)
}

/// Rejects text that contains [hidden](crate::text::first_hidden) characters.
pub fn refuse_hidden(what: &str, text: &str) -> Result<(), InvalidInput> {
    match crate::text::first_hidden(text) {
        None => Ok(()),
        Some(letter) => Err(InvalidInput(format!(
            "{what} contains the character U+{:04X}, which is invisible and can make one text look like another; leave it out",
            u32::from(letter)
        ))),
    }
}

fn check_plain(what: &str, text: &str, limit: usize) -> Result<(), InvalidInput> {
    if text.is_empty() {
        return Err(InvalidInput(format!("{what} is empty")));
    }
    // A character has at least one byte.
    if text.len() > limit && text.chars().count() > limit {
        let count = text.chars().count();
        return Err(InvalidInput(format!("{what} has {count} characters; at most {limit} are allowed")));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidInput(format!("{what} contains a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_parameter_is_named_as_in_the_path() {
        let message = check_parameter("UserId", &"x".repeat(129), 128).unwrap_err().0;
        assert_eq!(message, "userId has 129 characters; at most 128 are allowed");
        assert!(check_parameter("UserId", "usr_1", 128).is_ok());
    }
}
