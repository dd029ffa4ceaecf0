//! Selects the storage engine: embedded SQLite in the data directory, or a schema of a PostgreSQL database. Only this
//! file names the engines; everything else uses an `Engine`, or the `Store` that it opens.

use std::sync::Arc;

use openorch_store::{PostgresEngine, PostgresOptions, SqliteEngine, Store};

use crate::{Settings, StartError, settings::Engine};

/// The configured engine.
pub fn from_settings(settings: &Settings) -> Result<Box<dyn openorch_store::Engine>, StartError> {
    Ok(match settings.engine() {
        Engine::Sqlite => Box::new(SqliteEngine { data_dir: settings.server_dir(), options: settings.sqlite() }),
        Engine::Postgres => Box::new(PostgresEngine(postgres_options(settings)?)),
    })
}

/// Opens the configured store.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Store>, StartError> {
    Ok(from_settings(settings)?.open().await?)
}

/// The configured PostgreSQL connection.
fn postgres_options(settings: &Settings) -> Result<PostgresOptions, StartError> {
    let connection = settings.secrets.db_string.clone().ok_or_else(|| {
        StartError(
            "OPENORCH_DB is `postgres`, but OPENORCH_DB_STRING is not set: set it, or \
             OPENORCH_DB_STRING_FILE, to a connection string such as postgres://user:password@host:5432/database"
                .into(),
        )
    })?;
    Ok(settings.postgres(PostgresOptions::new(connection)))
}

/// The location of the data, for messages.
pub fn location(settings: &Settings) -> String {
    match settings.engine() {
        Engine::Sqlite => format!("`{}`", settings.server_dir().display()),
        Engine::Postgres => format!("the schema `{}` of the database", settings.database.schema),
    }
}

/// The hosts of the database server, each as `host:port`.
pub fn hosts(settings: &Settings) -> Result<Vec<String>, StartError> {
    Ok(match settings.engine() {
        Engine::Sqlite => Vec::new(),
        Engine::Postgres => postgres_options(settings)?.hosts()?,
    })
}
