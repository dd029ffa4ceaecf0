//! What only PostgreSQL has: a server that may be away, stop or be killed, a network in between, and other users.

mod backup;
mod hold;
mod lost;
mod pooler;
mod server;
mod start;
mod tls;

use std::sync::Arc;

use openorch_store::{PostgresOptions, PostgresStore, Result, Store};
use openorch_test_support::{PATIENCE, eventually_some};

use crate::suite::{Schema, database, skip};
use crate::{PLAIN, THINGS};

pub use server::Server;

/// A schema with a store in it, and the collections of the tests.
async fn opened(options: PostgresOptions) -> Arc<dyn Store> {
    let store = PostgresStore::open(options).await.unwrap();
    store.open_collections(&[THINGS, PLAIN]).await.unwrap();
    store
}

/// The text of what an opening is refused with.
async fn refused(options: PostgresOptions) -> openorch_store::StoreError {
    let password = options.connection.split(':').nth(2).and_then(|rest| rest.split('@').next()).map(str::to_owned);
    let error = PostgresStore::open(options).await.err().expect("should have been refused");
    if let Some(password) = password.filter(|password| password.len() > 4) {
        assert!(!error.sentence().contains(&password), "no password is shown: {error}");
    }
    error
}

/// The same connection string with one more option.
pub fn with_option(connection: &str, option: &str) -> String {
    format!("{connection}{}{option}", if connection.contains('?') { '&' } else { '?' })
}

/// Asks again until it is so.
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_some(PATIENCE, what, ask).await
}

/// Writes once it can be written again.
async fn commit_once_possible(store: &Arc<dyn Store>, batch: openorch_store::Batch) {
    until("a write", async || match store.commit(batch.clone()).await {
        Ok(_) => Some(()),
        Err(openorch_store::StoreError::Unavailable(text)) if !text.contains("not known") => None,
        Err(other) => panic!("{other:?}"),
    })
    .await;
}

/// What sessions of an application do at the server.
async fn sessions(schema: &Schema, application: &str, what: &str) -> Vec<i32> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE application_name = '{application}' AND ({what})");
    schema.ask(&sql).await.into_iter().map(|row| row[0].parse().unwrap()).collect()
}

/// Ends sessions as an operator would.
async fn terminate(schema: &Schema, sessions: &[i32]) {
    for session in sessions {
        schema.ask(&format!("SELECT pg_terminate_backend({session})")).await;
    }
}

/// Opens, as a result without the store, for tests of what is refused.
async fn try_open(options: PostgresOptions) -> Result<()> {
    PostgresStore::open(options).await.map(drop)
}
