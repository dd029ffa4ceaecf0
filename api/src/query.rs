//! The query object: which documents, in which order, how many, and where to go on.
//! Both generations' spellings are taken.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    form, input,
    json::{self, Limits, MAX_DEPTH, Refused},
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Query {
    /// All must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub filters: Vec<Filter>,
    /// The first decides, the next breaks its ties.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub order_bys: Vec<OrderBy>,
    /// At most so many; 0 means the usual number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// JSON text of a list: the values of the order fields in the last row seen, and with one value more, its id.
    #[serde(skip_serializing_if = "String::is_empty", alias = "afterJson")]
    #[schemars(schema_with = "form::text::<65536>")]
    pub json_after: String,
    /// Whether to count all that pass the filters.
    #[serde(skip_serializing_if = "crate::user::is_false")]
    pub count: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    pub op: Op,
    /// Dotted paths; one of them must pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<256, 1000>")]
    pub fields: Vec<String>,
    /// JSON text of a list of values.
    #[serde(skip_serializing_if = "String::is_empty", alias = "valuesJson")]
    #[schemars(schema_with = "form::text::<4194304>")]
    pub json_values: String,
    /// For `or`: one of these must pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub filters: Vec<Filter>,
}

/// What a filter compares by. Text is compared without regard to case by `containsSubstring` and `startsWith`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Op {
    /// The field is the first value, or a list that holds it.
    #[default]
    Equals,
    /// The field is text with the first value in it.
    ContainsSubstring,
    /// The field is text that starts with the first value.
    StartsWith,
    /// The field is a list that shares a value with these.
    Intersects,
    /// The field is one of these values.
    IsInList,
    /// One of the inner filters passes.
    Or,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderBy {
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<256>")]
    pub field: String,
    #[serde(skip_serializing_if = "crate::user::is_false")]
    pub desc: bool,
    /// In an order made up anew each time.
    #[serde(skip_serializing_if = "crate::user::is_false")]
    pub randomize: bool,
    /// Accepted and not needed: values know their type.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<64>")]
    pub sorting_type: String,
}

impl Filter {
    /// The values, or what is wrong with their text; more than `most` of them are refused.
    pub fn values(&self, most: usize) -> Result<Vec<Value>, String> {
        list(&self.json_values, most).map_err(|reason| format!("`jsonValues` is {reason}"))
    }
}

impl Query {
    /// The values of the cursor, if there is one, or what is wrong with its text.
    pub fn after(&self) -> Result<Option<Vec<Value>>, String> {
        if self.json_after.is_empty() {
            return Ok(None);
        }
        list(&self.json_after, MAX_CURSOR_VALUES).map(Some).map_err(|reason| format!("`jsonAfter` is {reason}"))
    }
}

/// Gives the other generation's keys the names of ours, so that the schema's limits hold for them too.
pub(crate) fn accept_other_keys(query: &mut Value) {
    input::rename_key(query, "afterJson", "jsonAfter");
    accept_other_filters(query);
}

fn accept_other_filters(holder: &mut Value) {
    for filter in holder.get_mut("filters").and_then(Value::as_array_mut).into_iter().flatten() {
        input::rename_key(filter, "valuesJson", "jsonValues");
        accept_other_filters(filter);
    }
}

/// Values of a cursor: one for each field of an order, and an id.
const MAX_CURSOR_VALUES: usize = 256;

fn list(text: &str, most: usize) -> Result<Vec<Value>, String> {
    // The list itself is a value too.
    let limits = Limits { depth: MAX_DEPTH, values: most.saturating_add(1) };
    match json::parse(text.as_bytes(), limits) {
        Ok(Some(Value::Array(values))) => Ok(values),
        Ok(_) => Err("not the JSON text of a list, such as \"[42]\"".into()),
        Err(Refused::Invalid(refused)) => Err(format!("no JSON text: {refused}")),
        Err(Refused::TooManyValues(_)) => Err(format!("a list of more than {most} values; ask for less at once")),
    }
}

/// Which piece of a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PageRequest {
    /// Most entries of the answer; all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// The `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}
