//! The query object (contract, `services.md` section 1): filters, order, limit and cursor. The key names of both API
//! generations are accepted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    form, input,
    json::{self, JsonError, Limits, MAX_DEPTH},
};

/// Which results of a list are returned, and in which order; all fields are optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Query {
    /// All filters must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub filters: Vec<Filter>,
    /// Sort keys, in descending priority.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub order_bys: Vec<OrderBy>,
    /// Maximum number of results; 0 means the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// The cursor as the JSON text of a list: the values of the sort fields of the last result, optionally followed by its
    /// id.
    #[serde(skip_serializing_if = "String::is_empty", alias = "afterJson")]
    #[schemars(schema_with = "form::text::<65536>")]
    pub json_after: String,
    /// Whether to return the total number of matches.
    #[serde(skip_serializing_if = "crate::user::is_false")]
    pub count: bool,
}

/// A condition that results must meet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// How the fields are compared with the values; `equals` if omitted.
    pub op: Op,
    /// Dotted field paths; at least one must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<256, 1000>")]
    pub fields: Vec<String>,
    /// JSON text of a list of values.
    #[serde(skip_serializing_if = "String::is_empty", alias = "valuesJson")]
    #[schemars(schema_with = "form::text::<4194304>")]
    pub json_values: String,
    /// For `or`: at least one of these filters must match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub filters: Vec<Filter>,
}

/// The comparison of a filter. `containsSubstring` and `startsWith` ignore case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Op {
    /// The field equals the first value, or is a list that contains it.
    #[default]
    Equals,
    /// The field is text that contains the first value.
    ContainsSubstring,
    /// The field is text that starts with the first value.
    StartsWith,
    /// The field is a list that has an element in common with the values.
    Intersects,
    /// The field equals one of the values.
    IsInList,
    /// At least one of the nested filters matches.
    Or,
}

/// A sort key: a field and a direction, or a random order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderBy {
    /// Dotted path of the field, for example `createdAt`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<256>")]
    pub field: String,
    /// Whether to sort in descending order; ascending if omitted.
    #[serde(skip_serializing_if = "crate::user::is_false")]
    pub desc: bool,
    /// Random order, different for each query.
    #[serde(skip_serializing_if = "crate::user::is_false")]
    pub randomize: bool,
    /// Accepted and ignored: values have a type.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<64>")]
    pub sorting_type: String,
}

impl Filter {
    /// Parses the values; fails if the text is not a JSON list or has more than `max` values.
    pub fn values(&self, max: usize) -> Result<Vec<Value>, String> {
        parse_list(&self.json_values, max).map_err(|reason| format!("`jsonValues` is {reason}"))
    }
}

impl Query {
    /// Parses the cursor, if there is one.
    pub fn after(&self) -> Result<Option<Vec<Value>>, String> {
        if self.json_after.is_empty() {
            return Ok(None);
        }
        parse_list(&self.json_after, MAX_CURSOR_VALUES).map(Some).map_err(|reason| format!("`jsonAfter` is {reason}"))
    }
}

/// Renames the keys of the other API generation to ours, so that the limits of the schema apply to them too.
pub(crate) fn accept_alternative_keys(query: &mut Value) {
    input::rename_key(query, "afterJson", "jsonAfter");
    accept_alternative_filters(query);
}

fn accept_alternative_filters(holder: &mut Value) {
    for filter in holder.get_mut("filters").and_then(Value::as_array_mut).into_iter().flatten() {
        input::rename_key(filter, "valuesJson", "jsonValues");
        accept_alternative_filters(filter);
    }
}

/// Maximum values of a cursor: one per sort field, and an id.
const MAX_CURSOR_VALUES: usize = 256;

fn parse_list(text: &str, most: usize) -> Result<Vec<Value>, String> {
    // The list itself counts as a value.
    let limits = Limits { depth: MAX_DEPTH, values: most.saturating_add(1) };
    match json::parse(text.as_bytes(), limits) {
        Ok(Some(Value::Array(values))) => Ok(values),
        Ok(_) => Err("not the JSON text of a list such as \"[42]\"".into()),
        Err(JsonError::Invalid(refused)) => Err(format!("not valid JSON: {refused}")),
        Err(JsonError::TooManyValues(_)) => Err(format!("a list of more than {most} values; send fewer")),
    }
}

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PageRequest {
    /// Maximum number of entries; all if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Cursor: `next` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub after: Option<String>,
}
