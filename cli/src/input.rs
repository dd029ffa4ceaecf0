//! Turns `--key=value` pairs into the parts of a request. The schemas of the operation's row determine which part a key
//! belongs to and the type of its value.

use openorch_sdk::api::{InputKeys, Operation, RequestParts, input_keys::ParameterLocation, json::MAX_DEPTH};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::{
    body_args::too_deep,
    error::CliError,
    flag::{Flag, FlagValue},
};

/// The input schema of an operation.
pub struct Inputs {
    row: &'static Operation,
    keys: InputKeys,
    path: Vec<&'static str>,
    query: Option<Value>,
    body: Option<Value>,
    /// Definitions that `$ref` points to.
    definitions: Map<String, Value>,
}

/// A key of a body that an operation does not accept.
pub struct UnknownKey {
    /// Its path in the body: `permits.0.roels`.
    pub key: String,
    pub nearest: Option<String>,
    /// The keys allowed in its place.
    pub known: Vec<String>,
}

/// A key that an operation accepts.
pub struct Key {
    pub name: String,
    pub kind: String,
    /// `path`, `query` or `body`.
    pub place: &'static str,
    pub about: String,
}

impl Inputs {
    pub fn of(row: &'static Operation) -> Inputs {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let shape = (row.input)(&mut generator);
        Inputs {
            row,
            keys: InputKeys::new(row),
            path: row.path_parameters().collect(),
            query: shape.query.map(Value::from),
            body: shape.body.map(Value::from),
            definitions: generator.take_definitions(true),
        }
    }

    /// The keys that the operation accepts.
    pub fn parameters(&self) -> Vec<Key> {
        let path =
            |name: &&str| Key { name: name.to_string(), kind: "string".into(), place: "path", about: String::new() };
        let mut list: Vec<Key> = self.path.iter().map(path).collect();
        for (schema, place) in [(&self.query, "query"), (&self.body, "body")] {
            for (name, schema) in schema.iter().flat_map(|schema| self.properties(schema)) {
                let kind = self.kind(schema).unwrap_or("value").to_owned();
                let about = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
                list.push(Key { name: name.clone(), kind, place, about });
            }
        }
        list
    }

    /// The type of a property of the body.
    pub fn body_kind(&self, name: &str) -> Option<&str> {
        self.property(self.body.as_ref()?, name).and_then(|schema| self.kind(schema))
    }

    /// The request with these values, which override those of `body`.
    pub fn fill(&self, flags: Vec<Flag>, body: Option<Value>) -> Result<RequestParts, CliError> {
        if body.is_some() && self.body.is_none() {
            return Err(CliError::Usage(format!("{} takes no body, so `-f` cannot be used", self.row.id)));
        }
        let (mut parts, path) = self.assign(flags, body)?;
        for (name, value) in self.path.iter().zip(path) {
            let missing =
                || CliError::Usage(format!("`--{name}=…` is required: it is part of the path {}", self.row.path));
            parts.path.push(value.ok_or_else(missing)?);
        }
        Ok(parts)
    }

    /// Like [`Inputs::fill`], without path parameters.
    pub fn fill_without_path(&self, flags: Vec<Flag>) -> Result<RequestParts, CliError> {
        self.assign(flags, None).map(|(parts, _)| parts)
    }

    fn assign(&self, flags: Vec<Flag>, body: Option<Value>) -> Result<(RequestParts, Vec<Option<String>>), CliError> {
        let mut parts =
            RequestParts { body: body.or_else(|| self.body.as_ref().map(|_| json!({}))), ..RequestParts::default() };
        let mut path = vec![None; self.path.len()];
        for Flag { key, value } in flags {
            match (self.keys.location(&key), &self.body, &mut parts.body) {
                (Some(ParameterLocation::Path(at)), ..) => path[at] = Some(value.into_text()),
                (Some(ParameterLocation::Query), ..) => parts.query.push((key, value.into_text())),
                _ if key.split('.').count() > MAX_DEPTH => return Err(too_deep(key.split('.').count())),
                (Some(ParameterLocation::Body), Some(schema), Some(body)) => {
                    self.set(body, schema, &key, &key, value)?
                }
                _ => return Err(self.unknown(&key)),
            }
        }
        Ok((parts, path))
    }

