//! The daemon as a library, so that tests start it in their own process with a manual clock. `main.rs` is the program.

mod engine;
mod mail;
pub mod maintenance;
mod online_backup;
mod own_addresses;
pub mod secrets;
mod server_time;
pub mod settings;
mod start;
mod store_metrics;

pub use settings::Settings;
pub use start::{Running, StartError, reset_admin_password, start};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
