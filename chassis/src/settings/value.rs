//! The types of settings and their text format: durations, sizes, numbers, addresses, choices. The format is the same for
//! flags, variables and the config file.

use std::{fmt, net::SocketAddr, ops::Deref, path::PathBuf, str::FromStr, time::Duration};

/// A type of settings.
pub trait Value: Sized {
    /// Whether it is never shown and cannot be a flag.
    const IS_SECRET: bool = false;

    /// Parses a text; fails with the reason.
    fn parse(text: &str) -> Result<Self, String>;

    /// Parses the default.
    fn default_of(text: &'static str) -> Result<Self, String> {
        Self::parse(text)
    }
}

/// A setting without a default, or with a computed one: the text of its default is a description.
impl<T: Value> Value for Option<T> {
    const IS_SECRET: bool = T::IS_SECRET;

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn default_of(_: &'static str) -> Result<Self, String> {
        Ok(None)
    }
}

/// A setting that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl Value for Secret {
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Secret, String> {
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Implements [`Value`](crate::settings::Value) for types that implement `FromStr`.
#[macro_export]
macro_rules! setting_values {
    ($($kind:ty),* $(,)?) => {
        $(impl $crate::settings::Value for $kind {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error| format!("{error}"))
            }
        })*
    };
}

/// Implements [`Value`](crate::settings::Value) for an enum, with a word for each variant.
#[macro_export]
macro_rules! setting_choice {
    ($kind:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl std::str::FromStr for $kind {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($kind::$variant),)+
                    _ => Err(format!("`{text}` is not one of {}", [$($word),+].join(", "))),
                }
            }
        }
        $crate::setting_values!($kind);
    };
}

setting_values!(String, PathBuf, Interval, ByteSize, Fraction, Address);

/// `150ms`, `10s`, `5m`, `24h`.
impl Value for Duration {
    fn parse(text: &str) -> Result<Duration, String> {
        let invalid = || format!("`{text}` is not a duration like 150ms, 10s, 5m or 24h");
        let (number, unit) = number_and_unit(text).ok_or_else(invalid)?;
        let milliseconds = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        // A maximum of a hundred years keeps sums of durations within range.
        let max = 100 * 366 * 24 * 3_600_000;
        milliseconds.filter(|ms| *ms <= max).map(Duration::from_millis).ok_or_else(invalid)
    }
}

/// The interval of a periodic task: at least ten milliseconds, so that no loop spins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl Deref for Interval {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl FromStr for Interval {
    type Err = String;
    fn from_str(text: &str) -> Result<Interval, String> {
        let interval = <Duration as Value>::parse(text)?;
        if interval < Duration::from_millis(10) {
            return Err(format!("`{text}` is too short; the minimum is 10ms"));
        }
        Ok(Interval(interval))
    }
}

/// A number of bytes: `512`, `64KiB`, `4MiB`, `1GiB`; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl Deref for ByteSize {
    type Target = usize;
    fn deref(&self) -> &usize {
        &self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<ByteSize, String> {
        let wrong = || format!("`{text}` is not a number of bytes like 512, 64KiB, 4MiB or 1GiB, up to 1024GiB");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let shift = match unit {
            "" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        let bytes = number.checked_mul(1 << shift).filter(|bytes| (1..=1 << 40).contains(bytes));
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).map(ByteSize).ok_or_else(wrong)
    }
}

/// A fraction from `0` (none) to `1` (all).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fraction(f64);

impl Fraction {
    /// True for this fraction of calls, on average. A fraction of zero draws no random number.
    pub fn sample(self, random: impl FnOnce() -> u64) -> bool {
        // 53 bits, the precision of an `f64`, so that the random fraction is always less than one.
        self.0 > 0.0 && ((random() >> 11) as f64) < self.0 * (1_u64 << 53) as f64
    }
}

impl FromStr for Fraction {
    type Err = String;
    fn from_str(text: &str) -> Result<Fraction, String> {
        let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
        number.map(Fraction).ok_or_else(|| format!("`{text}` is not a fraction from 0 (none) to 1 (all) like 0.01"))
    }
}

/// Splits a text after its leading digits.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..unit_at].parse().ok()?, &text[unit_at..]))
}

/// The maximum of numeric settings.
const MAX_NUMBER: u32 = 1_000_000_000;

macro_rules! numbers {
    ($($kind:ty),*) => {
        /// A number from one to [`MAX_NUMBER`].
        $(impl Value for $kind {
            fn parse(text: &str) -> Result<$kind, String> {
                let number = text.parse().ok().filter(|number| (1..=MAX_NUMBER).contains(number));
                let number = number.and_then(|number| <$kind>::try_from(number).ok());
                number.ok_or_else(|| format!("`{text}` is not a number from 1 to {MAX_NUMBER}"))
            }
        })*
    };
}

numbers!(usize, u32, u64);

/// A port to connect to.
impl Value for u16 {
    fn parse(text: &str) -> Result<u16, String> {
        let port = text.parse().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("`{text}` is not a port from 1 to 65535"))
    }
}

/// A listen address: an IP address or `localhost`, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Address, String> {
        let whole = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        let invalid = |_| format!("`{text}` is not an address like 127.0.0.1:58231, 0.0.0.0:58231 or [::]:58231");
        whole.parse().map(Address).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, want) in [("150ms", 150), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(want)));
        }
        for text in ["", "10", "s", "1.5s", "-1s", "10 s", "99999999999999999999s", "9999999999h", "1d"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
        assert!(Interval::parse("9ms").is_err() && Interval::parse("10ms").is_ok());
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, want) in [("1", 1), ("512", 512), ("64KiB", 65_536), ("4MiB", 4 << 20), ("1024GiB", 1 << 40)] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(want)));
        }
        for text in ["", "0", "KiB", "4MB", "4 MiB", "1025GiB", "-1", "99999999999999999999"] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_are_sampled_as_often_as_they_say() {
        for text in ["", "-0.1", "1.1", "NaN", "inf", "1%", "x"] {
            assert!(Fraction::parse(text).is_err(), "{text}");
        }
        let [none, tenth, all] = ["0", "0.1", "1"].map(|text| Fraction::parse(text).unwrap());
        let tenth_of_range = u64::MAX / 10;
        assert!(!none.sample(|| 0) && all.sample(|| u64::MAX));
        assert!(tenth.sample(|| tenth_of_range - 4096) && !tenth.sample(|| tenth_of_range + 4096));
    }

    #[test]
    fn numbers_and_addresses_have_their_limits() {
        for (text, fine) in
            [("1", true), ("1000000000", true), ("0", false), ("1000000001", false), ("-1", false), ("x", false)]
        {
            assert_eq!(usize::parse(text).is_ok(), fine, "{text}");
        }
        for (text, want) in [
            ("localhost:80", Some("127.0.0.1:80")),
            ("[::1]:80", Some("[::1]:80")),
            ("0.0.0.0:0", Some("0.0.0.0:0")),
            ("80", None),
            ("example.org:80", None),
        ] {
            assert_eq!(Address::parse(text).ok().map(|a| a.0.to_string()).as_deref(), want, "{text}");
        }
    }
}
