//! The data plane: takes connections, hands built-in paths to the daemon's own services and everything else to the
//! instances behind the gateway. Knows no storage; who is alive it is told through [`Table`].
//!
//! Start reading at [`Server`] (connections), then `service` (what a request is), then `forward` (the proxy).

mod balance;
mod body;
mod clients;
mod connection;
mod exchange;
mod forward;
mod guard;
mod headers;
mod life;
mod metrics;
mod pool;
mod refusal;
mod request_log;
mod room;
mod server;
mod service;
mod settings;
mod table;
mod target;
mod tls;
mod tunnel;
mod untaken;

use std::sync::{Arc, atomic::AtomicBool};

use openorch_chassis::{Builtin, Identity, RequestMonitor, outbound::Outbound, routes::Suspects};

pub use metrics::Metrics;
pub use request_log::RequestLog;
pub use server::Server;
pub use settings::{ForwardSettings, HttpSettings, Settings};
pub use table::Table;
pub use tls::Tls;

/// What the gateway is wired to.
pub struct Gateway {
    pub table: Arc<Table>,
    pub identity: Arc<dyn Identity>,
    pub builtin: Arc<dyn Builtin>,
    pub outbound: Arc<Outbound>,
    /// Told of instances that could not be connected to.
    pub suspects: Suspects,
    /// While true, only loopback is served (decision "Restricted mode").
    pub loopback_only: Arc<AtomicBool>,
    /// How that ends, for whoever is refused meanwhile.
    pub way_out: String,
    pub metrics: Arc<Metrics>,
    pub log: RequestLog,
    /// Told of each request while somebody follows.
    pub monitor: Arc<RequestMonitor>,
    /// TLS on the listening port; its files may be read again.
    pub tls: Option<Arc<Tls>>,
    pub settings: Settings,
}
