//! Settings: each is a flag, an environment variable and a key of the config file, in that order of weight, and is
//! listed by `--help` with its default. Secrets are never flags: see `secrets.rs`.

mod gateway;

pub use gateway::raise_file_limit;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use openorch_chassis::{
    ages::AgeSettings,
    budget::BudgetSettings,
    mail::{Mailer, NoMailer},
    outbound::{self, Networks},
    rate::Rate,
    request::Pace,
    router::RouterSettings,
    service::LIST_MOST,
};
use openorch_services::{
    registry::{RegistrySettings, default_node_url},
    user::{AccessLimits, HashSettings, PasswordRules, Registration, UserSettings},
};
use openorch_store::{PostgresOptions, SqliteOptions};
use serde::Deserialize;

use crate::{
    StartError, config_file,
    environment::{self, variable},
    mail::{SmtpMailer, SmtpServer},
    secrets::Secrets,
    values::{
        Address, Count, Engine, NetworkFileSystem, Pause, Port, RegistrationChoice, SmtpSecurity, Span, count, pause,
        span,
    },
};

macro_rules! settings {
    ($($doc:literal $name:ident: $kind:ty, $variable:literal, $default:literal;)*) => {
        /// What was given, before defaults.
        #[derive(Clone, Debug, Default, Deserialize, clap::Args)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct Given {
            $(
                #[doc = $doc]
                #[arg(long, global = true, help = concat!($doc, " [", $variable, "] [default: ", $default, "]"))]
                pub $name: Option<$kind>,
            )*
            /// `OPENORCH_ADMIN_PASSWORD` of the config file.
            #[arg(skip)]
            pub admin_password: Option<String>,
            /// `OPENORCH_ENCRYPTION_KEY` of the config file.
            #[arg(skip)]
            pub encryption_key: Option<String>,
            /// `OPENORCH_SMTP_PASSWORD` of the config file.
            #[arg(skip)]
            pub smtp_password: Option<String>,
            /// `OPENORCH_DB_STRING` of the config file.
            #[arg(skip)]
            pub db_string: Option<String>,
        }

        /// The variables of all settings.
        pub const VARIABLES: &[&str] = &[$($variable),*];

        /// The keys of all settings in the config file, with `_` for `-`.
        pub const KEYS: &[&str] = &[$(stringify!($name)),*];

        impl Given {
            /// What variables say. An empty one says nothing.
            fn from_environment() -> Result<Given, StartError> {
                Ok(Given { $($name: variable($variable)?,)* ..Given::default() })
            }

            /// What is not given here is taken from `other`.
            fn or(self, other: Given) -> Given {
                Given {
                    $($name: self.$name.or(other.$name),)*
                    admin_password: self.admin_password.or(other.admin_password),
                    encryption_key: self.encryption_key.or(other.encryption_key),
                    smtp_password: self.smtp_password.or(other.smtp_password),
                    db_string: self.db_string.or(other.db_string),
                }
            }
        }
    };
}

