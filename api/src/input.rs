//! Inputs of operations: where each part of a request comes from, decoded for the server and encoded for the client by
//! the same types.

use std::{collections::HashSet, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::strict;

/// A request taken apart: path parameters in order, decoded once; query pairs, decoded; the JSON body.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub body: Option<Value>,
}

/// Why an input was refused, as a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInput(pub String);

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the document says of an input.
#[derive(Default)]
pub struct InputShape {
    /// Schemas of the path parameters in order.
    pub path: Vec<Schema>,
    /// An object schema whose properties are the query keys.
    pub query: Option<Schema>,
    pub body: Option<Schema>,
}

/// The input of an operation.
pub trait Input: Sized + Send + 'static {
    /// Whether a body is read at all.
    const HAS_BODY: bool;
    fn describe(generator: &mut SchemaGenerator) -> InputShape;
    fn decode(parts: &mut Parts) -> Result<Self, InvalidInput>;
    fn encode(&self, parts: &mut Parts);
}

/// The JSON body. `null`, `{}` and no body are the same thing (decision "JSON input").
#[derive(Clone, Debug, PartialEq)]
pub struct Body<T>(pub T);

/// One path parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Path<T>(pub T);

/// The query string as a struct of optional strings; keys it does not know are ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct Query<T>(pub T);

/// A path parameter's type: parsed at the door, trusted afterwards.
pub trait PathValue: Sized + Send + 'static {
    /// Most characters.
    const MAX_LENGTH: usize;
    fn parse(text: String) -> Result<Self, InvalidInput>;
    fn text(&self) -> &str;
}

impl Input for () {
    const HAS_BODY: bool = false;
    fn describe(_: &mut SchemaGenerator) -> InputShape {
        InputShape::default()
    }
    fn decode(_: &mut Parts) -> Result<Self, InvalidInput> {
        Ok(())
    }
    fn encode(&self, _: &mut Parts) {}
}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Input for Body<T> {
    const HAS_BODY: bool = true;
    fn describe(generator: &mut SchemaGenerator) -> InputShape {
        InputShape { body: Some(generator.subschema_for::<T>()), ..InputShape::default() }
    }
    fn decode(parts: &mut Parts) -> Result<Self, InvalidInput> {
        let body = match parts.body.take() {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(body) => body,
        };
        strict::read(body).map(Body).map_err(|reason| InvalidInput(format!("Invalid JSON: {reason}")))
    }
    fn encode(&self, parts: &mut Parts) {
        // A wire type is a tree of strings, numbers and lists: it always has a JSON form.
        parts.body = serde_json::to_value(&self.0).ok();
    }
}

impl<T: PathValue> Input for Path<T> {
    const HAS_BODY: bool = false;
    fn describe(_: &mut SchemaGenerator) -> InputShape {
        let schema = schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": T::MAX_LENGTH,
            "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$"
        });
        InputShape { path: vec![schema], ..InputShape::default() }
    }
    fn decode(parts: &mut Parts) -> Result<Self, InvalidInput> {
        if parts.path.is_empty() {
            return Err(InvalidInput("the path lacks a parameter".into()));
        }
        T::parse(parts.path.remove(0)).map(Path)
    }
    fn encode(&self, parts: &mut Parts) {
        parts.path.push(self.0.text().to_owned());
    }
}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Input for Query<T> {
    const HAS_BODY: bool = false;
    fn describe(generator: &mut SchemaGenerator) -> InputShape {
        InputShape { query: Some(generator.subschema_for::<T>()), ..InputShape::default() }
    }
    fn decode(parts: &mut Parts) -> Result<Self, InvalidInput> {
        let mut named = HashSet::new();
        let first = parts.query.drain(..).filter(|(key, _)| named.insert(key.clone())).collect();
        strict::read_query(first)
            .map(Query)
            .map_err(|reason| InvalidInput(format!("the query cannot be read: {reason}")))
    }
    fn encode(&self, parts: &mut Parts) {
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
            fn describe(generator: &mut SchemaGenerator) -> InputShape {
                let mut whole = InputShape::default();
                $({
                    let part = $part::describe(generator);
                    whole.path.extend(part.path);
                    whole.query = whole.query.or(part.query);
                    whole.body = whole.body.or(part.body);
                })+
                whole
            }
            fn decode(parts: &mut Parts) -> Result<Self, InvalidInput> {
                Ok(($($part::decode(parts)?,)+))
            }
            fn encode(&self, parts: &mut Parts) {
                $(self.$index.encode(parts);)+
            }
        })*
    };
}

pairs! {
    (A 0, B 1);
    (A 0, B 1, C 2);
}

/// Declares path parameters that are plain names with a limit of their own.
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

/// Gives the value of another accepted key to the key of ours, where that is not there. Where both are, decoding refuses them,
/// by the `alias` of the field.
pub(crate) fn rename_key(body: &mut Value, from: &str, to: &str) {
    let Value::Object(fields) = body else { return };
    if fields.get(to).is_none_or(Value::is_null)
        && let Some(value) = fields.remove(from)
    {
        fields.insert(to.to_owned(), value);
    }
}

/// Refuses what no path parameter can be: empty, longer than `limit` characters, or with control characters in it. Its type is
/// told as the path has it: `userId` for `UserId`. Other hidden characters pass: what was named with them before names
/// were refused for that can still be removed.
pub fn check_parameter(kind: &str, text: &str, limit: usize) -> Result<(), InvalidInput> {
    check_plain("", text, limit).or_else(|_| {
        let (first, rest) = kind.split_at(kind.len().min(1));
        check_plain(&format!("{}{rest}", first.to_lowercase()), text, limit)
    })
}

/// Refuses what no name of ours can be: empty, longer than `limit` characters, or with [hidden](crate::text::hidden)
/// characters in it.
pub fn check_name(what: &str, text: &str, limit: usize) -> Result<(), InvalidInput> {
    check_plain(what, text, limit)?;
    refuse_hidden(what, text)
}

/// Refuses a text with [hidden](crate::text::hidden) characters in it.
pub fn refuse_hidden(what: &str, text: &str) -> Result<(), InvalidInput> {
    match crate::text::hidden(text) {
        None => Ok(()),
        Some(letter) => Err(InvalidInput(format!(
            "{what} contains the character U+{:04X}, which is not seen and can make a text look like another; leave it out",
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
        let told = check_parameter("UserId", &"x".repeat(129), 128).unwrap_err().0;
        assert_eq!(told, "userId has 129 characters; at most 128 are allowed");
        assert!(check_parameter("UserId", "usr_1", 128).is_ok());
    }
}
