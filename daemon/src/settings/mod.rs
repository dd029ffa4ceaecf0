//! Reads the settings, and declares those of the daemon itself. Each section is declared beside the code that uses it;
//! [`all`] lists them.

mod config_file;
mod environment;
mod flags;
mod open_files;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use openorch_chassis::{
    LocalNode,
    events::EventSettings,
    expiry::ExpirySettings,
    mail::Mailer,
    outbound::{InstanceUrl, OutboundSettings},
    router::ApiSettings,
    setting_choice, settings,
    settings::{Address, RawSettings, Secret, Section, Setting, Settings as _},
};
use openorch_gateway::{ForwardSettings, HttpSettings, Tls};
use openorch_services::{
    MODULES,
    registry::default_node_url,
    user::{AuditSettings, UserSettings},
};
use openorch_store::{PostgresOptions, SqliteOptions};

pub use self::{
    environment::nearest,
    flags::{Flags, secrets_help},
    open_files::fit_open_files,
};
use crate::{
    StartError,
    mail::{NoMailer, SmtpMailer},
    secrets::Secrets,
};

settings! {
    /// The daemon itself; its settings are top-level keys of the config file.
    pub struct DaemonSettings in "" {
        /// Address and port to listen on.
        listen: Address = "127.0.0.1:58231";
        /// Directory for the data; the daemon uses its subdirectory `server/`.
        data_dir: Option<PathBuf> = "~/.openorch";
        /// URL under which other nodes and services reach this daemon.
        url: Option<String> = "from the address it listens on";
        /// Certificate chain (PEM) for TLS on the listening port.
        tls_cert: Option<PathBuf> = "no TLS";
        /// Private key (PEM) of that certificate.
        tls_key: Option<PathBuf> = "no TLS";
        /// Log filter: error, warn, info, debug or trace, optionally per module.
        log: String = "info";
        /// Admin password; applied at the first start, and later as long as the default password is unchanged.
        admin_password: Option<Secret> = "changeme";
        /// Key that encrypts secrets in the database.
        encryption_key: Option<Secret> = "made at the first start; needed with PostgreSQL";
    }
}

settings! {
    /// The database: `[db]`.
    pub struct DatabaseSettings in "db" {
        /// Engine that stores the data: sqlite, in the data directory, or postgres, at OPENORCH_DB_STRING.
        engine: Engine = "sqlite", as "OPENORCH_DB";
        /// Driver of the database server; only postgres is supported.
        driver: Engine = "postgres";
        /// Connection string of the database, with its password.
        string: Option<Secret> = "none";
        /// Database schema; the daemon must be its only user.
        schema: String = "openorch";
        /// Maximum database connections; a third of them is for reads.
        max_connections: usize = "24";
        /// How long a start waits for an unreachable database.
        connect_timeout: Duration = "30s";
        /// Whether to refuse or allow a data directory on NFS, SMB or 9p; two machines must never share one.
        network_file_system: NetworkFileSystem = "refuse", as "OPENORCH_NETWORK_FILE_SYSTEM";
    }
}

settings! {
    /// The mail server: `[smtp]`.
    pub struct MailSettings in "smtp" {
        /// Mail server through which the daemon sends mail.
        host: Option<String> = "none: no mail is sent";
        /// Port of the mail server.
        port: Option<u16> = "587, or 465 with tls";
        /// Encryption of the connection to the mail server: starttls, tls from the first byte, or none.
        security: Option<SmtpSecurity> = "starttls, or none to loopback";
        /// Account at the mail server.
        user: Option<String> = "none";
        /// Password of that account.
        password: Option<Secret> = "none";
        /// Sender of the daemon's mail, such as `Our Platform <platform@example.org>`.
        from: Option<String> = "none";
    }
}

/// The engine that stores the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

setting_choice!(Engine { Sqlite = "sqlite", Postgres = "postgres" });

/// What to do with a data directory on a network file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFileSystem {
    Refuse,
    Allow,
}