settings! {
    "Address and port to listen on"
    listen: Address, "OPENORCH_LISTEN", "127.0.0.1:58231";
    "Folder for the data; the daemon keeps to `server/` in it"
    data_dir: PathBuf, "OPENORCH_DATA_DIR", "~/.openorch";
    "A data folder on NFS, SMB or 9p: refuse or allow; two machines must never use it at once"
    network_file_system: NetworkFileSystem, "OPENORCH_NETWORK_FILE_SYSTEM", "refuse";
    "Engine that keeps the data: sqlite, in the data folder, or postgres, where OPENORCH_DB_STRING (also _FILE) says"
    db: Engine, "OPENORCH_DB", "sqlite";
    "Driver of a database server; there is one"
    db_driver: Engine, "OPENORCH_DB_DRIVER", "postgres";
    "Schema of the database, which is the daemon's alone"
    db_schema: String, "OPENORCH_DB_SCHEMA", "openorch";
    "Connections to the database, a third of them for reading"
    db_connections: Count, "OPENORCH_DB_CONNECTIONS", "24";
    "How long a start waits for a database that is away"
    db_patience: Span, "OPENORCH_DB_PATIENCE", "30s";
    "URL under which other nodes and services reach this daemon"
    url: String, "OPENORCH_URL", "from the address it listens on";
    "Id of this node"
    node_id: String, "OPENORCH_NODE_ID", "made at the first start";
    "Availability zone of this node"
    az: String, "OPENORCH_AZ", "none";
    "Region of this node"
    region: String, "OPENORCH_REGION", "none";
    "Certificate chain (PEM) for TLS on the listening port"
    tls_cert: PathBuf, "OPENORCH_TLS_CERT", "no TLS";
    "Private key (PEM) of that certificate"
    tls_key: PathBuf, "OPENORCH_TLS_KEY", "no TLS";
    "Who may register an account"
    registration: RegistrationChoice, "OPENORCH_REGISTRATION", "open on loopback, else closed";
    "Fewest characters of a password"
    password_min: Count, "OPENORCH_PASSWORD_MIN", "1 on loopback, else 8";
    "Most bytes of a password"
    password_max: Count, "OPENORCH_PASSWORD_MAX", "1024";
    "Password hashes computed side by side"
    hashes_at_once: Count, "OPENORCH_HASHES_AT_ONCE", "half of the cores";
    "Longest time that a sign-in or registration waits for its password to be hashed"
    password_hash_max_wait: Span, "OPENORCH_PASSWORD_HASH_MAX_WAIT", "10s";
    "Networks that instances may be in: CIDRs, and the words loopback, private and public"
    instance_networks: String, "OPENORCH_INSTANCE_NETWORKS", "loopback,private,public";
    "Networks (CIDRs) whose forwarding headers are believed"
    trusted_proxies: String, "OPENORCH_TRUSTED_PROXIES", "none";
    "How long running requests get when the daemon stops"
    drain: Span, "OPENORCH_DRAIN", "10s";
    "Pause between two probes of an instance"
    probe_interval: Pause, "OPENORCH_PROBE_INTERVAL", "15s";
    "How long a probe may take"
    probe_timeout: Span, "OPENORCH_PROBE_TIMEOUT", "3s";
    "An instance that answers a probe later than this is Degraded"
    probe_slow_after: Span, "OPENORCH_PROBE_SLOW_AFTER", "1s";
    "How long a new registration is probed quickly"
    probe_quick_for: Span, "OPENORCH_PROBE_QUICK_FOR", "15s";
    "First pause of that quick probing; it doubles up to the longest one"
    probe_quick_pause: Pause, "OPENORCH_PROBE_QUICK_PAUSE", "50ms";
    "Longest pause of that quick probing"
    probe_quick_pause_most: Pause, "OPENORCH_PROBE_QUICK_PAUSE_MOST", "250ms";
    "Probes that run side by side"
    probes: Count, "OPENORCH_PROBES", "256";
    "Probes of one account's instances that run side by side"
    probes_per_account: Count, "OPENORCH_PROBES_PER_ACCOUNT", "32";
    "Probes of one account's instances a second beside those of the interval, as after registrations and failures"
    probe_rate_per_account: Count, "OPENORCH_PROBE_RATE_PER_ACCOUNT", "100";
    "Probes of one host a second"
    probe_rate_per_host: Count, "OPENORCH_PROBE_RATE_PER_HOST", "1000";
    "How long a registration waits for its first probe"
    register_wait: Span, "OPENORCH_REGISTER_WAIT", "100ms";
    "Silent intervals after which an instance that announced a heartbeat is removed"
    silent_intervals: Count, "OPENORCH_SILENT_INTERVALS", "3";
    "Pause between two looks at who is silent"
    silence_pause: Pause, "OPENORCH_SILENCE_PAUSE", "1s";
    "Pause between two heartbeats of this node"
    node_interval: Pause, "OPENORCH_NODE_INTERVAL", "15s";
    "Instances that one account may have"
    instances_per_account: Count, "OPENORCH_INSTANCES_PER_ACCOUNT", "1000";
    "How long connecting to an instance may take"
    connect_timeout: Span, "OPENORCH_CONNECT_TIMEOUT", "3s";
    "What a token's text says of its life"
    token_lifetime: Span, "OPENORCH_TOKEN_LIFETIME", "24h";
    "Tokens signed side by side"
    token_signing_concurrency: Count, "OPENORCH_TOKEN_SIGNING_CONCURRENCY", "half of the cores";
    "Sessions of one account; with one more the one idle longest ends"
    sessions_per_account: Count, "OPENORCH_SESSIONS_PER_ACCOUNT", "1000";
    "How long a delegated token lives"
    delegated_lifetime: Span, "OPENORCH_DELEGATED_LIFETIME", "5m";
    "A session ends when it is not used for so long"
    session_idle: Span, "OPENORCH_SESSION_IDLE", "2160h";
    "A session ends after so long, however much it is used"
    session_lifetime: Span, "OPENORCH_SESSION_LIFETIME", "none";
    "How long a service may keep the answer whether a caller has a permission"
    permission_kept: Span, "OPENORCH_PERMISSION_KEPT", "10s";
    "Accounts, sessions, tokens and delegated tokens held in memory, each"
    cache_entries: Count, "OPENORCH_CACHE_ENTRIES", "50000";
    "Memory for roles, permissions, their links and grants of all accounts, in bytes (estimated)"
    access_rule_bytes: Count, "OPENORCH_ACCESS_RULE_BYTES", "134217728";
    "The same of one account that is no admin"
    access_rule_bytes_per_account: Count, "OPENORCH_ACCESS_RULE_BYTES_PER_ACCOUNT", "4194304";
    "Slugs and roles that all grants and permits of an account that is no admin may name together"
    grant_names_per_account: Count, "OPENORCH_GRANT_NAMES_PER_ACCOUNT", "10000";
    "Role assignments that an account which is no admin may have made, those that wait for a contact included"
    role_assignments_per_account: Count, "OPENORCH_ROLE_ASSIGNMENTS_PER_ACCOUNT", "10000";
    "Mail server through which the daemon sends mail (its password: OPENORCH_SMTP_PASSWORD, also _FILE)"
    smtp_host: String, "OPENORCH_SMTP_HOST", "none: no mail is sent";
    "Port of the mail server"
    smtp_port: Port, "OPENORCH_SMTP_PORT", "587, or 465 with tls";
    "How the connection to the mail server is kept private: starttls, tls from the first byte, or none"
    smtp_security: SmtpSecurity, "OPENORCH_SMTP_SECURITY", "starttls, or none to loopback";
    "Account at the mail server"
    smtp_user: String, "OPENORCH_SMTP_USER", "none";
    "Sender of the daemon's mail, such as `Our Platform <platform@example.org>`"
    smtp_from: String, "OPENORCH_SMTP_FROM", "none";
    "How long entries of the audit log are kept"
    audit_retention: Span, "OPENORCH_AUDIT_RETENTION", "8760h";
    "Most entries of the audit log; the oldest are removed first"
    audit_entries: Count, "OPENORCH_AUDIT_ENTRIES", "5000000";
    "How long after a start no session, audit entry or the like ends for its age"
    expiry_grace_after_start: Span, "OPENORCH_EXPIRY_GRACE_AFTER_START", "1h";
    "The same after the clock jumped by more than a day, in time that the daemon runs"
    expiry_grace_after_clock_jump: Span, "OPENORCH_EXPIRY_GRACE_AFTER_CLOCK_JUMP", "168h";
    "Calls that write, a second and account; admins have no limit"
    writes_per_account: Count, "OPENORCH_WRITES_PER_ACCOUNT", "100";
    "Such calls that an account may make at once after a pause"
    writes_burst: Count, "OPENORCH_WRITES_BURST", "2000";
    "Bytes of a request's head"
    head_bytes: Count, "OPENORCH_HEAD_BYTES", "65536";
    "Fields of a request's head"
    head_fields: Count, "OPENORCH_HEAD_FIELDS", "100";
    "Bytes of a request's target"
    target_bytes: Count, "OPENORCH_TARGET_BYTES", "32768";
    "How long a new connection may stay silent"
    first_byte_timeout: Span, "OPENORCH_FIRST_BYTE_TIMEOUT", "15s";
    "How long a request's head may take"
    head_timeout: Span, "OPENORCH_HEAD_TIMEOUT", "15s";
    "The longest silence within the body of a built-in operation's request"
    body_idle_timeout: Span, "OPENORCH_BODY_IDLE_TIMEOUT", "30s";
    "Bytes of the body of a built-in operation's request as sent"
    body_bytes: Count, "OPENORCH_BODY_BYTES", "4194304";
    "Bytes of such a body when unpacked"
    body_unpacked_bytes: Count, "OPENORCH_BODY_UNPACKED_BYTES", "16777216";
    "Bytes of the body of a public operation's request, as sent and decompressed"
    max_public_body_bytes: Count, "OPENORCH_MAX_PUBLIC_BODY_BYTES", "1048576";
    "How many times its size a compressed body may grow, beyond 64 KiB"
    max_decompression_ratio: Count, "OPENORCH_MAX_DECOMPRESSION_RATIO", "100";
    "JSON values in the body of a built-in operation's request"
    max_body_values: Count, "OPENORCH_MAX_BODY_VALUES", "100000";
    "JSON values in the body of a public operation's request"
    max_public_body_values: Count, "OPENORCH_MAX_PUBLIC_BODY_VALUES", "10000";
    "Time for the whole body of a built-in operation's request"
    body_timeout: Span, "OPENORCH_BODY_TIMEOUT", "120s";
    "Minimum average rate of such a body in bytes a second"
    body_min_rate: Count, "OPENORCH_BODY_MIN_RATE", "500";
    "Time from which on that rate counts"
    body_min_rate_grace: Span, "OPENORCH_BODY_MIN_RATE_GRACE", "10s";
    "Bytes that requests to built-in operations in progress may hold in memory, bodies and answers together"
    max_request_memory: Count, "OPENORCH_MAX_REQUEST_MEMORY", "268435456";
    "The part of it that one client address may hold (an IPv6 /64 counts as one), loopback excepted"
    max_request_memory_per_address: Count, "OPENORCH_MAX_REQUEST_MEMORY_PER_ADDRESS", "67108864";
    "How long a request waits for such memory before it is refused"
    request_memory_wait: Span, "OPENORCH_REQUEST_MEMORY_WAIT", "2s";
    "How long a client may be silent in the middle of a body for a service that has not answered yet"
    gateway_read_timeout: Span, "OPENORCH_GATEWAY_READ_TIMEOUT", "5m";
    "Bytes that untaken answers of services may hold in memory (an address: a tenth); beyond it those untaken for longest end"
    max_answer_memory: Count, "OPENORCH_MAX_ANSWER_MEMORY", "1073741824";
    "How deep arrays and objects in such a body may be inside one another, at most 100"
    body_depth: Count, "OPENORCH_BODY_DEPTH", "64";
    "Entries of a list that cannot be asked for in pages"
    list_most: Count, "OPENORCH_LIST_MOST", "50000";
    "How long an instance may let a body wait that was announced with Expect: 100-continue"
    expect_timeout: Span, "OPENORCH_EXPECT_TIMEOUT", "1s";
    "Passages through gateways of ours after which a request is in a circle"
    passages: Count, "OPENORCH_PASSAGES", "5";
    "How long a connection to an instance is kept unused"
    pool_idle: Span, "OPENORCH_POOL_IDLE", "4s";
    "How old a connection to an instance may become"
    pool_age: Span, "OPENORCH_POOL_AGE", "5m";
    "Unused connections kept to each instance"
    pool_size: Count, "OPENORCH_POOL_SIZE", "1024";
    "How long a connection is kept between two requests"
    idle_timeout: Span, "OPENORCH_IDLE_TIMEOUT", "75s";
    "Open connections; at most what half of the limit on open files lets be open"
    connections: Count, "OPENORCH_CONNECTIONS", "20000";
    "Open connections of one client address (an IPv6 /64 counts as one); a trusted proxy may have three quarters of all"
    max_connections_per_address: Count, "OPENORCH_MAX_CONNECTIONS_PER_ADDRESS", "a tenth of OPENORCH_CONNECTIONS";
    "Requests in progress, tunnels included; at most what half of the limit on open files lets be open"
    max_requests: Count, "OPENORCH_MAX_REQUESTS", "20000";
    "Requests in progress of one client address; a trusted proxy may have three quarters of all"
    max_requests_per_address: Count, "OPENORCH_MAX_REQUESTS_PER_ADDRESS", "a tenth of OPENORCH_MAX_REQUESTS";
    "Addresses and networks (CIDRs) without such limits for each address"
    address_limit_exempt: String, "OPENORCH_ADDRESS_LIMIT_EXEMPT", "127.0.0.0/8,::1";
    "Streams of one HTTP/2 connection"
    max_streams_per_connection: Count, "OPENORCH_MAX_STREAMS_PER_CONNECTION", "100";
    "How long a client may leave a piece of a built-in operation's answer untaken"
    write_timeout: Span, "OPENORCH_WRITE_TIMEOUT", "60s";
    "How long a client may leave a piece of a service's answer untaken"
    gateway_write_timeout: Span, "OPENORCH_GATEWAY_WRITE_TIMEOUT", "5m";
    "What is logged: error, warn, info, debug or trace, also for one part alone"
    log: String, "OPENORCH_LOG", "info";
}

