//! Parses the connection string. It may contain a password, so messages include only option names and the address.

use std::{path::PathBuf, str::FromStr, time::Duration};

use percent_encoding::percent_decode_str;
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    errors::PgError,
    tls::{self, CertificateCheck},
};
use crate::{Result, StoreError};

/// The options supported by tokio-postgres.
const SUPPORTED_OPTIONS: &[&str] = &[
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];
/// Options of other programs, named in the error that refuses them. An unknown word is not named, since it may be part
/// of a password.
const UNSUPPORTED_OPTIONS: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gsslib",
    "keepalives_count",
    "krbsrvname",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslpassword",
    "sslsni",
];

/// The timeout of a connection attempt.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parsed connection options.
#[derive(Clone)]
pub(super) struct ConnectOptions {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    /// The address for messages, for example: the database `openorch` at db.example:5432
    pub(super) display_name: String,
}

impl ConnectOptions {
    pub(super) fn parse(connection: &str) -> Result<Self> {
        let (rest, ours) = if connection.starts_with("postgres://") || connection.starts_with("postgresql://") {
            from_url(connection)?
        } else {
            from_keywords(connection)?
        };
        let mut config = Config::from_str(&rest).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            // The only message there that contains an option name and nothing else.
            match source.strip_prefix("invalid value for option ") {
                Some(option) => StoreError::Invalid(format!(
                    "{option} in the connection string of the database has an invalid value"
                )),
                None => parse_error(),
            }
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(StoreError::Invalid(
                "the connection string of the database names no host; write it as \
                 postgres://user:password@host:5432/database"
                    .into(),
            ));
        }
        let mode = match ours.mode.unwrap_or(Mode::Prefer) {
            // As in libpq.
            Mode::Require if ours.roots.is_some() => Mode::VerifyCa,
            mode => mode,
        };
        config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let trust = match mode {
            Mode::VerifyCa => CertificateCheck::Authority,
            Mode::VerifyFull => CertificateCheck::AuthorityAndHost,
            _ => CertificateCheck::Skip,
        };
        set_defaults(&mut config);
        Ok(Self { tls: tls::connector(trust, ours.roots.as_deref())?, display_name: display_name(&config), config })
    }

    /// The network hosts, as `host:port`.
    pub(super) fn hosts(&self) -> Vec<String> {
        let port = |at: usize| port(&self.config, at);
        let by_name = self.config.get_hosts().iter().enumerate().filter_map(|(at, host)| match host {
            Host::Tcp(name) if name.contains(':') => Some(format!("[{name}]:{}", port(at))),
            Host::Tcp(name) => Some(format!("{name}:{}", port(at))),
            #[cfg(unix)]
            Host::Unix(_) => None,
        });
        let addresses = self.config.get_hostaddrs().iter().enumerate();
        by_name.chain(addresses.map(|(at, ip)| std::net::SocketAddr::new(*ip, port(at)).to_string())).collect()
    }

    /// Opens a connection and spawns its task, which ends with it. If there is none within `limit`, an error of the
    /// store.
    pub(super) async fn connect(&self, limit: Duration) -> std::result::Result<(Client, JoinHandle<()>), PgError> {
        let connecting = tokio::time::timeout(limit, self.config.connect(self.tls.clone())).await;
        let (client, connection) = connecting.map_err(|_| {
            StoreError::Unavailable(format!(
                "the server accepted the connection but sent nothing for {} s",
                limit.as_secs_f32()
            ))
        })??;
        // Errors are reported to the pending requests.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok((client, task))
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Options that tokio-postgres does not support, or not completely.
#[derive(Default)]
struct ExtraOptions {
    mode: Option<Mode>,
    roots: Option<PathBuf>,
}

impl ExtraOptions {
    /// Consumes an option if it is one of ours; refuses an unknown one.
    fn consume(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "sslmode" => {
                self.mode = Some(match value {
                    "disable" => Mode::Disable,
                    "allow" | "prefer" => Mode::Prefer,
                    "require" => Mode::Require,
                    "verify-ca" => Mode::VerifyCa,
                    "verify-full" => Mode::VerifyFull,
                    _ => {
                        return Err(StoreError::Invalid(
                            "`sslmode` in the connection string of the database must be disable, prefer, require, \
                             verify-ca or verify-full"
                                .into(),
                        ));
                    }
                });
            }
            "sslrootcert" => self.roots = (value != "system").then(|| value.into()),
            // Both values allow a connection without GSSAPI, which is not supported.
            "gssencmode" if matches!(value, "disable" | "prefer") => {}
            _ if SUPPORTED_OPTIONS.contains(&name) => return Ok(false),
            _ if UNSUPPORTED_OPTIONS.contains(&name) || name == "gssencmode" => {
                return Err(StoreError::Invalid(format!(
                    "`{name}` in the connection string of the database is not supported; remove it"
                )));
            }
            _ => return Err(parse_error()),
        }
        Ok(true)
    }
}