setting_choice!(NetworkFileSystem { Refuse = "refuse", Allow = "allow" });

/// How the connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// Plain text at first, then TLS (RFC 3207); without TLS no mail is sent.
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Tls,
    None,
}

setting_choice!(SmtpSecurity { StartTls = "starttls", Tls = "tls", None = "none" });

/// Sections of the daemon, its libraries and identity. Those of other services are in their modules.
const OWN_SECTIONS: &[Section] = &[
    DaemonSettings::SECTION,
    DatabaseSettings::SECTION,
    UserSettings::SECTION,
    ForwardSettings::SECTION,
    HttpSettings::SECTION,
    ApiSettings::SECTION,
    EventSettings::SECTION,
    OutboundSettings::SECTION,
    AuditSettings::SECTION,
    ExpirySettings::SECTION,
    MailSettings::SECTION,
];

/// All sections, in the order of `--help`.
fn sections() -> impl Iterator<Item = &'static Section> {
    OWN_SECTIONS.iter().chain(MODULES.iter().flat_map(|module| module.settings))
}

/// Every setting with its section.
pub fn all() -> impl Iterator<Item = (&'static Section, &'static Setting)> {
    sections().flat_map(|section| section.settings.iter().map(move |setting| (section, setting)))
}

/// All settings of the daemon.
pub struct Settings {
    pub daemon: DaemonSettings,
    pub database: DatabaseSettings,
    pub user: UserSettings,
    pub gateway: openorch_gateway::Settings,
    pub api: ApiSettings,
    pub events: EventSettings,
    pub outbound: OutboundSettings,
    pub expiry: ExpirySettings,
    mail: MailSettings,
    /// Raw values, from which services read their sections.
    pub given: Arc<RawSettings>,
    pub data_dir: PathBuf,
    pub secrets: Secrets,
    /// Problems of the environment, to be logged.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Combines flags, variables, the config file and the defaults. Everything is validated here, so that a mistake is
    /// reported before any side effect.
    pub fn new(flags: Flags, config_file: Option<&Path>) -> Result<Settings, StartError> {
        let config_file = match config_file {
            Some(path) => Some(path.to_owned()),
            None => environment::config_file()?,
        };
        let mut given: RawSettings = flags.into();
        environment::read(&mut given)?;
        if let Some(path) = config_file {
            config_file::read(&path, &mut given)?;
        }
        let settings = Settings::read(&given).map_err(StartError)?;
        if settings.daemon.tls_cert.is_some() != settings.daemon.tls_key.is_some() {
            return Err(StartError(
                "OPENORCH_TLS_CERT and OPENORCH_TLS_KEY require each other: set both or neither".into(),
            ));
        }
        if settings.database.driver == Engine::Sqlite {
            return Err(StartError("OPENORCH_DB_DRIVER: the only supported driver is postgres".into()));
        }
        settings.node_place(settings.listen())?;
        settings.tls()?;
        settings.mailer()?;
        Ok(settings)
    }

    fn read(given: &RawSettings) -> Result<Settings, String> {
        let (daemon, database) = (DaemonSettings::read(given)?, DatabaseSettings::read(given)?);
        let mail = MailSettings::read(given)?;
        let data_dir = match &daemon.data_dir {
            Some(directory) => directory.clone(),
            None => std::env::home_dir()
                .map(|home| home.join(".openorch"))
                .ok_or("there is no home directory to store data in; set OPENORCH_DATA_DIR (--data-dir)")?,
        };
        let secrets = Secrets {
            admin_password: daemon.admin_password.clone().map(|secret| secret.0),
            encryption_key: daemon.encryption_key.clone().map(|secret| secret.0),
            db_string: database.string.clone().map(|secret| secret.0),
        };
        let gateway = openorch_gateway::Settings::read(given)?;
        Ok(Settings {
            warnings: environment::warnings(&daemon, &database),
            user: UserSettings::read(given)?,
            gateway,
            api: ApiSettings::read(given)?,
            events: EventSettings::read(given)?,
            outbound: OutboundSettings::read(given)?,
            expiry: ExpirySettings::read(given)?,
            daemon,
            database,
            mail,
            given: Arc::new(given.clone()),
            data_dir,
            secrets,
        })
    }

