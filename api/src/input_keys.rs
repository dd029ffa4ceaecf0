//! Maps an input that is one JSON object to path, query and body parameters. `oo call` and in-process calls by operation
//! id take their input in this form.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::{InvalidInput, Operation, RequestParts};

/// The parameters of an operation by location. Construction generates the operation's schemas, so build it once per
/// operation.
pub struct InputKeys {
    path: Vec<&'static str>,
    /// The path template, for error messages.
    path_template: &'static str,
    query: Vec<String>,
    has_body: bool,
}

/// Where a parameter is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterLocation {
    /// The path parameter of this index.
    Path(usize),
    /// The query parameter of this name.
    Query,
    /// The field of this name in the JSON body.
    Body,
}

impl InputKeys {
    /// The parameters of the operation `row`.
    pub fn new(row: &Operation) -> InputKeys {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let shape = (row.input)(&mut generator);
        let query = shape.query.map(Value::from).unwrap_or_default();
        // A query is described by an object schema, or by a reference to one.
        let name = query.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next());
        let query = name.and_then(|name| generator.definitions().get(name)).unwrap_or(&query);
        let properties = query.get("properties").and_then(Value::as_object);
        InputKeys {
            path: row.path_parameters().collect(),
            path_template: row.path,
            query: properties.into_iter().flat_map(Map::keys).cloned().collect(),
            has_body: shape.body.is_some(),
        }
    }

    /// The location of a key. Path parameters take precedence over query parameters; any other key belongs to the body.
    /// `None` if the key is unknown and the operation has no body.
    pub fn location(&self, key: &str) -> Option<ParameterLocation> {
        if let Some(at) = self.path.iter().position(|name| *name == key) {
            return Some(ParameterLocation::Path(at));
        }
        if self.query.iter().any(|name| name == key) {
            return Some(ParameterLocation::Query);
        }
        self.has_body.then_some(ParameterLocation::Body)
    }

    /// Builds the request parts from an input object. Path and query values must be strings, numbers or booleans; `null` is
    /// equivalent to omitting the key. Fails if a path parameter is missing, or if the operation has no body and a key is
    /// unknown. The contents of the body are not validated here.
    pub fn request_parts(&self, input: Map<String, Value>) -> Result<RequestParts, InvalidInput> {
        let mut path: Vec<Option<String>> = vec![None; self.path.len()];
        let mut parts =
            RequestParts { body: self.has_body.then(|| Value::Object(Map::new())), ..RequestParts::default() };
        for (key, value) in input {
            match (self.location(&key), &mut parts.body) {
                (Some(ParameterLocation::Path(at)), _) => path[at] = scalar_text(&key, value)?,
                (Some(ParameterLocation::Query), _) => {
                    parts.query.extend(scalar_text(&key, value)?.map(|text| (key, text)))
                }
                (Some(ParameterLocation::Body), Some(Value::Object(body))) => _ = body.insert(key, value),
                _ => return Err(self.unknown_key(&key)),
            }
        }
        for (name, value) in self.path.iter().zip(path) {
            let missing =
                || InvalidInput(format!("`{name}` is missing: it is a parameter of the path {}", self.path_template));
            parts.path.push(value.ok_or_else(missing)?);
        }
        Ok(parts)
    }

    fn unknown_key(&self, key: &str) -> InvalidInput {
        let known: Vec<_> = self.path.iter().copied().chain(self.query.iter().map(String::as_str)).collect();
        let known = if known.is_empty() { "takes none".to_owned() } else { format!("takes `{}`", known.join("`, `")) };
        InvalidInput(format!("the operation has no parameter `{}`; it {known}", crate::text::without_hidden(key)))
    }
}

/// The text of a path or query value; `None` for `null`.
fn scalar_text(key: &str, value: Value) -> Result<Option<String>, InvalidInput> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.contains('\0') => {
            Err(InvalidInput(format!("`{key}` contains a NUL character, which is not allowed in a path or query")))
        }
        Value::String(text) => Ok(Some(text)),
        Value::Bool(_) | Value::Number(_) => Ok(Some(value.to_string())),
        Value::Array(_) | Value::Object(_) => Err(InvalidInput(format!(
            "`{key}` is sent in the path or the query and must be a string, a number or a boolean"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parts(id: &str, input: Value) -> Result<RequestParts, String> {
        let row = crate::operations().find(|row| row.id == id).unwrap();
        let Value::Object(input) = input else { panic!("no object: {input}") };
        InputKeys::new(row).request_parts(input).map_err(|refused| refused.0)
    }

    #[test]
    fn each_key_goes_to_its_part_of_the_request() {
        for (id, input, path, query, body) in [
            ("health", json!({}), "", "", None),
            ("removeInstance", json!({ "id": "inst_1" }), "inst_1", "", None),
            ("listInstances", json!({ "slug": "a-svc", "host": null }), "", "slug=a-svc", None),
            ("getRoles", json!({ "limit": 5 }), "", "limit=5", None),
            ("deleteApp", json!({ "appId": "app_1", "cascade": true }), "app_1", "cascade=true", None),
            ("listNodes", json!({ "ids": ["a"] }), "", "", Some(json!({ "ids": ["a"] }))),
            ("listNodes", json!({}), "", "", Some(json!({}))),
            ("saveUser", json!({ "userId": "usr_1", "name": "A" }), "usr_1", "", Some(json!({ "name": "A" }))),
            ("getPermissionsByRole", json!({ "roleId": 7, "after": "[1]" }), "7", "after=[1]", None),
        ] {
            let found = parts(id, input.clone()).unwrap_or_else(|refused| panic!("{id} {input}: {refused}"));
            let sent: Vec<_> = found.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!((found.path.join("/"), sent.join("&")), (path.to_owned(), query.to_owned()), "{id} {input}");
            assert_eq!(found.body, body, "{id} {input}");
        }
    }

    #[test]
    fn what_has_no_place_is_refused() {
        for (id, input, words) in [
            ("removeInstance", json!({}), "`id` is missing"),
            ("removeInstance", json!({ "id": null }), "`id` is missing"),
            ("removeInstance", json!({ "id": "a", "b": 1 }), "no parameter `b`; it takes `id`"),
            ("removeInstance", json!({ "id": ["a"] }), "`id` is sent in the path"),
            ("removeInstance", json!({ "id": "a\0b" }), "NUL"),
            ("listInstances", json!({ "slug": {} }), "`slug` is sent in the path"),
            ("health", json!({ "a": 1 }), "it takes none"),
        ] {
            let refused = parts(id, input.clone()).unwrap_err();
            assert!(refused.contains(words), "{id} {input}: {refused}");
        }
    }
}
