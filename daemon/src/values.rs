//! What the values of settings look like: durations, counts, addresses, choices. The same text works as a flag, in a
//! variable and in the config file.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use openorch_services::user::Registration;
use serde::{Deserialize, Deserializer, de};

/// A duration as people write it: `150ms`, `10s`, `5m`, `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A duration between two turns of something: at least ten milliseconds, so that nothing spins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause(pub Duration);

/// How many: at least one, at most a thousand millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub usize);

/// Where to listen: an IP address, or `localhost`, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistrationChoice(pub Registration);

/// Which engine keeps the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    #[default]
    Sqlite,
    Postgres,
}

/// What to do with a data folder on a network file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFileSystem {
    Refuse,
    Allow,
}

/// The duration that was given, else the usual one.
pub fn span(given: Option<Span>, usual: Duration) -> Duration {
    given.map_or(usual, |span| span.0)
}

/// The same of a pause.
pub fn pause(given: Option<Pause>, usual: Duration) -> Duration {
    given.map_or(usual, |pause| pause.0)
}

/// The number that was given.
pub fn count(given: Option<Count>) -> Option<usize> {
    given.map(|count| count.0)
}

const COUNT_MOST: usize = 1_000_000_000;

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || format!("`{text}` is not a duration like 150ms, 10s, 5m or 24h");
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..unit_at].parse().map_err(|_| wrong())?;
        let milliseconds = match &text[unit_at..] {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        // A hundred years are enough for anyone, and keep every sum within range.
        let most = 100 * 366 * 24 * 3_600_000;
        milliseconds.filter(|ms| *ms <= most).map(|ms| Span(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

impl FromStr for Pause {
    type Err = String;
    fn from_str(text: &str) -> Result<Pause, String> {
        let Span(pause) = text.parse()?;
        if pause < Duration::from_millis(10) {
            return Err(format!("`{text}` is too short a pause; it is at least 10ms"));
        }
        Ok(Pause(pause))
    }
}

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Count, String> {
        let count = text.parse().ok().filter(|count| (1..=COUNT_MOST).contains(count));
        count.map(Count).ok_or_else(|| format!("`{text}` is not a number from 1 to {COUNT_MOST}"))
    }
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Address, String> {
        let whole = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        let wrong = |_| format!("`{text}` is not an address like 127.0.0.1:58231, 0.0.0.0:58231 or [::]:58231");
        whole.parse().map(Address).map_err(wrong)
    }
}

impl FromStr for RegistrationChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<RegistrationChoice, String> {
        Ok(RegistrationChoice(match text {
            "open" => Registration::Open,
            "invite" => Registration::Invite,
            "closed" => Registration::Closed,
            _ => return Err(format!("`{text}` is not one of open, invite and closed")),
        }))
    }
}

/// A port to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Port(pub u16);

impl FromStr for Port {
    type Err = String;
    fn from_str(text: &str) -> Result<Port, String> {
        match text.parse() {
            Ok(port) if port > 0 => Ok(Port(port)),
            _ => Err(format!("`{text}` is no port; it is a number from 1 to 65535")),
        }
    }
}

/// How a connection to a mail server is kept private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// Plain at first, then TLS (RFC 3207), or no mail is sent.
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Tls,
    None,
}

impl FromStr for SmtpSecurity {
    type Err = String;
    fn from_str(text: &str) -> Result<SmtpSecurity, String> {
        match text {
            "starttls" => Ok(SmtpSecurity::StartTls),
            "tls" => Ok(SmtpSecurity::Tls),
            "none" => Ok(SmtpSecurity::None),
            _ => Err(format!("`{text}` is not one of starttls, tls and none")),
        }
    }
}

impl FromStr for Engine {
    type Err = String;
    fn from_str(text: &str) -> Result<Engine, String> {
        match text {
            "sqlite" => Ok(Engine::Sqlite),
            "postgres" => Ok(Engine::Postgres),
            _ => Err(format!("`{text}` is not one of sqlite and postgres")),
        }
    }
}

impl FromStr for NetworkFileSystem {
    type Err = String;
    fn from_str(text: &str) -> Result<NetworkFileSystem, String> {
        match text {
            "refuse" => Ok(NetworkFileSystem::Refuse),
            "allow" => Ok(NetworkFileSystem::Allow),
            _ => Err(format!("`{text}` is not one of refuse and allow")),
        }
    }
}

macro_rules! read_as_text {
    ($($kind:ty),*) => {
        $(impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(AsText)?.parse().map_err(de::Error::custom)
            }
        })*
    };
}

/// Reads text, and a number as the text that it is: what is wrong with it is then said in words of the setting.
struct AsText;

impl de::Visitor<'_> for AsText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }
    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

read_as_text!(Span, Pause, Address, RegistrationChoice, Engine, NetworkFileSystem, Port, SmtpSecurity);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        u64::deserialize(deserializer)?.to_string().parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, want) in [("150ms", 150), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(want))));
        }
        for text in ["", "10", "s", "1.5s", "-1s", "10 s", "99999999999999999999s", "9999999999h", "1d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert!("9ms".parse::<Pause>().is_err() && "10ms".parse::<Pause>().is_ok());
    }

    #[test]
    fn counts_and_addresses_have_their_limits() {
        for (text, fine) in
            [("1", true), ("1000000000", true), ("0", false), ("1000000001", false), ("-1", false), ("x", false)]
        {
            assert_eq!(text.parse::<Count>().is_ok(), fine, "{text}");
        }
        for (text, want) in [
            ("localhost:80", Some("127.0.0.1:80")),
            ("[::1]:80", Some("[::1]:80")),
            ("0.0.0.0:0", Some("0.0.0.0:0")),
            ("80", None),
            ("example.org:80", None),
        ] {
            assert_eq!(text.parse::<Address>().ok().map(|a| a.0.to_string()).as_deref(), want, "{text}");
        }
    }
}