/// Everything the daemon runs with.
pub struct Settings {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub secrets: Secrets,
    /// What is odd about the environment, to be logged.
    pub warnings: Vec<String>,
    given: Given,
}

impl Settings {
    /// Adds variables, the config file and the defaults to what flags say. Everything is judged here: a mistake is told
    /// before anything is touched.
    pub fn new(flags: Given, config_file: Option<&Path>) -> Result<Settings, StartError> {
        let config_file = match config_file {
            Some(path) => Some(path.to_owned()),
            None => variable("OPENORCH_CONFIG")?,
        };
        let mut given = flags.or(Given::from_environment()?);
        if let Some(path) = config_file {
            given = given.or(config_file::read(&path)?);
        }
        let data_dir = match &given.data_dir {
            Some(folder) => folder.clone(),
            None => std::env::home_dir().map(|home| home.join(".openorch")).ok_or_else(|| {
                StartError("there is no home folder to keep data in; set OPENORCH_DATA_DIR (--data-dir)".into())
            })?,
        };
        if given.tls_cert.is_some() != given.tls_key.is_some() {
            return Err(StartError("OPENORCH_TLS_CERT and OPENORCH_TLS_KEY go together: set both or none".into()));
        }
        if given.db_driver == Some(Engine::Sqlite) {
            return Err(StartError("OPENORCH_DB_DRIVER: the driver of a database server is postgres".into()));
        }
        let secrets = Secrets::from_environment(&given)?;
        let listen = given.listen.map_or(SocketAddr::from(([127, 0, 0, 1], 58231)), |address| address.0);
        let url = given.url.as_deref();
        let ignored_database = secrets.db_string.is_some() && given.db.is_none();
        let warnings = environment::warnings(VARIABLES, listen, url, ignored_database);
        let settings = Settings { listen, data_dir, secrets, warnings, given };
        settings.outbound()?;
        settings.gateway()?;
        settings.registry(listen)?;
        settings.mailer()?;
        Ok(settings)
    }

