//! The SDK as programs use it, over real connections: against a server of a few lines that answers whatever a test wants
//! (`stub.rs`), and against the daemon.

mod account;
mod client;
mod daemon;
mod datastore;
mod examples;
mod kit;
mod stub;
mod tokens;
