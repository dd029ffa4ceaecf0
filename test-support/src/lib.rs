//! Shared by the tests of several crates: waiting for conditions, the daemon as a process and inside the test process,
//! misbehaving servers, and a platform for services. Only a dev-dependency. The script `run` in this directory gives
//! each test its time limit.
//!
//! Unit tests of a crate that this one depends on must not exchange that crate's types with it: cargo compiles such a
//! crate twice, once for this one and once with its tests, and the two sets of types differ. Tests in `tests/` may.

#[cfg(feature = "wire")]
pub mod wire;

#[cfg(feature = "daemon")]
pub mod answer;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "platform")]
pub mod indeterminate_store;
#[cfg(feature = "platform")]
pub mod platform;

mod eventually;
mod gate;
pub mod process;
pub mod stub;

pub use eventually::{WAIT_TIMEOUT, eventually, eventually_some, eventually_sync, within};
pub use gate::{Gate, GateOpener, gate};

/// A local address without a listener: it was free a moment ago.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("no free port");
    listener.local_addr().expect("a listener has an address")
}
