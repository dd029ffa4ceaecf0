//! Timestamps on the wire: RFC 3339, UTC, six decimals. The zero time (`0001-01-01T00:00:00Z`) means "not set" in
//! published types that always have the field.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time in UTC, in RFC 3339 format with six decimals on the wire. [`Time::ZERO`] means "not set".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Timestamp);

const ZERO_SECOND: i64 = -62_135_596_800;

impl Time {
    /// Not set.
    pub const ZERO: Time = Time(Timestamp::constant(ZERO_SECOND, 0));

    /// Whether the time is not set.
    pub fn is_zero(self) -> bool {
        self == Time::ZERO
    }
}

impl Default for Time {
    fn default() -> Time {
        Time::ZERO
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() { f.write_str("0001-01-01T00:00:00Z") } else { write!(f, "{:.6}", self.0) }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse()
            .map(Time)
            .map_err(|_| de::Error::custom(format_args!("`{text}` is not a time like 2026-01-31T12:00:00Z (RFC 3339)")))
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_decimals_and_the_zero_time_its_published_form() {
        let time: Time = serde_json::from_str("\"2026-11-24T14:00:00.5+01:00\"").unwrap();
        assert_eq!(time.to_string(), "2026-11-24T13:00:00.500000Z");
        assert_eq!(Time::ZERO.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(serde_json::from_str::<Time>("\"0001-01-01T00:00:00Z\"").unwrap(), Time::ZERO);
        assert!(serde_json::from_str::<Time>("\"\"").is_err());
    }
}
