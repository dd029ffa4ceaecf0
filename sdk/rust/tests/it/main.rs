//! The SDK as programs use it, over real connections: against a server of a few lines that answers whatever a test wants
//! (the stub of `openorch_test_support`), and against the daemon.

mod account;
mod client;
mod daemon;
mod datastore;
mod events;
mod examples;
mod kit;
mod tokens;

use openorch_test_support::{PATIENCE, eventually};

/// Waits until it holds.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually(PATIENCE, what, condition).await;
}
