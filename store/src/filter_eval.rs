//! Evaluates filters on a document, for those that no index answers. Values are compared by their keys, as in the
//! indexes, so that the result does not depend on whether a field is indexed.

use std::collections::HashSet;

use serde_json::Value;

use crate::{Filter, Result, document, key};

/// A conjunction of filters, compiled for many documents.
#[derive(Default)]
pub(crate) struct Matcher(Vec<Predicate>);

enum Predicate {
    Equals(String, Vec<u8>),
    IsIn(String, HashSet<Vec<u8>>),
    Range(String, Option<Vec<u8>>, Option<Vec<u8>>),
    StartsWith(String, String),
    Contains(String, String),
    Intersects(String, HashSet<Vec<u8>>),
    Any(Vec<Predicate>),
}

impl Matcher {
    pub(crate) fn add(&mut self, filter: &Filter) -> Result<()> {
        self.0.push(Predicate::new(filter)?);
        Ok(())
    }

    /// Whether it has no filters, so that every document matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, id: &str, document: &Value) -> Result<bool> {
        for test in &self.0 {
            if !test.matches(id, document)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Predicate {
    fn new(filter: &Filter) -> Result<Self> {
        let keys = |values: &[Value]| values.iter().map(key::encode).collect::<Result<HashSet<_>>>();
        Ok(match filter {
            Filter::Equals { field, value } => Self::Equals(field.clone(), key::encode(value)?),
            Filter::IsIn { field, values } => Self::IsIn(field.clone(), keys(values)?),
            Filter::Range { field, from, to } => {
                let end = |value: &Option<Value>| value.as_ref().map(key::encode).transpose();
                Self::Range(field.clone(), end(from)?, end(to)?)
            }
            Filter::StartsWith { field, prefix } => Self::StartsWith(field.clone(), prefix.to_lowercase()),
            Filter::Contains { field, text } => Self::Contains(field.clone(), text.to_lowercase()),
            Filter::Intersects { field, values } => Self::Intersects(field.clone(), keys(values)?),
            Filter::Any(parts) => Self::Any(parts.iter().map(Self::new).collect::<Result<_>>()?),
        })
    }

    fn matches(&self, id: &str, document: &Value) -> Result<bool> {
        Ok(match self {
            Self::Equals(field, wanted) => field_key(field, id, document)? == *wanted,
            Self::IsIn(field, wanted) => wanted.contains(&field_key(field, id, document)?),
            Self::Range(field, from, to) => {
                let found = field_key(field, id, document)?;
                from.as_ref().is_none_or(|from| found >= *from) && to.as_ref().is_none_or(|to| found < *to)
            }
            Self::StartsWith(field, prefix) => {
                text(field, id, document).is_some_and(|text| text.to_lowercase().starts_with(prefix.as_str()))
            }
            Self::Contains(field, part) => {
                text(field, id, document).is_some_and(|text| text.to_lowercase().contains(part.as_str()))
            }
            Self::Intersects(field, wanted) => match document::field(document, field) {
                Value::Array(items) if field != "id" => {
                    for item in items {
                        if wanted.contains(&key::encode(item)?) {
                            return Ok(true);
                        }
                    }
                    false
                }
                _ => false,
            },
            Self::Any(parts) => {
                for part in parts {
                    if part.matches(id, document)? {
                        return Ok(true);
                    }
                }
                false
            }
        })
    }
}

fn text<'a>(field: &str, id: &'a str, document: &'a Value) -> Option<&'a str> {
    if field == "id" { Some(id) } else { document::field(document, field).as_str() }
}

/// The key of a field of a document; `id` is the document's id.
pub(crate) fn field_key(field: &str, id: &str, document: &Value) -> Result<Vec<u8>> {
    match field {
        "id" => Ok(key::encode_text(id)),
        path => key::encode(document::field(document, path)),
    }
}
