//! A read-only snapshot of a schema, with or without a running daemon: one transaction.

use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::PostgresOptions;
use super::errors::Failure;
use super::hold;
use super::start::{self, Identity, Schema};
use super::target::Target;
use crate::StoreError;
use crate::sql::quote;

type Outcome<T> = std::result::Result<T, Failure>;

/// A connection for snapshots.
pub(super) struct Visit<'a> {
    target: Target,
    schema: &'a str,
    client: Client,
}

impl<'a> Visit<'a> {
    /// Connects. Waits for an unreachable database.
    pub(super) async fn begin(options: &'a PostgresOptions) -> Outcome<Self> {
        start::check_schema(&options.schema)?;
        let target = Target::parse(&options.connection)?;
        // The connection task ends when the client is dropped.
        let (client, _) = start::connect(&target, options.connect_patience).await?;
        hold::set_up(&client).await?;
        Ok(Self { target, schema: &options.schema, client })
    }

    /// Starts the transaction and reads the identity of the schema. `NotFound` if there is no data.
    pub(super) async fn look(&mut self) -> Outcome<(Transaction<'_>, Identity)> {
        let schema = Schema { target: &self.target, name: self.schema };
        let transaction =
            self.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let transaction = transaction.start().await?;
        transaction.batch_execute(&format!("SET LOCAL search_path = {}", quote(self.schema))).await?;
        let identity = match schema.is_there(transaction.client()).await? {
            true => schema.identity(transaction.client()).await?,
            false => None,
        };
        match identity.filter(|identity| identity.seeded) {
            Some(identity) => Ok((transaction, identity)),
            None => Err(StoreError::NotFound(format!(
                "there is no data in the schema `{}` of {}; pass the schema of a daemon that has been started",
                self.schema, self.target.place
            ))
            .into()),
        }
    }
}