    /// Where the daemon's own files are.
    pub fn server_dir(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    /// What sends the daemon's mail.
    pub fn mailer(&self) -> Result<Arc<dyn Mailer>, StartError> {
        let given = &self.given;
        let Some(host) = &given.smtp_host else { return Ok(Arc::new(NoMailer)) };
        let server = SmtpServer {
            host,
            port: given.smtp_port.map(|port| port.0),
            security: given.smtp_security,
            user: given.smtp_user.as_deref(),
            password: self.secrets.smtp_password.as_deref(),
            from: given.smtp_from.as_deref(),
        };
        Ok(Arc::new(SmtpMailer::new(server)?))
    }

    /// Which engine keeps the data.
    pub fn engine(&self) -> Engine {
        self.given.db.unwrap_or_default()
    }

    /// The schema of the database.
    pub fn schema(&self) -> &str {
        self.given.db_schema.as_deref().unwrap_or("openorch")
    }

    /// How the database in the data folder is used.
    pub fn files(&self) -> SqliteOptions {
        let allow_network = self.given.network_file_system == Some(NetworkFileSystem::Allow);
        SqliteOptions { allow_network, ..SqliteOptions::default() }
    }

    /// How the database is used.
    pub fn database(&self, usual: PostgresOptions) -> PostgresOptions {
        let given = &self.given;
        let connections = count(given.db_connections).unwrap_or(usual.write_connections + usual.read_connections);
        let read_connections = (connections / 3).max(1);
        PostgresOptions {
            schema: self.schema().into(),
            read_connections,
            write_connections: connections.saturating_sub(read_connections).max(1),
            connect_patience: span(given.db_patience, usual.connect_patience),
            ..usual
        }
    }

    pub fn user(&self, loopback_only: bool) -> UserSettings {
        let usual = UserSettings::default();
        let given = &self.given;
        // A storm of sign-ins leaves half of the cores to everything else.
        let half_of_cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2);
        let password_rules =
            |loopback_only| PasswordRules::new(loopback_only, count(given.password_min), count(given.password_max));
        UserSettings {
            registration: match given.registration {
                Some(RegistrationChoice(choice)) => choice,
                None if loopback_only => Registration::OnThisMachine,
                None => Registration::Closed,
            },
            password_rules: password_rules(loopback_only),
            network_password_rules: password_rules(false),
            token_lifetime: span(given.token_lifetime, usual.token_lifetime),
            delegated_lifetime: span(given.delegated_lifetime, usual.delegated_lifetime),
            session_idle: span(given.session_idle, usual.session_idle),
            session_lifetime: given.session_lifetime.map(|span| span.0),
            audit_retention: span(given.audit_retention, usual.audit_retention),
            audit_entries: count(given.audit_entries).map_or(usual.audit_entries, |most| most as u64),
            signing_concurrency: count(given.token_signing_concurrency).unwrap_or(half_of_cores),
            sessions_per_account: count(given.sessions_per_account)
                .map_or(usual.sessions_per_account, |most| most as u64),
            permission_kept: span(given.permission_kept, usual.permission_kept),
            cache_entries: count(given.cache_entries).map_or(usual.cache_entries, |entries| entries as u64),
            access_limits: AccessLimits {
                grant_names: count(given.grant_names_per_account).unwrap_or(usual.access_limits.grant_names),
                account_bytes: count(given.access_rule_bytes_per_account).unwrap_or(usual.access_limits.account_bytes),
                total_bytes: count(given.access_rule_bytes).unwrap_or(usual.access_limits.total_bytes),
                role_assignments: count(given.role_assignments_per_account)
                    .map_or(usual.access_limits.role_assignments, |most| most as u64),
            },
            hashes: HashSettings {
                concurrency: count(given.hashes_at_once).unwrap_or(half_of_cores),
                max_wait: span(given.password_hash_max_wait, usual.hashes.max_wait),
            },
        }
    }

