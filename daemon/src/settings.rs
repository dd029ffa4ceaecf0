//! Settings: each is a flag, an environment variable and a key of the config file, in that order of weight, and is
//! listed by `--help` with its default. Secrets are never flags: see `secrets.rs`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use openorch_chassis::{
    forwarded::TrustedProxies,
    outbound::{self, Networks},
    router::RouterSettings,
};
use openorch_gateway::server_config;
use openorch_services::{
    registry::{RegistrySettings, default_node_url},
    user::{PasswordRules, Registration, UserSettings},
};
use serde::{Deserialize, Deserializer, de};

use crate::{StartError, secrets::Secrets};

/// A duration as people write it: `150ms`, `10s`, `5m`, `24h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

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

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationChoice {
    Open,
    Invite,
    Closed,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty, $variable:literal, $default:literal;)*) => {
        /// What was given, before defaults.
        #[derive(Clone, Debug, Default, Deserialize, clap::Args)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct Given {
            $(
                #[arg(long, env = $variable, hide_env_values = true, help = concat!($($doc),+, " [default: ", $default, "]"))]
                pub $name: Option<$kind>,
            )*
            /// `OPENORCH_ADMIN_PASSWORD` of the config file.
            #[arg(skip)]
            pub admin_password: Option<String>,
            /// `OPENORCH_ENCRYPTION_KEY` of the config file.
            #[arg(skip)]
            pub encryption_key: Option<String>,
        }

        impl Given {
            /// What is not given here is taken from `other`.
            pub fn or(self, other: Given) -> Given {
                Given {
                    $($name: self.$name.or(other.$name),)*
                    admin_password: self.admin_password.or(other.admin_password),
                    encryption_key: self.encryption_key.or(other.encryption_key),
                }
            }
        }
    };
}

settings! {
    /// Address and port to listen on
    listen: SocketAddr, "OPENORCH_LISTEN", "127.0.0.1:58231";
    /// Folder for the data; the daemon keeps to `server/` in it
    data_dir: PathBuf, "OPENORCH_DATA_DIR", "~/.openorch";
    /// URL under which other nodes and services reach this daemon
    url: String, "OPENORCH_URL", "from the address it listens on";
    /// Id of this node
    node_id: String, "OPENORCH_NODE_ID", "made at the first start";
    /// Availability zone of this node
    az: String, "OPENORCH_AZ", "none";
    /// Region of this node
    region: String, "OPENORCH_REGION", "none";
    /// Certificate chain (PEM) for TLS on the listening port
    tls_cert: PathBuf, "OPENORCH_TLS_CERT", "no TLS";
    /// Private key (PEM) of that certificate
    tls_key: PathBuf, "OPENORCH_TLS_KEY", "no TLS";
    /// Who may register an account
    registration: RegistrationChoice, "OPENORCH_REGISTRATION", "open on loopback, else closed";
    /// Fewest characters of a password
    password_min: usize, "OPENORCH_PASSWORD_MIN", "1 on loopback, else 8";
    /// Networks that instances may be in: CIDRs, and the words loopback, private and public
    instance_networks: String, "OPENORCH_INSTANCE_NETWORKS", "loopback,private,public";
    /// Networks (CIDRs) whose forwarding headers are believed
    trusted_proxies: String, "OPENORCH_TRUSTED_PROXIES", "none";
    /// How long running requests get when the daemon stops
    drain: Span, "OPENORCH_DRAIN", "10s";
    /// Pause between two probes of an instance
    probe_interval: Span, "OPENORCH_PROBE_INTERVAL", "15s";
    /// How long a probe may take
    probe_timeout: Span, "OPENORCH_PROBE_TIMEOUT", "3s";
    /// An instance that answers a probe later than this is Degraded
    probe_slow_after: Span, "OPENORCH_PROBE_SLOW_AFTER", "1s";
    /// How long a new registration is probed quickly
    probe_quick_for: Span, "OPENORCH_PROBE_QUICK_FOR", "15s";
    /// Pause between two heartbeats of this node
    node_interval: Span, "OPENORCH_NODE_INTERVAL", "15s";
    /// Instances that one account may have
    instances_per_account: usize, "OPENORCH_INSTANCES_PER_ACCOUNT", "1000";
    /// How long connecting to an instance may take
    connect_timeout: Span, "OPENORCH_CONNECT_TIMEOUT", "3s";
    /// What a token's text says of its life
    token_lifetime: Span, "OPENORCH_TOKEN_LIFETIME", "24h";
    /// How long a delegated token lives
    delegated_lifetime: Span, "OPENORCH_DELEGATED_LIFETIME", "5m";
    /// A session ends when it is not used for so long
    session_idle: Span, "OPENORCH_SESSION_IDLE", "2160h";
    /// Bytes of a request's head
    head_bytes: usize, "OPENORCH_HEAD_BYTES", "65536";
    /// Fields of a request's head
    head_fields: usize, "OPENORCH_HEAD_FIELDS", "100";
    /// Bytes of a request's target
    target_bytes: usize, "OPENORCH_TARGET_BYTES", "32768";
    /// How long a new connection may stay silent
    first_byte_timeout: Span, "OPENORCH_FIRST_BYTE_TIMEOUT", "15s";
    /// How long a request's head may take
    head_timeout: Span, "OPENORCH_HEAD_TIMEOUT", "15s";
    /// The longest silence within the body of a built-in operation's request
    body_idle_timeout: Span, "OPENORCH_BODY_IDLE_TIMEOUT", "30s";
    /// How long a connection is kept between two requests
    idle_timeout: Span, "OPENORCH_IDLE_TIMEOUT", "75s";
    /// Open connections
    connections: usize, "OPENORCH_CONNECTIONS", "20000";
}

