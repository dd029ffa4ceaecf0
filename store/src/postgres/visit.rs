//! A look at a schema beside whoever holds it: one transaction that reads, all as of one moment.

use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::PostgresOptions;
use super::errors::Failure;
use super::hold;
use super::start::{self, Identity, Schema};
use super::target::Target;
use crate::StoreError;
use crate::sql::quote;

type Outcome<T> = std::result::Result<T, Failure>;

/// A connection to look by.
pub(super) struct Visit<'a> {
    target: Target,
    schema: &'a str,
    client: Client,
}

impl<'a> Visit<'a> {
    /// Connects. A database that is away is waited for.
    pub(super) async fn begin(options: &'a PostgresOptions) -> Outcome<Self> {
        start::check_schema(&options.schema)?;
        let target = Target::parse(&options.connection)?;
        // The other end of it is told when the client is dropped.
        let (client, _) = start::connect(&target, options.connect_patience).await?;
        hold::set_up(&client).await?;
        Ok(Self { target, schema: &options.schema, client })
    }

    /// The transaction, and what the schema says of itself. `NotFound` where there are no data.
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
                "there is no data in the schema `{}` of {}; name the one of a daemon that was started before",
                self.schema, self.target.place
            ))
            .into()),
        }
    }
}
