//! Where the data is: the embedded SQLite in the data folder, or a schema of a PostgreSQL database. This is
//! the place that names the engines; everything else sees an `Engine`, or the `Store` that it opens.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use openorch_store::{PostgresEngine, PostgresOptions, SqliteEngine, Store};

use crate::{Settings, StartError, settings::Engine};

/// How long looking up the names of the database's hosts may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// The engine for the data that the settings name.
pub fn of(settings: &Settings) -> Result<Box<dyn openorch_store::Engine>, StartError> {
    Ok(match settings.engine() {
        Engine::Sqlite => Box::new(SqliteEngine { folder: settings.server_dir(), options: settings.sqlite() }),
        Engine::Postgres => Box::new(PostgresEngine(postgres(settings)?)),
    })
}

/// Opens the store that the settings name.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Store>, StartError> {
    Ok(of(settings)?.open().await?)
}

/// The schema that the settings name.
fn postgres(settings: &Settings) -> Result<PostgresOptions, StartError> {
    let connection = settings.secrets.db_string.clone().ok_or_else(|| {
        StartError(
            "OPENORCH_DB is `postgres`, and OPENORCH_DB_STRING does not say where the database is: set it, or \
             OPENORCH_DB_STRING_FILE, to something like postgres://user:password@host:5432/database"
                .into(),
        )
    })?;
    Ok(settings.postgres(PostgresOptions::new(connection)))
}

/// Where the data is, for people.
pub fn place(settings: &Settings) -> String {
    match settings.engine() {
        Engine::Sqlite => format!("`{}`", settings.server_dir().display()),
        Engine::Postgres => format!("the schema `{}` of the database", settings.database.schema),
    }
}

/// The addresses of the database's server: what users name must not lead there (decision "Instance addresses").
pub async fn addresses(settings: &Settings) -> Result<Vec<SocketAddr>, StartError> {
    let mut found = Vec::new();
    if settings.engine() == Engine::Postgres {
        for host in postgres(settings)?.hosts()? {
            match tokio::time::timeout(LOOKUP, tokio::net::lookup_host(&host)).await {
                Ok(Ok(addresses)) => found.extend(addresses),
                _ => tracing::warn!("the database's host could not be looked up to keep services from its address"),
            }
        }
    }
    Ok(found)
}