    /// The address to listen on.
    pub fn listen(&self) -> SocketAddr {
        self.daemon.listen.0
    }

    /// The directory of the daemon's own files.
    pub fn server_dir(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    /// The host of the mail server, and its port if it is configured.
    pub fn mail_server(&self) -> Option<(&str, Option<u16>)> {
        self.mail.host.as_deref().map(|host| (host, self.mail.port))
    }

    /// The mailer of the daemon.
    pub fn mailer(&self) -> Result<Arc<dyn Mailer>, StartError> {
        match &self.mail.host {
            Some(host) => Ok(Arc::new(SmtpMailer::new(host, &self.mail)?)),
            None => Ok(Arc::new(NoMailer)),
        }
    }

    /// The engine that stores the data.
    pub fn engine(&self) -> Engine {
        self.database.engine
    }

    /// Options of the SQLite database.
    pub fn sqlite(&self) -> SqliteOptions {
        let allow_network = self.database.network_file_system == NetworkFileSystem::Allow;
        SqliteOptions { allow_network, ..SqliteOptions::default() }
    }

    /// Options of the PostgreSQL connection.
    pub fn postgres(&self, defaults: PostgresOptions) -> PostgresOptions {
        let connections = self.database.max_connections;
        let read_connections = (connections / 3).max(1);
        PostgresOptions {
            schema: self.database.schema.clone(),
            read_connections,
            write_connections: connections.saturating_sub(read_connections).max(1),
            connect_patience: self.database.connect_timeout,
            ..defaults
        }
    }

    /// URL and data directory of the node that listens on this address.
    pub fn node_place(&self, listen: SocketAddr) -> Result<LocalNode, StartError> {
        let url = match &self.daemon.url {
            Some(url) => {
                let whole = if url.contains("://") { url.clone() } else { format!("http://{url}") };
                // The text before an `@` may be a password.
                let shown = url.rsplit('@').next().unwrap_or_default();
                let wrong = |_| {
                    StartError(format!(
                        "OPENORCH_URL: `{shown}` is not a daemon's URL; use one like http://10.0.0.5:58231, without a \
                         user or password"
                    ))
                };
                InstanceUrl::parse(&whole).map_err(wrong)?.as_str().to_owned()
            }
            None => default_node_url(listen, self.has_tls(), host_name()),
        };
        Ok(LocalNode { url, data_dir: self.data_dir.clone() })
    }

    /// TLS on the listening port, if configured.
    pub fn tls(&self) -> Result<Option<Arc<Tls>>, StartError> {
        let Some((certificate, key)) = self.tls_files() else { return Ok(None) };
        let wrong = |error| StartError(format!("OPENORCH_TLS_CERT and OPENORCH_TLS_KEY: {error}"));
        Ok(Some(Arc::new(Tls::read(certificate, key).map_err(wrong)?)))
    }

    /// The files of the certificate and its key, if configured.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        Some((self.daemon.tls_cert.as_deref()?, self.daemon.tls_key.as_deref()?))
    }

    /// Whether the listening port uses TLS.
    pub fn has_tls(&self) -> bool {
        self.daemon.tls_cert.is_some()
    }
}

fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_default_is_a_value_and_every_variable_is_of_one_setting() {
        Settings::read(&RawSettings::default()).unwrap();
        let variables: Vec<String> = all().map(|(section, setting)| section.variable(setting)).collect();
        assert_eq!(variables.iter().collect::<HashSet<_>>().len(), variables.len());
        for (_, setting) in all() {
            assert!(!setting.help().is_empty() && !setting.default.is_empty(), "{}", setting.name);
        }
    }
}
