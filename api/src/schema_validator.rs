//! Validates input against the operation's JSON Schema before the handler runs: required fields and the limits that the
//! OpenAPI document shows. Supports the subset of JSON Schema (draft 2020-12) that the wire types use; a schema with
//! other keywords is a bug in the table of operations, which a test finds.

use std::{borrow::Cow, collections::BTreeMap};

use regex_lite::Regex;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::{InvalidInput, Operation, RequestParts, Time, text};

/// Schema keyword that describes the `pattern` in words, for error messages.
pub const PATTERN_DESCRIPTION: &str = "x-form";
/// Schema `format` of one-line text without [hidden characters](crate::text::first_hidden).
pub const NAME_FORMAT: &str = "name";

/// The compiled schemas of one operation's input.
pub struct SchemaValidator {
    nodes: Vec<Node>,
    query: Option<usize>,
    body: Option<usize>,
}

/// A compiled schema. An optional field may also be `null`, which is the same as absent.
enum Node {
    Any,
    Boolean,
    Integer { min: i64, max: i64 },
    Number { min: f64, max: f64 },
    Text(Text),
    List { items: usize, min: usize, max: usize },
    Object { fields: BTreeMap<String, usize>, required: Vec<String>, others: Option<AdditionalProperties>, max: usize },
}

/// Schemas of additional properties: keys of an object that are not declared fields.
struct AdditionalProperties {
    names: Option<usize>,
    values: usize,
}

struct Text {
    /// In characters.
    min: usize,
    max: usize,
    pattern: Option<Regex>,
    /// The pattern in words.
    pattern_description: String,
    format: Option<Format>,
    /// The allowed values of an enumeration; empty if any value is allowed.
    values: Vec<String>,
}

enum Format {
    Name,
    Time,
}

impl SchemaValidator {
    /// Compiles the schemas of an operation. Fails if they contain an unsupported keyword.
    pub fn new(row: &Operation) -> Result<SchemaValidator, String> {
        let mut generator = SchemaGenerator::default();
        let shape = (row.input)(&mut generator);
        let mut reader = SchemaCompiler {
            definitions: generator.take_definitions(true),
            compiled: BTreeMap::new(),
            nodes: Vec::new(),
        };
        let mut read = |schema: Option<Schema>| schema.map(|schema| reader.node(&schema.to_value())).transpose();
        let (query, body) = (read(shape.query)?, read(shape.body)?);
        Ok(SchemaValidator { nodes: reader.nodes, query, body })
    }

    /// Validates the query and the body. The error names the invalid field and what is expected of it.
    pub fn check(&self, parts: &RequestParts) -> Result<(), InvalidInput> {
        if let Some(query) = self.query {
            self.value(&self.query_object(query, &parts.query), query, &mut Vec::new())?;
        }
        if let Some(body) = self.body {
            let none = Value::Object(Map::new());
            let value = parts.body.as_ref().filter(|body| !body.is_null()).unwrap_or(&none);
            self.value(value, body, &mut Vec::new())?;
        }
        Ok(())
    }

    /// The query parameters as a JSON object, with numbers and booleans parsed from text. The first value of a repeated
    /// parameter counts.
    fn query_object(&self, node: usize, pairs: &[(String, String)]) -> Value {
        let Node::Object { fields, .. } = &self.nodes[node] else { return Value::Null };
        let mut object = Map::new();
        for (name, text) in pairs {
            let Some(field) = fields.get(name).filter(|_| !object.contains_key(name)) else { continue };
            let value = match self.nodes[*field] {
                Node::Integer { .. } => text.parse::<i64>().ok().map(Value::from),
                Node::Number { .. } => text.parse::<f64>().ok().map(Value::from),
                Node::Boolean => text.parse::<bool>().ok().map(Value::from),
                _ => None,
            };
            object.insert(name.clone(), value.unwrap_or_else(|| Value::String(text.clone())));
        }
        Value::Object(object)
    }

