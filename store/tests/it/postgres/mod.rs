//! Tests of PostgreSQL alone: a server that is unreachable, stopped or killed, a network in between, and other users.

mod backup;
mod connection_loss;
mod open;
mod pooler;
mod schema_lock;
mod server;
mod tls;

use std::sync::Arc;

use openorch_store::{PostgresOptions, PostgresStore, Result, Store};
use openorch_test_support::{WAIT_TIMEOUT, eventually_some};
pub use server::Server;

use crate::{
    PLAIN, THINGS,
    suite::{Schema, database, skip},
};

/// A store with the collections of the tests.
async fn opened(options: PostgresOptions) -> Arc<dyn Store> {
    let store = PostgresStore::open(options).await.unwrap();
    store.open_collections(&[THINGS, PLAIN]).await.unwrap();
    store
}

/// The error of a refused opening, which must not contain the password.
async fn refused(options: PostgresOptions) -> openorch_store::StoreError {
    let password = options.connection.split(':').nth(2).and_then(|rest| rest.split('@').next()).map(str::to_owned);
    let error = PostgresStore::open(options).await.err().expect("should have been refused");
    if let Some(password) = password.filter(|password| password.len() > 4) {
        assert!(!error.sentence().contains(&password), "no password is shown: {error}");
    }
    error
}

/// The connection string with one more option.
pub fn with_option(connection: &str, option: &str) -> String {
    format!("{connection}{}{option}", if connection.contains('?') { '&' } else { '?' })
}

/// Retries `ask` until it returns a value.
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_some(WAIT_TIMEOUT, what, ask).await
}

/// Retries a write until the store is writable again.
async fn commit_once_possible(store: &Arc<dyn Store>, batch: openorch_store::Batch) {
    until("a write", async || match store.commit(batch.clone()).await {
        Ok(_) => Some(()),
        Err(openorch_store::StoreError::Unavailable(text)) if !text.contains("not known") => None,
        Err(other) => panic!("{other:?}"),
    })
    .await;
}

/// The server sessions of an application that match a condition.
async fn sessions(schema: &Schema, application: &str, what: &str) -> Vec<i32> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE application_name = '{application}' AND ({what})");
    schema.ask(&sql).await.into_iter().map(|row| row[0].parse().unwrap()).collect()
}

/// Terminates sessions as an operator would.
async fn terminate(schema: &Schema, sessions: &[i32]) {
    for session in sessions {
        schema.ask(&format!("SELECT pg_terminate_backend({session})")).await;
    }
}

/// Opens without returning the store, for tests of refused openings.
async fn try_open(options: PostgresOptions) -> Result<()> {
    PostgresStore::open(options).await.map(drop)
}
