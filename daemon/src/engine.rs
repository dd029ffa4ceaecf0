//! Where the data is: the embedded SQLite in the data folder, or a schema of a PostgreSQL database. This and
//! `keep.rs` are the places that name the engines; everything above sees a `Store`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use openorch_store::{PostgresOptions, PostgresStore, SqliteStore, Store};

use crate::{Settings, StartError, settings::Engine};

/// How long looking up the names of the database's hosts may take.
const LOOKUP: Duration = Duration::from_secs(5);

/// Opens the store that the settings name.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Store>, StartError> {
    match settings.engine() {
        Engine::Sqlite => {
            let (folder, options) = (settings.server_dir(), settings.sqlite());
            let opening = tokio::task::spawn_blocking(move || SqliteStore::open(folder, options)).await;
            Ok(opening.map_err(|error| StartError(format!("the store could not be opened: {error}")))??)
        }
        Engine::Postgres => Ok(PostgresStore::open(postgres(settings)?).await?),
    }
}

/// The schema that the settings name.
pub fn postgres(settings: &Settings) -> Result<PostgresOptions, StartError> {
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

/// The addresses of the database's server: what users name must not lead there (contract decision 15).
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
