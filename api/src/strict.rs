//! Strict deserialization of a caller's JSON and query. Unlike serde's default it does not accept a list for a struct,
//! and a `null` field is equivalent to an absent one at every depth (decision "JSON input").

use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor,
    value::{MapDeserializer, SeqDeserializer},
};
use serde_json::{Error, Map, Value};

use crate::schema_validator::as_integer;

/// Deserializes `T` from a JSON value; the error message names the field.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(StrictValue(value)).map_err(|error| {
        let path = error.path().to_string();
        let cause = describe_cause(&error.into_inner().to_string());
        if path == "." { cause } else { format!("`{path}`: {cause}") }
    })
}

/// Deserializes `T` from query parameters; numbers and booleans are parsed from their text.
pub fn read_query<T: DeserializeOwned>(parameters: Vec<(String, String)>) -> Result<T, String> {
    let fields = parameters.into_iter().map(|(name, text)| (name, QueryValue(text)));
    serde_path_to_error::deserialize(MapDeserializer::<_, Error>::new(fields)).map_err(|error| {
        let path = error.path().to_string();
        format!("`{path}`: {}", describe_cause(&error.into_inner().to_string()))
    })
}

/// Translates serde's error message into JSON terms, since Rust type names mean nothing to a caller.
fn describe_cause(cause: &str) -> String {
    let Some((found, wanted)) = cause.rsplit_once(", expected ") else { return cause.to_owned() };
    let found = match found {
        "invalid type: sequence" => "invalid type: a list",
        "invalid type: map" => "invalid type: an object",
        other => other,
    };
    let wanted = match wanted {
        "a map" => "an object",
        "a sequence" => "a list",
        "i64" => "a whole number",
        "u64" => "a whole number from 0",
        "u32" => "a whole number from 0 to 4294967295",
        "u16" => "a whole number from 0 to 65535",
        "f64" => "a number",
        name if name.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {wanted}")
}

struct StrictValue(Value);

/// JSON has only one number type: where an integer is expected, `1.0` is 1.
macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match &self.0 {
                Value::Number(number) if number.is_f64() => match as_integer(number) {
                    Some(number) => visitor.visit_i64(number),
                    None => self.deserialize_any(visitor),
                },
                _ => self.deserialize_any(visitor),
            }
        })*
    };
}

impl IntoDeserializer<'_, Error> for StrictValue {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

fn object<'de, V: Visitor<'de>>(fields: Map<String, Value>, visitor: V) -> Result<V::Value, Error> {
    visitor.visit_map(MapDeserializer::new(fields.into_iter().map(|(name, value)| (name, StrictValue(value)))))
}

impl<'de> Deserializer<'de> for StrictValue {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(StrictValue))),
            Value::Object(fields) => object(fields, visitor),
            simple => simple.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(mut fields) => {
                fields.retain(|_, value| !value.is_null());
                object(fields, visitor)
            }
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            simple => simple.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    whole_numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    serde::forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// The value of a query parameter.
struct QueryValue(String);

impl IntoDeserializer<'_, Error> for QueryValue {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parse {
    ($($method:ident $visit:ident $kind:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse::<$kind>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Error::invalid_type(Unexpected::Str(&self.0), &visitor)),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for QueryValue {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// A unit variant by its name.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(self.0))
    }

    parse! {
        deserialize_bool visit_bool bool;
        deserialize_i64 visit_i64 i64;
        deserialize_u64 visit_u64 u64;
        deserialize_u32 visit_u32 u32;
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::audit::AuditOutcome;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        name: String,
        inner: Option<Inner>,
        list: Vec<Inner>,
        free: Value,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        port: u16,
        ports: Vec<u16>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct TestQuery {
        name: Option<String>,
        limit: Option<i64>,
        all: bool,
        outcome: Option<AuditOutcome>,
    }

    #[test]
    fn a_query_says_numbers_booleans_and_choices_as_text() {
        let read = |text: &[(&str, &str)]| {
            read_query::<TestQuery>(
                text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            )
        };
        let outcome = Some(AuditOutcome::Refused);
        let all = TestQuery { name: Some("7".into()), limit: Some(-2), all: true, outcome };
        let text = [("name", "7"), ("limit", "-2"), ("all", "true"), ("more", "x"), ("outcome", "refused")];
        assert_eq!(read(&text), Ok(all));
        assert_eq!(read(&[]), Ok(TestQuery::default()));
        assert!(read(&[("limit", "x")]).unwrap_err().starts_with("`limit`: "));
        assert!(read(&[("all", "1")]).unwrap_err().starts_with("`all`: "));
        assert!(read(&[("outcome", "x")]).unwrap_err().starts_with("`outcome`: "));
    }

    #[test]
    fn a_list_is_no_object_and_null_is_nothing() {
        for (value, fine) in [
            (json!({}), true),
            (json!({"name": null, "inner": null, "list": null}), true),
            (json!({"inner": {"port": null, "ports": null}}), true),
            (json!({"list": [{"port": 1}, {"ports": [1]}]}), true),
            (json!(["a"]), false),
            (json!({"inner": [1]}), false),
            (json!({"list": [[1]]}), false),
            (json!({"list": [null]}), false),
            (json!({"inner": {"port": 70000}}), false),
            (json!({"name": 1}), false),
            (json!("a"), false),
            (json!(1), false),
        ] {
            assert_eq!(read::<Outer>(value.clone()).is_ok(), fine, "{value}");
        }
        // Fields of type `Value` are not changed.
        let free = json!({"a": null, "b": [null, {"c": null}]});
        assert_eq!(read::<Outer>(json!({"free": free})).unwrap().free, free);
        assert!(read::<Outer>(json!({"inner": {"port": "x"}})).unwrap_err().starts_with("`inner.port`: "));
    }
}
