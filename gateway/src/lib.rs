//! The data plane: accepts connections, dispatches built-in paths to the built-in services and proxies all other requests to
//! instances. Does not depend on storage: the registry publishes the instances through [`RoutingTable`].
//!
//! Start reading at [`Server`] (connections), then `dispatch` (requests), then `forward` (the proxy).

mod balance;
mod body;
mod client_limits;
mod conn_tracker;
mod connection;
mod connection_limit;
mod dispatch;
mod exchange;
mod forward;
mod guard;
mod headers;
mod metrics;
mod pool;
mod refusal;
mod request_log;
mod response_budget;
mod routing_table;
mod server;
mod settings;
mod target;
mod tls;
mod tunnel;

use std::sync::{Arc, atomic::AtomicBool};

pub use metrics::Metrics;
use openorch_chassis::{Builtin, Identity, RequestMonitor, outbound::Outbound, routes::UnreachableReports};
pub use request_log::RequestLog;
pub use routing_table::RoutingTable;
pub use server::Server;
pub use settings::{ForwardSettings, HttpSettings, Settings};
pub use tls::Tls;

/// The gateway's dependencies and configuration.
pub struct Gateway {
    pub table: Arc<RoutingTable>,
    pub identity: Arc<dyn Identity>,
    pub builtin: Arc<dyn Builtin>,
    pub outbound: Arc<Outbound>,
    /// Reports instances that could not be connected to.
    pub unreachable_reports: UnreachableReports,
    /// While true, only local requests are served (decision "Restricted mode").
    pub loopback_only: Arc<AtomicBool>,
    /// How to end that restriction, for error messages.
    pub remedy: String,
    pub metrics: Arc<Metrics>,
    pub log: RequestLog,
    /// Publishes completed requests to subscribers.
    pub monitor: Arc<RequestMonitor>,
    /// TLS on the listening port; its certificate can be reloaded.
    pub tls: Option<Arc<Tls>>,
    pub settings: Settings,
}