/// Includes no part of the string: any of it may be the password.
fn parse_error() -> StoreError {
    StoreError::Invalid(
        "the connection string of the database cannot be read; write it as \
         postgres://user:password@host:5432/database, with %XX for characters such as @ / ? # % in the password"
            .into(),
    )
}

fn from_url(text: &str) -> Result<(String, ExtraOptions)> {
    let mut ours = ExtraOptions::default();
    // As in tokio-postgres, the first @ ends user and password.
    let host = text.find('@').map_or(0, |at| at + 1);
    let Some(question) = text[host..].find('?').map(|at| host + at) else { return Ok((text.to_owned(), ours)) };
    let mut kept = Vec::new();
    for option in text[question + 1..].split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or_else(parse_error)?;
        if !ours.consume(name, &percent_decode_str(value).decode_utf8_lossy())? {
            kept.push(option);
        }
    }
    let end = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok((format!("{}{end}", &text[..question]), ours))
}

/// Parses `name=value name='value with spaces'`; a backslash escapes the next character.
fn from_keywords(text: &str) -> Result<(String, ExtraOptions)> {
    let mut ours = ExtraOptions::default();
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(parse_error)?;
        let (value, after) = parse_value(after.trim_start())?;
        if !ours.consume(name.trim_end(), &value)? {
            kept += &format!("{}='{}' ", name.trim_end(), value.replace('\\', r"\\").replace('\'', r"\'"));
        }
        rest = after.trim_start();
    }
    Ok((kept, ours))
}

/// Splits off the value at the start.
fn parse_value(text: &str) -> Result<(String, &str)> {
    let (quoted, inner) = match text.strip_prefix('\'') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let mut value = String::new();
    let mut letters = inner.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.push(letters.next().ok_or_else(parse_error)?.1),
            '\'' if quoted => return Ok((value, &inner[at + 1..])),
            _ if letter.is_whitespace() && !quoted => return Ok((value, &inner[at..])),
            _ => value.push(letter),
        }
    }
    if quoted { Err(parse_error()) } else { Ok((value, "")) }
}

/// Sets timeouts that are unset by default, so that a lost database is noticed within half a minute.
fn set_defaults(config: &mut Config) {
    if config.get_application_name().is_none() {
        config.application_name(format!("openorch pid {}", std::process::id()));
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(5));
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(30));
    }
    // Two hours is the default of tokio-postgres.
    if config.get_keepalives_idle() >= Duration::from_secs(7200) {
        config.keepalives_idle(Duration::from_secs(10));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(Duration::from_secs(5));
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(3);
    }
}

fn port(config: &Config, at: usize) -> u16 {
    *config.get_ports().get(at).or_else(|| config.get_ports().first()).unwrap_or(&5432)
}