    fn value<'a>(&'a self, value: &'a Value, node: usize, path: &mut Vec<PathSegment<'a>>) -> Result<(), InvalidInput> {
        let node = &self.nodes[node];
        match (node, value) {
            (Node::Any, _) | (Node::Boolean, Value::Bool(_)) => Ok(()),
            (Node::Integer { min, max }, Value::Number(number)) => match as_integer(number) {
                Some(number) if (*min..=*max).contains(&number) => Ok(()),
                Some(number) if number < *min => invalid(path, format!("is {number}; at least {min} is allowed")),
                Some(number) => invalid(path, format!("is {number}; at most {max} is allowed")),
                None => invalid(path, format!("is {number}; a whole number is expected")),
            },
            (Node::Number { min, max }, Value::Number(number)) => match number.as_f64() {
                Some(number) if (*min..=*max).contains(&number) => Ok(()),
                _ => invalid(path, format!("is {number}; it must be from {min} to {max}")),
            },
            (Node::Text(rules), Value::String(text)) => match rules.check(text) {
                None => Ok(()),
                Some(reason) => invalid(path, reason),
            },
            (Node::List { items, min, max }, Value::Array(list)) => {
                match list.len() {
                    count if count < *min => {
                        invalid(path, format!("has {count} entries; at least {min} are expected"))?
                    }
                    count if count > *max => invalid(path, format!("has {count} entries; at most {max} are allowed"))?,
                    _ => {}
                }
                for (index, item) in list.iter().enumerate() {
                    path.push(PathSegment::Index(index));
                    self.value(item, *items, path)?;
                    path.pop();
                }
                Ok(())
            }
            (Node::Object { fields, required, others, max }, Value::Object(object)) => {
                for name in required {
                    if object.get(name).is_none_or(Value::is_null) {
                        path.push(PathSegment::Key(name));
                        return invalid(path, "is required");
                    }
                }
                if others.is_some() && object.len() > *max {
                    return invalid(path, format!("has {} keys; at most {max} are allowed", object.len()));
                }
                for (name, value) in object {
                    let field = match fields.get(name) {
                        Some(_) if value.is_null() => continue,
                        Some(field) => *field,
                        None => match others {
                            Some(others) => {
                                if let Some(names) = others.names
                                    && let Node::Text(rules) = &self.nodes[names]
                                    && let Some(reason) = rules.check(name)
                                {
                                    return invalid(path, format!("has the key `{}`, which {reason}", excerpt(name)));
                                }
                                others.values
                            }
                            None => continue,
                        },
                    };
                    path.push(PathSegment::Key(name));
                    self.value(value, field, path)?;
                    path.pop();
                }
                Ok(())
            }
            _ => invalid(path, format!("is {}; {} is expected", json_type_name(value), node.expected())),
        }
    }
}

impl Text {
    /// Why the text is invalid, or `None` if it is valid.
    fn check(&self, text: &str) -> Option<String> {
        if !self.values.is_empty() {
            let known = self.values.iter().any(|value| value == text);
            return (!known).then(|| format!("is `{}`; it must be one of {}", excerpt(text), self.values.join(", ")));
        }
        // A character has at least one byte, so characters are only counted if the byte length exceeds the limit.
        if self.max < text.len() {
            let count = text.chars().count();
            if count > self.max {
                return Some(format!("has {count} characters; at most {} are allowed", self.max));
            }
        }
        if self.min > 0 && text.chars().count() < self.min {
            return Some(if text.is_empty() {
                "is empty".to_owned()
            } else {
                format!("has fewer than {} characters", self.min)
            });
        }
        match self.format {
            Some(Format::Time) if serde_json::from_value::<Time>(text.into()).is_err() => {
                return Some(format!(
                    "is `{}`; a time like 2026-01-31T12:00:00Z (RFC 3339) is expected",
                    excerpt(text)
                ));
            }
            Some(Format::Name) => {
                if let Some(letter) = text::first_hidden(text) {
                    return Some(format!(
                        "contains the character U+{:04X}, which is invisible and can make one text look like another; \
                         leave it out",
                        u32::from(letter)
                    ));
                }
            }
            _ => {}
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(text) => {
                Some(format!("is `{}`; it must be {}", excerpt(text), self.pattern_description))
            }
            _ => None,
        }
    }
}

impl Node {
    fn expected(&self) -> &'static str {
        match self {
            Node::Any => "any value",
            Node::Boolean => "true or false",
            Node::Integer { .. } => "a whole number",
            Node::Number { .. } => "a number",
            Node::Text(_) => "text",
            Node::List { .. } => "a list",
            Node::Object { .. } => "an object",
        }
    }
}

fn json_type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The value of a whole number. In JSON Schema `1.0` is an integer.
pub(crate) fn as_integer(number: &serde_json::Number) -> Option<i64> {
    // From 2^53 on, an `f64` no longer distinguishes all integers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
    number.as_i64().or_else(|| float().map(|float| float as i64))
}

