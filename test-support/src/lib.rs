//! What the tests of several crates share: waiting for what must come true, the daemon as a process and inside the process
//! of a test, servers that misbehave, and what services are mounted on. A dev-dependency alone; `run`, beside this folder,
//! gives each test its limit in time.
//!
//! Unit tests of a crate that this one is built on must not exchange that crate's types with it: cargo compiles such a
//! crate twice then, once for this one and once with its tests, and the types of the two differ. Tests in `tests/` may.

#[cfg(feature = "wire")]
pub mod wire;

#[cfg(feature = "daemon")]
pub mod answer;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "platform")]
pub mod platform;
#[cfg(feature = "platform")]
pub mod unsure;

mod eventually;
mod hold;
pub mod process;
pub mod stub;

pub use eventually::{PATIENCE, eventually, eventually_some, eventually_sync, within};
pub use hold::{Held, Hold, hold};

/// An address of this machine at which nobody listens: it was free a moment ago.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("what listens has an address")
}