/// Everything the daemon runs with.
pub struct Settings {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub secrets: Secrets,
    given: Given,
}

impl Settings {
    /// Adds the config file and the defaults to what flags and variables say.
    pub fn new(given: Given, config_file: Option<&Path>) -> Result<Settings, StartError> {
        let given = match config_file {
            Some(path) => given.or(read_file(path)?),
            None => given,
        };
        let data_dir = match &given.data_dir {
            Some(folder) => folder.clone(),
            None => std::env::home_dir().map(|home| home.join(".openorch")).ok_or_else(|| {
                StartError("there is no home folder to keep data in; set OPENORCH_DATA_DIR (--data-dir)".into())
            })?,
        };
        if given.tls_cert.is_some() != given.tls_key.is_some() {
            return Err(StartError("OPENORCH_TLS_CERT and OPENORCH_TLS_KEY go together: set both or none".into()));
        }
        // Said instead of passed over: the operator would look for the data in the wrong place.
        if let Some(engine) = std::env::var("OPENORCH_DB").ok().filter(|engine| !engine.is_empty()) {
            return Err(StartError(format!(
                "OPENORCH_DB is `{engine}`, and this version keeps its data in SQLite alone: unset it to start"
            )));
        }
        let secrets = Secrets::from_environment(&given)?;
        let listen = given.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 58231)));
        Ok(Settings { listen, data_dir, secrets, given })
    }

    /// Where the daemon's own files are.
    pub fn server_dir(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    pub fn user(&self, loopback_only: bool) -> UserSettings {
        let usual = UserSettings::default();
        let given = &self.given;
        UserSettings {
            registration: match given.registration {
                Some(RegistrationChoice::Open) => Registration::Open,
                Some(RegistrationChoice::Invite) => Registration::Invite,
                Some(RegistrationChoice::Closed) => Registration::Closed,
                None if loopback_only => Registration::Open,
                None => Registration::Closed,
            },
            password_rules: PasswordRules::new(loopback_only, given.password_min),
            token_lifetime: span(given.token_lifetime, usual.token_lifetime),
            delegated_lifetime: span(given.delegated_lifetime, usual.delegated_lifetime),
            session_idle: span(given.session_idle, usual.session_idle),
            // A storm of sign-ins leaves half of the cores to everything else.
            hashes_at_once: std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2),
            ..usual
        }
    }

    /// `listen`: the address that is really bound.
    pub fn registry(&self, listen: SocketAddr) -> Result<RegistrySettings, StartError> {
        let given = &self.given;
        let node_url = match &given.url {
            Some(url) => outbound::InstanceUrl::parse(url)
                .map_err(|error| StartError(format!("OPENORCH_URL: {error}")))?
                .as_str()
                .to_owned(),
            None => default_node_url(listen, host_name()),
        };
        let usual = RegistrySettings::new(node_url, self.data_dir.clone());
        Ok(RegistrySettings {
            probe_interval: span(given.probe_interval, usual.probe_interval),
            probe_timeout: span(given.probe_timeout, usual.probe_timeout),
            slow_after: span(given.probe_slow_after, usual.slow_after),
            quick_for: span(given.probe_quick_for, usual.quick_for),
            node_interval: span(given.node_interval, usual.node_interval),
            instances_per_account: given.instances_per_account.unwrap_or(usual.instances_per_account),
            node_id: given.node_id.clone().filter(|id| !id.is_empty()),
            availability_zone: given.az.clone().unwrap_or_default(),
            region: given.region.clone().unwrap_or_default(),
            ..usual
        })
    }

    pub fn outbound(&self) -> Result<outbound::Settings, StartError> {
        let usual = outbound::Settings::default();
        let networks = match &self.given.instance_networks {
            Some(text) => Networks::parse(text).map_err(|e| StartError(format!("OPENORCH_INSTANCE_NETWORKS: {e}")))?,
            None => usual.networks,
        };
        let connect_timeout = span(self.given.connect_timeout, usual.connect_timeout);
        Ok(outbound::Settings { networks, connect_timeout, ..usual })
    }

    pub fn router(&self) -> RouterSettings {
        RouterSettings { body_idle: span(self.given.body_idle_timeout, RouterSettings::default().body_idle) }
    }

    pub fn gateway(&self) -> Result<openorch_gateway::Settings, StartError> {
        let (given, usual) = (&self.given, openorch_gateway::Settings::default());
        let trusted_proxies = match &given.trusted_proxies {
            Some(text) => {
                TrustedProxies::parse(text).map_err(|e| StartError(format!("OPENORCH_TRUSTED_PROXIES: {e}")))?
            }
            None => usual.trusted_proxies,
        };
        let tls = match (&given.tls_cert, &given.tls_key) {
            (Some(cert), Some(key)) => Some(server_config(cert, key).map_err(|e| StartError(e.to_string()))?),
            _ => None,
        };
        Ok(openorch_gateway::Settings {
            head_bytes: given.head_bytes.unwrap_or(usual.head_bytes),
            head_fields: given.head_fields.unwrap_or(usual.head_fields),
            target_bytes: given.target_bytes.unwrap_or(usual.target_bytes),
            first_byte: span(given.first_byte_timeout, usual.first_byte),
            head: span(given.head_timeout, usual.head),
            idle: span(given.idle_timeout, usual.idle),
            drain: span(given.drain, usual.drain),
            connections: given.connections.unwrap_or(usual.connections),
            trusted_proxies,
            tls,
            ..usual
        })
    }

    /// Whether connections come over TLS, for the address that is shown.
    pub fn has_tls(&self) -> bool {
        self.given.tls_cert.is_some()
    }
}

fn span(given: Option<Span>, usual: Duration) -> Duration {
    given.map_or(usual, |span| span.0)
}

fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn read_file(path: &Path) -> Result<Given, StartError> {
    let text = fs::read_to_string(path)
        .map_err(|error| StartError(format!("the config file {} cannot be read: {error}", path.display())))?;
    // The message of the parser shows the line, which may hold a secret: only the place is told.
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        StartError(format!("the config file {} has a mistake in line {line}: {}", path.display(), error.message()))
    })
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
    }
}