    /// Sets the field that `rest`, the remainder of the key `whole`, points to: `a.b` is the field `b` of the object
    /// `a`.
    fn set(
        &self,
        object: &mut Value,
        schema: &Value,
        whole: &str,
        rest: &str,
        value: FlagValue,
    ) -> Result<(), CliError> {
        let Value::Object(fields) = object else {
            return Err(CliError::Usage(format!("`--{whole}` names a field, but the body is not an object")));
        };
        // A property may contain a dot in its name, so the whole key is looked up first.
        let (name, deeper) = match self.property(schema, rest) {
            Some(_) => (rest, None),
            None => rest.split_once('.').map_or((rest, None), |(name, deeper)| (name, Some(deeper))),
        };
        // An object without declared properties is free-form and accepts any key.
        let free = Value::Bool(true);
        let schema = match self.property(schema, name) {
            Some(schema) => schema,
            None if self.properties(schema).is_empty() => &free,
            None => return Err(self.unknown(whole)),
        };
        if let Some(deeper) = deeper {
            let inner = fields.entry(name).or_insert_with(|| json!({}));
            return self.set(inner, schema, whole, deeper, value);
        }
        let is_list = match &value {
            FlagValue::Plain(text) => text.starts_with('['),
            FlagValue::Json(value) => value.is_array(),
            FlagValue::Text(_) => false,
        };
        if self.kind(schema) == Some("array") && !is_list {
            let items = self.alternatives(schema).into_iter().find_map(|one| one.get("items")).unwrap_or(&free);
            let value = self.typed(items, whole, value)?;
            match fields.entry(name).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(value),
                other => *other = json!([value]),
            }
        } else {
            fields.insert(name.to_owned(), self.typed(schema, whole, value)?);
        }
        Ok(())
    }

    fn typed(&self, schema: &Value, key: &str, value: FlagValue) -> Result<Value, CliError> {
        let text = &match value {
            FlagValue::Plain(text) => text,
            // The caller chose the type; the server validates it.
            FlagValue::Text(text) => return Ok(text.into()),
            FlagValue::Json(value) => return Ok(value),
        };
        let refused = |what: &str| CliError::Usage(format!("`--{key}={text}`: the value must be {what}"));
        let parsed = || serde_json::from_str::<Value>(text).ok();
        match self.kind(schema) {
            Some("string") => Ok(text.as_str().into()),
            Some("integer") => parsed().filter(|it| it.is_i64() || it.is_u64()).ok_or_else(|| refused("an integer")),
            Some("number") => parsed().filter(Value::is_number).ok_or_else(|| refused("a number")),
            Some("boolean") => parsed().filter(Value::is_boolean).ok_or_else(|| refused("true or false")),
            Some("array") => parsed().filter(Value::is_array).ok_or_else(|| refused("a JSON array")),
            Some("object") => {
                let expected = "a JSON object, or set its fields one by one (`--key.field=…`)";
                parsed().filter(Value::is_object).ok_or_else(|| refused(expected))
            }
            // Of unknown type: valid JSON is taken as such, anything else as text.
            _ => Ok(parsed().unwrap_or_else(|| text.as_str().into())),
        }
    }

    fn kind<'a>(&'a self, schema: &'a Value) -> Option<&'a str> {
        self.alternatives(schema).into_iter().find_map(|one| match one.get("type")? {
            Value::String(kind) => Some(kind.as_str()),
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
            _ => None,
        })
    }

    fn property<'a>(&'a self, schema: &'a Value, name: &str) -> Option<&'a Value> {
        self.properties(schema).into_iter().find(|(known, _)| *known == name).map(|(_, schema)| schema)
    }

    fn properties<'a>(&'a self, schema: &'a Value) -> Vec<(&'a String, &'a Value)> {
        let objects = self.alternatives(schema).into_iter().filter_map(|one| one.get("properties")?.as_object());
        objects.flatten().collect()
    }

    /// The schemas behind references and alternatives, except those that only allow `null`.
    fn alternatives<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
            return self.definitions.get(name).map(|found| self.alternatives(found)).unwrap_or_default();
        }
        let choices = ["anyOf", "oneOf", "allOf"].into_iter().find_map(|word| schema.get(word)?.as_array());
        match choices {
            Some(choices) => choices.iter().flat_map(|one| self.alternatives(one)).collect(),
            None if schema.get("type").is_some_and(|kind| kind == "null") => Vec::new(),
            None => vec![schema],
        }
    }

    /// The keys of the items in the list `key` of an operation's answer.
    pub fn answer_keys(row: &'static Operation, key: &str) -> Vec<String> {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        let answer = (row.output)(&mut generator).body.map(|(_, schema)| Value::from(schema));
        let definitions = generator.take_definitions(true);
        let shape = Inputs { row, keys: InputKeys::new(row), path: Vec::new(), query: None, body: None, definitions };
        let list = answer.as_ref().and_then(|answer| shape.property(answer, key));
        let item = list.and_then(|list| shape.alternatives(list).into_iter().find_map(|one| one.get("items")));
        item.map(|item| shape.properties(item).into_iter().map(|(name, _)| name.clone()).collect()).unwrap_or_default()
    }

    /// The first key of the body that is neither in its schema nor in `also`.
    pub fn unknown_key(&self, body: &Value, also: &[String]) -> Option<UnknownKey> {
        self.unknown_within(self.body.as_ref()?, body, also, "")
    }

    fn unknown_within(&self, schema: &Value, value: &Value, also: &[String], path: &str) -> Option<UnknownKey> {
        let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Array(items) => {
                let schema = self.alternatives(schema).into_iter().find_map(|one| one.get("items"))?;
                let mut items = items.iter().enumerate();
                items.find_map(|(at, item)| self.unknown_within(schema, item, also, &inside(&at.to_string())))
            }
            // An object without declared properties is free-form and accepts any key.
            Value::Object(fields) if !self.properties(schema).is_empty() => {
                fields.iter().find_map(|(name, value)| match self.property(schema, name) {
                    Some(schema) => self.unknown_within(schema, value, also, &inside(name)),
                    None if also.contains(name) => None,
                    None => {
                        let known: Vec<_> =
                            self.properties(schema).into_iter().map(|(known, _)| known.clone()).collect();
                        let nearest = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
                        Some(UnknownKey { key: inside(name), nearest, known })
                    }
                })
            }
            _ => None,
        }
    }

    fn unknown(&self, key: &str) -> CliError {
        let known: Vec<_> = self.parameters().into_iter().map(|key| format!("--{}", key.name)).collect();
        let known = if known.is_empty() { "it takes none".into() } else { format!("it takes {}", known.join(", ")) };
        CliError::Usage(format!("{} has no parameter `--{key}`; {known}", self.row.id))
    }
}