    /// `listen`: the address that is really bound.
    pub fn registry(&self, listen: SocketAddr) -> Result<RegistrySettings, StartError> {
        let given = &self.given;
        let node_url = match &given.url {
            Some(url) => {
                let whole = if url.contains("://") { url.clone() } else { format!("http://{url}") };
                let parsed = outbound::InstanceUrl::parse(&whole);
                let wrong = |_| {
                    StartError(format!(
                        "OPENORCH_URL: `{url}` is not the URL of a daemon; write it like http://10.0.0.5:58231"
                    ))
                };
                parsed.map_err(wrong)?.as_str().to_owned()
            }
            None => default_node_url(listen, self.has_tls(), host_name()),
        };
        let usual = RegistrySettings::new(node_url, self.data_dir.clone());
        Ok(RegistrySettings {
            probe_interval: pause(given.probe_interval, usual.probe_interval),
            probe_timeout: span(given.probe_timeout, usual.probe_timeout),
            slow_after: span(given.probe_slow_after, usual.slow_after),
            quick_for: span(given.probe_quick_for, usual.quick_for),
            quick_pause: pause(given.probe_quick_pause, usual.quick_pause),
            quick_pause_most: pause(given.probe_quick_pause_most, usual.quick_pause_most),
            register_wait: span(given.register_wait, usual.register_wait),
            probes_at_once: count(given.probes).unwrap_or(usual.probes_at_once),
            probes_per_account: count(given.probes_per_account).unwrap_or(usual.probes_per_account),
            extra_probes_of_account: probe_rate(given.probe_rate_per_account, usual.extra_probes_of_account),
            probes_of_host: probe_rate(given.probe_rate_per_host, usual.probes_of_host),
            silent_intervals: count(given.silent_intervals).map_or(usual.silent_intervals, |most| most as u32),
            silence_pause: pause(given.silence_pause, usual.silence_pause),
            node_interval: pause(given.node_interval, usual.node_interval),
            instances_per_account: count(given.instances_per_account).unwrap_or(usual.instances_per_account),
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
        let (given, usual) = (&self.given, RouterSettings::default());
        let (pace, memory) = (usual.body_pace, usual.memory);
        RouterSettings {
            body_pace: Pace {
                idle: span(given.body_idle_timeout, pace.idle),
                timeout: span(given.body_timeout, pace.timeout),
                min_rate: count(given.body_min_rate).unwrap_or(pace.min_rate),
                grace: span(given.body_min_rate_grace, pace.grace),
            },
            body_bytes: count(given.body_bytes).unwrap_or(usual.body_bytes),
            body_unpacked_bytes: count(given.body_unpacked_bytes).unwrap_or(usual.body_unpacked_bytes),
            public_body_bytes: count(given.max_public_body_bytes).unwrap_or(usual.public_body_bytes),
            decompression_ratio: count(given.max_decompression_ratio).unwrap_or(usual.decompression_ratio),
            // The reader of stored documents goes 128 deep.
            body_depth: count(given.body_depth).map_or(usual.body_depth, |depth| depth.min(100)),
            body_values: count(given.max_body_values).unwrap_or(usual.body_values),
            public_body_values: count(given.max_public_body_values).unwrap_or(usual.public_body_values),
            memory: BudgetSettings {
                total: count(given.max_request_memory).unwrap_or(memory.total),
                per_address: count(given.max_request_memory_per_address).unwrap_or(memory.per_address),
                wait: span(given.request_memory_wait, memory.wait),
            },
            writes_of_account: rate(given.writes_per_account, given.writes_burst, usual.writes_of_account),
            ..usual
        }
    }

    /// How long nothing ends for its age.
    pub fn ages(&self) -> AgeSettings {
        let usual = AgeSettings::default();
        AgeSettings {
            after_start: span(self.given.expiry_grace_after_start, usual.after_start),
            after_jump: span(self.given.expiry_grace_after_clock_jump, usual.after_jump),
        }
    }

    /// Entries of a list that cannot be asked for in pages.
    pub fn list_most(&self) -> usize {
        count(self.given.list_most).unwrap_or(LIST_MOST)
    }

    /// What is logged, in the syntax of `tracing`'s filters.
    pub fn log(&self) -> &str {
        self.given.log.as_deref().unwrap_or("info")
    }

    /// The files of the certificate and its key, where there is TLS.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        Some((self.given.tls_cert.as_deref()?, self.given.tls_key.as_deref()?))
    }

    /// Whether connections come over TLS, for the address that is shown.
    pub fn has_tls(&self) -> bool {
        self.given.tls_cert.is_some()
    }
}

fn rate(per_second: Option<Count>, burst: Option<Count>, usual: Rate) -> Rate {
    let of = |given: Option<Count>, usual: u32| count(given).map_or(usual, |given| given.min(1_000_000) as u32);
    Rate { per_second: of(per_second, usual.per_second), burst: of(burst, usual.burst) }
}

/// Given a rate, the burst grows or shrinks with it.
fn probe_rate(per_second: Option<Count>, usual: Rate) -> Rate {
    let burst = |Count(given): Count| Count(given.saturating_mul((usual.burst / usual.per_second).max(1) as usize));
    rate(per_second, per_second.map(burst), usual)
}

fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}
