//! Integration tests of the SDK over real connections, against a stub server with scripted responses
//! (`openorch_test_support::stub`) and against the daemon.

mod account;
mod client;
mod daemon;
mod datastore;
mod events;
mod examples;
mod kit;
mod tokens;

use openorch_test_support::{PATIENCE, eventually};

/// Waits until the condition holds.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually(PATIENCE, what, condition).await;
}
