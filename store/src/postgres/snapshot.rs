//! A read-only snapshot of a schema, with or without a running daemon: one transaction.

use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::{
    PostgresOptions,
    connection_string::ConnectOptions,
    errors::PgError,
    open::{self, DatabaseInfo, Schema},
    schema_lock,
};
use crate::{StoreError, sql::quote};

type Outcome<T> = std::result::Result<T, PgError>;

/// A connection for snapshots.
pub(super) struct Snapshot<'a> {
    target: ConnectOptions,
    schema: &'a str,
    client: Client,
}

impl<'a> Snapshot<'a> {
    /// Connects. Waits for an unreachable database.
    pub(super) async fn connect(options: &'a PostgresOptions) -> Outcome<Self> {
        open::check_schema(&options.schema)?;
        let target = ConnectOptions::parse(&options.connection)?;
        // The connection task ends when the client is dropped.
        let (client, _) = open::connect(&target, options.connect_patience).await?;
        schema_lock::set_up_session(&client).await?;
        Ok(Self { target, schema: &options.schema, client })
    }

    /// Starts the transaction and reads the identity of the schema. `NotFound` if there is no data.
    pub(super) async fn begin_transaction(&mut self) -> Outcome<(Transaction<'_>, DatabaseInfo)> {
        let schema = Schema { target: &self.target, name: self.schema };
        let transaction =
            self.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let transaction = transaction.start().await?;
        transaction.batch_execute(&format!("SET LOCAL search_path = {}", quote(self.schema))).await?;
        let identity = match schema.exists(transaction.client()).await? {
            true => schema.read_info(transaction.client()).await?,
            false => None,
        };
        match identity.filter(|identity| identity.seeded) {
            Some(identity) => Ok((transaction, identity)),
            None => Err(StoreError::NotFound(format!(
                "there is no data in the schema `{}` of {}; pass the schema of a daemon that has been started",
                self.schema, self.target.display_name
            ))
            .into()),
        }
    }
}
