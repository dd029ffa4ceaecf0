//! The daemon as a library, so that tests start it inside their own process with a clock that they move.
//! `main.rs` is the program around it.

mod engine;
pub mod keep;
mod live;
mod mail;
mod metered;
pub mod secrets;
mod server_time;
pub mod settings;
mod start;

pub use settings::Settings;
pub use start::{Running, StartError, reset_admin_password, start};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
