//! Integration tests of the SDK over real connections, against a stub server with scripted responses
//! (`openorch_test_support::stub`) and against the daemon.

mod account;
mod client;
mod daemon;
mod datastore;
mod events;
mod examples;
mod service;
mod tokens;

use openorch_test_support::{WAIT_TIMEOUT, eventually};

/// Waits until the condition holds.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually(WAIT_TIMEOUT, what, condition).await;
}
