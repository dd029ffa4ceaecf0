//! The traits between the registry, which tracks the health of instances, and the gateway, which routes requests to them.

use std::sync::Arc;

use crate::outbound::InstanceUrl;

/// Whether requests may be routed to an instance (decision "Services without an instance").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// Healthy.
    Eligible,
    /// Degraded by slow responses: used only if the service has no healthy instance.
    Fallback,
    /// Draining, Unknown or Unreachable.
    Ineligible,
}

/// An instance as the gateway's routing table stores it.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The id of the instance.
    pub instance_id: Arc<str>,
    /// Where requests to the instance are sent.
    pub url: Arc<InstanceUrl>,
    /// Whether requests may be routed to it.
    pub eligibility: Eligibility,
}

/// Receives the registry's updates. Implemented by the gateway's routing table.
pub trait Routes: Send + Sync + 'static {
    /// Replaces the backends of `slug`, effective for the next request. With an empty list, requests get 503: all its
    /// instances were removed. A slug that was never published gets 404.
    fn publish(&self, slug: &str, backends: Vec<Backend>);

    /// Removes `slug` from the table: requests get 404 from now on.
    fn forget(&self, slug: &str);

    /// Replaces the whole table, at startup.
    fn load(&self, services: Vec<(Box<str>, Vec<Backend>)>);
}

/// The ids of instances that the gateway could not connect to, for the registry to probe at once. The channel is bounded; a
/// report that is dropped only delays detection until the next regular probe.
pub type UnreachableReports = tokio::sync::mpsc::Sender<Arc<str>>;

/// Called for instances that the gateway could not connect to.
pub trait UnreachableHook: Send + Sync + 'static {
    /// The gateway could not connect to the instance with this id.
    fn unreachable(&self, instance_id: &str);
}