/// An excerpt of the caller's text for an error message, without hidden characters.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut shown = text::without_hidden(&text.chars().take(MAX_CHARS).collect::<String>());
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// One segment of the path to a nested value.
enum PathSegment<'a> {
    Key(&'a str),
    Index(usize),
}

fn invalid(path: &[PathSegment], reason: impl Into<Cow<'static, str>>) -> Result<(), InvalidInput> {
    let reason = reason.into();
    let mut location = String::new();
    for step in path {
        match step {
            PathSegment::Key(key) if location.is_empty() => location.push_str(&excerpt(key)),
            PathSegment::Key(key) => location.extend([".", &excerpt(key)]),
            PathSegment::Index(index) => location.push_str(&format!("[{index}]")),
        }
    }
    Err(InvalidInput(match location.is_empty() {
        true => format!("the input {reason}"),
        false => format!("`{location}` {reason}"),
    }))
}

/// Compiles schemas into nodes. A referenced schema is compiled once.
struct SchemaCompiler {
    definitions: Map<String, Value>,
    compiled: BTreeMap<String, usize>,
    nodes: Vec<Node>,
}

/// Annotation keywords: allowed in a schema and not validated.
const ANNOTATIONS: &[&str] = &["description", "title", "examples", "default", PATTERN_DESCRIPTION];

impl SchemaCompiler {
    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn node(&mut self, schema: &Value) -> Result<usize, String> {
        let schema = match schema {
            Value::Bool(true) => return Ok(self.add(Node::Any)),
            Value::Object(schema) => schema,
            other => return Err(format!("`{other}` is no schema")),
        };
        if let Some(Value::String(reference)) = schema.get("$ref") {
            return self.resolve_reference(reference);
        }
        if let Some(Value::Array(branches)) = schema.get("anyOf") {
            return match branches.as_slice() {
                [one, Value::Object(null)] if null.get("type").is_some_and(|kind| kind == "null") => self.node(one),
                _ => Err("`anyOf` of other than a schema and null".into()),
            };
        }
        if let Some(values) = enum_values(schema)? {
            let text = Text {
                min: 0,
                max: usize::MAX,
                pattern: None,
                pattern_description: String::new(),
                format: None,
                values,
            };
            return Ok(self.add(Node::Text(text)));
        }
        let kinds: Vec<&str> = match schema.get("type") {
            None => Vec::new(),
            Some(Value::String(kind)) => vec![kind.as_str()],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            Some(other) => return Err(format!("the type `{other}`")),
        };
        let kinds: Vec<&str> = kinds.into_iter().filter(|kind| *kind != "null").collect();
        let (node, keywords): (_, &[&str]) = match kinds.as_slice() {
            [] => (Node::Any, &[]),
            ["boolean"] => (Node::Boolean, &[]),
            ["integer"] => (integer(schema)?, &["format", "minimum", "maximum"]),
            ["number"] => {
                let bound = |key: &str, none: f64| schema.get(key).map_or(Some(none), Value::as_f64);
                let (min, max) = (bound("minimum", f64::NEG_INFINITY), bound("maximum", f64::INFINITY));
                let node = min.zip(max).map(|(min, max)| Node::Number { min, max });
                (node.ok_or("a bound that is no number")?, &["format", "minimum", "maximum"])
            }
            ["string"] => (Node::Text(text_rules(schema)?), &["format", "minLength", "maxLength", "pattern"]),
            ["array"] => {
                let items = self.node(schema.get("items").unwrap_or(&Value::Bool(true)))?;
                let node =
                    Node::List { items, min: size(schema, "minItems", 0)?, max: size(schema, "maxItems", usize::MAX)? };
                (node, &["items", "minItems", "maxItems"])
            }
            ["object"] => (
                self.object(schema)?,
                &["properties", "required", "additionalProperties", "propertyNames", "maxProperties"],
            ),
            several => return Err(format!("the types {several:?}")),
        };
        let is_known = |key: &str| key == "type" || ANNOTATIONS.contains(&key) || keywords.contains(&key);
        match schema.keys().find(|key| !is_known(key)) {
            Some(unknown) => Err(format!("`{unknown}`")),
            None => Ok(self.add(node)),
        }
    }