fn display_name(config: &Config) -> String {
    let port = |at: usize| port(config, at);
    let host = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{}", port(at)),
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        #[cfg(unix)]
        Host::Unix(path) => format!("{} (port {})", path.display(), port(at)),
    };
    let mut hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    if hosts.is_empty() {
        hosts = config.get_hostaddrs().iter().enumerate().map(|(at, host)| format!("{host}:{}", port(at))).collect();
    }
    match config.get_dbname() {
        Some(name) => format!("the database `{name}` at {}", hosts.join(", ")),
        None => format!("the database at {}", hosts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> ConnectOptions {
        ConnectOptions::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn both_forms_of_a_connection_string_are_read_and_the_place_has_no_password() {
        for (text, place, password) in [
            ("postgres://u:secret@h/d", "the database `d` at h:5432", "secret"),
            ("postgresql://u:se%3Fcr%40et@h:1/d?sslmode=disable", "the database `d` at h:1", "se?cr@et"),
            ("postgres://u:se?cret@h:1/d?sslmode=verify-full&application_name=x", "the database `d` at h:1", "se?cret"),
            ("postgres://u:p@h1:1,h2/d", "the database `d` at h1:1, h2:5432", "p"),
            (
                "host=h port=2 user=u password='se cr\\'e\\\\t' sslmode=require dbname=d",
                "the database `d` at h:2",
                "se cr'e\\t",
            ),
            ("  host = h  user=u password=secret\\ x", "the database at h:5432", "secret x"),
            ("host=/run/pg user=u password=x gssencmode=disable", "the database at /run/pg (port 5432)", "x"),
            ("hostaddr=10.0.0.1 user=u password=x", "the database at 10.0.0.1:5432", "x"),
        ] {
            let target = parsed(text);
            assert_eq!(target.display_name, place, "{text}");
            assert_eq!(target.config.get_password(), Some(password.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_connection_string_is_told_without_any_of_it() {
        for (text, words) in [
            ("", "names no host"),
            ("user=u password=secret", "names no host"),
            ("host=h password=se cret secret2", "cannot be read"),
            ("host=h password=x secret=1", "cannot be read"),
            ("host=h password='secret", "cannot be read"),
            ("host=h password=secret\\", "cannot be read"),
            ("host=h password=secret port=x", "`port` in the connection string"),
            ("host=h password=secret sslmode=off", "`sslmode` in the connection string"),
            ("host=h password=secret sslcert=x", "`sslcert` in the connection string"),
            ("postgres://u:secret@h:secret/d", "in the connection string"),
            ("postgres://u:secret/secret", "in"),
            ("postgres://u:p@h/d?secret", "cannot be read"),
            ("postgres://u:secret@h/d?sslmode=verify", "must be disable"),
            ("postgres://u:secret@h/d?sslmode=verify-ca&sslrootcert=/not/there", "`/not/there`"),
            ("mysql://u:secret@h/d?a=b", "cannot be read"),
        ] {
            let error = ConnectOptions::parse(text).err().unwrap_or_else(|| panic!("{text} should be refused"));
            assert!(matches!(&error, StoreError::Invalid(told) if told.contains(words)), "{text}: {error}");
            assert!(!error.sentence().contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn the_hosts_are_those_of_the_network() {
        let hosts = |text: &str| parsed(text).hosts();
        assert_eq!(hosts("postgres://u:p@h1:1,h2/d"), ["h1:1", "h2:5432"]);
        assert_eq!(hosts("host=/run/pg user=u"), [""; 0]);
        assert_eq!(hosts("host=::1 port=7 user=u"), ["[::1]:7"]);
        assert_eq!(hosts("hostaddr=10.0.0.1 user=u"), ["10.0.0.1:5432"]);
    }

    #[test]
    fn a_database_that_is_gone_is_noticed_by_default_and_what_is_said_stays() {
        let target = parsed("postgres://u@h/d");
        assert_eq!(target.config.get_keepalives_idle(), Duration::from_secs(10));
        assert_eq!(target.config.get_connect_timeout(), Some(&Duration::from_secs(5)));
        assert!(
            target.config.get_application_name().is_some_and(|name| name.contains(&std::process::id().to_string()))
        );
        let target = parsed("postgres://u@h/d?keepalives_idle=60&connect_timeout=1&application_name=mine");
        assert_eq!(target.config.get_keepalives_idle(), Duration::from_secs(60));
        assert_eq!(target.config.get_connect_timeout(), Some(&Duration::from_secs(1)));
        assert_eq!(target.config.get_application_name(), Some("mine"));
    }
}