/// The most similar word, if one is close enough.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::damerau_levenshtein(&word.to_lowercase(), &known.to_lowercase()), known));
    scored
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 3 + 1)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use openorch_sdk::api;

    use super::*;

    fn fill(id: &str, flags: &str, body: Option<Value>) -> Result<RequestParts, String> {
        let row = api::operations().find(|row| row.id == id).unwrap();
        let flags = flags.split_whitespace().map(|flag| Flag::parse(&format!("--{flag}")).unwrap()).collect();
        Inputs::of(row).fill(flags, body).map_err(|failure| failure.to_string())
    }

    #[test]
    fn keys_find_their_part_and_values_their_type() {
        for (id, flags, path, query, body) in [
            ("listInstances", "slug=007 host=a=b", "", "slug=007&host=a=b", Value::Null),
            ("removeInstance", "id=inst_1", "inst_1", "", Value::Null),
            ("login", "slug=123 password=true", "", "", json!({ "slug": "123", "password": "true" })),
            ("login", "password=x device=", "", "", json!({ "password": "x", "device": "" })),
            ("listNodes", "", "", "", json!({})),
            ("listNodes", "ids=1", "", "", json!({ "ids": ["1"] })),
            ("listNodes", "ids=a ids=b", "", "", json!({ "ids": ["a", "b"] })),
            ("listNodes", r#"ids=["a"]"#, "", "", json!({ "ids": ["a"] })),
            ("registerInstance", "url=http://a port=80", "", "", json!({ "url": "http://a", "port": 80 })),
            ("login", "slug:s=7 contact:={\"a\":1}", "", "", json!({ "slug": "7", "contact": { "a": 1 } })),
            ("listNodes", "ids:=[\"a\"]", "", "", json!({ "ids": ["a"] })),
            ("listNodes", "ids:s=[a ids:=1", "", "", json!({ "ids": ["[a", 1] })),
            ("listInstances", "slug:=7", "", "slug=7", Value::Null),
            ("createInvitation", "roleIds=a uses=2", "", "", json!({ "roleIds": ["a"], "uses": 2 })),
            ("isAuthorized", "permissionId=a:b grantedSlugs=x", "a:b", "", json!({ "grantedSlugs": ["x"] })),
            (
                "saveDefinition",
                "definition.id=a definition.image.name=n definition.image.internalPorts=80",
                "",
                "",
                json!({ "definition": { "id": "a", "image": { "name": "n", "internalPorts": [80] } } }),
            ),
            (
                "saveDefinition",
                r#"definition={"id":"a"} definition.id=b"#,
                "",
                "",
                json!({ "definition": { "id": "b" } }),
            ),
            (
                "register",
                r#"slug=a contact.value=7 contact.platform=email"#,
                "",
                "",
                json!({ "slug": "a", "contact": { "value": "7", "platform": "email" } }),
            ),
        ] {
            let parts = fill(id, flags, None).unwrap_or_else(|refusal| panic!("{id} {flags}: {refusal}"));
            let sent: Vec<_> = parts.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!((parts.path.join("/"), sent.join("&")), (path.to_owned(), query.to_owned()), "{id} {flags}");
            assert_eq!(parts.body.unwrap_or_default(), body, "{id} {flags}");
        }
    }

    #[test]
    fn flags_go_over_a_body_from_a_file() {
        let parts = fill("login", "slug=b", Some(json!({ "slug": "a", "password": "p", "own": 1 }))).unwrap();
        assert_eq!(parts.body, Some(json!({ "slug": "b", "password": "p", "own": 1 })));
    }

    #[test]
    fn wrong_input_is_refused_with_what_would_be_right() {
        for (id, flags, body, words) in [
            ("removeInstance", "", None, "`--id=…` is required"),
            ("removeInstance", "idd=1 id=2", None, "no parameter `--idd`; it takes --id"),
            ("selfNode", "a=1", None, "it takes none"),
            ("selfNode", "", Some(json!({})), "takes no body"),
            ("listNodes", "id=1", None, "it takes --ids"),
            ("registerInstance", "port=x", None, "an integer"),
            ("registerInstance", "port=1.5", None, "an integer"),
            ("saveDefinition", "definition=a", None, "a JSON object"),
            ("saveDefinition", "definition.image.nam=a", None, "no parameter `--definition.image.nam`"),
            ("login", "slug=a", Some(json!([])), "not an object"),
            ("listInstances", "nope=1", None, "it takes --"),
        ] {
            let refusal = fill(id, flags, body).unwrap_err();
            assert!(refusal.contains(words), "{id} {flags}: {refusal}");
        }
    }

    #[test]
    fn a_key_deeper_than_any_body_is_refused() {
        let deep = format!("definition.{}=1", vec!["a"; 1_000_000].join("."));
        assert!(fill("saveDefinition", &deep, None).unwrap_err().contains("1000001 parts"));
    }

    #[test]
    fn every_operation_of_the_contract_can_say_what_it_takes() {
        for row in api::operations() {
            let known = Inputs::of(row).parameters();
            assert!(known.len() >= row.path_parameters().count(), "{}", row.id);
        }
    }
}