    fn resolve_reference(&mut self, reference: &str) -> Result<usize, String> {
        let name = reference.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(known) = self.compiled.get(&name) {
            return Ok(*known);
        }
        // Registered before it is compiled, since a schema may refer to itself.
        let index = self.add(Node::Any);
        self.compiled.insert(name.clone(), index);
        let schema = self.definitions.get(&name).cloned().ok_or_else(|| format!("no schema `{name}`"))?;
        if schema.get("$ref").is_some() {
            return Err(format!("`{name}` is another name of a schema"));
        }
        let node = self.node(&schema)?;
        self.nodes.swap(index, node);
        Ok(index)
    }

    fn object(&mut self, schema: &Map<String, Value>) -> Result<Node, String> {
        let mut fields = BTreeMap::new();
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            fields.insert(name.clone(), self.node(field).map_err(|reason| format!("{name}: {reason}"))?);
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let required = required.filter_map(Value::as_str).map(str::to_owned).collect();
        let others = match schema.get("additionalProperties") {
            None => None,
            Some(values) => {
                let names = schema.get("propertyNames").map(|names| self.node(names)).transpose()?;
                Some(AdditionalProperties { names, values: self.node(values)? })
            }
        };
        Ok(Node::Object { fields, required, others, max: size(schema, "maxProperties", usize::MAX)? })
    }
}

/// The values of an enumeration, written as `enum`, `const` or `oneOf`.
fn enum_values(schema: &Map<String, Value>) -> Result<Option<Vec<String>>, String> {
    let listed: Vec<&Value> = match (schema.get("enum"), schema.get("const"), schema.get("oneOf")) {
        (Some(Value::Array(values)), None, None) => values.iter().collect(),
        (None, Some(value), None) => vec![value],
        (None, None, Some(Value::Array(branches))) => {
            let mut all = Vec::new();
            for branch in branches {
                let branch = branch.as_object().ok_or("a branch that is no object")?;
                all.extend(enum_values(branch)?.ok_or("`oneOf` of other than values")?);
            }
            return Ok(Some(all));
        }
        (None, None, None) => return Ok(None),
        _ => return Err("several kinds of values".into()),
    };
    let texts = listed.into_iter().map(|value| value.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().map(Some).ok_or_else(|| "a value that is no text".into())
}

fn integer(schema: &Map<String, Value>) -> Result<Node, String> {
    let (type_min, most) = integer_range(schema.get("format").and_then(Value::as_str));
    let bound = |key: &str, none: i64| match schema.get(key) {
        None => Ok(none),
        Some(Value::Number(number)) => as_integer(number).ok_or_else(|| format!("`{key}` is {number}")),
        Some(other) => Err(format!("`{key}` is {other}")),
    };
    Ok(Node::Integer { min: bound("minimum", type_min)?.max(type_min), max: bound("maximum", most)?.min(most) })
}

/// Minimum and maximum of an integer format. All integers are limited to signed 64 bits (decision "Integers").
pub(crate) fn integer_range(format: Option<&str>) -> (i64, i64) {
    match format {
        Some("uint8") => (0, i64::from(u8::MAX)),
        Some("uint16") => (0, i64::from(u16::MAX)),
        Some("uint32") => (0, i64::from(u32::MAX)),
        Some("uint" | "uint64") => (0, i64::MAX),
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    }
}

fn text_rules(schema: &Map<String, Value>) -> Result<Text, String> {
    let format = match schema.get("format").and_then(Value::as_str) {
        None => None,
        Some("date-time") => Some(Format::Time),
        Some(NAME_FORMAT) => Some(Format::Name),
        Some(other) => return Err(format!("the format `{other}`")),
    };
    let pattern = schema.get("pattern").and_then(Value::as_str);
    let form = schema.get(PATTERN_DESCRIPTION).and_then(Value::as_str).unwrap_or_default().to_owned();
    if pattern.is_some() && form.is_empty() {
        return Err(format!("a `pattern` without `{PATTERN_DESCRIPTION}`"));
    }
    Ok(Text {
        min: size(schema, "minLength", 0)?,
        max: size(schema, "maxLength", usize::MAX)?,
        pattern: pattern.map(Regex::new).transpose().map_err(|error| error.to_string())?,
        pattern_description: form,
        format,
        values: Vec::new(),
    })
}

fn size(schema: &Map<String, Value>, key: &str, none: usize) -> Result<usize, String> {
    match schema.get(key) {
        None => Ok(none),
        Some(value) => {
            value.as_u64().and_then(|size| usize::try_from(size).ok()).ok_or_else(|| format!("`{key}` is {value}"))
        }
    }
}
