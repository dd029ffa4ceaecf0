//! The seam between who knows which instances are alive (the registry) and who sends requests to them (the gateway).

use std::sync::Arc;

use crate::outbound::InstanceUrl;

/// Whether requests may be sent to an instance (decision "Services without an instance").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routable {
    /// Healthy.
    Yes,
    /// Degraded because slow: used when the service has no Healthy instance.
    IfNoBetter,
    /// Draining, Unknown or Unreachable.
    No,
}

/// One instance as the gateway needs it.
#[derive(Clone, Debug)]
pub struct Backend {
    pub instance_id: Arc<str>,
    pub url: Arc<InstanceUrl>,
    pub routable: Routable,
}

/// Where the registry tells what it knows. Implemented by the gateway's routing table.
pub trait Routes: Send + Sync + 'static {
    /// Replaces all that is known of `slug`. An empty list means: it had instances once, all are removed (503);
    /// a slug never published is 404. Takes effect for the next request.
    fn publish(&self, slug: &str, backends: Vec<Backend>);

    /// Nothing is known of `slug` any more: 404, as if nothing was ever registered under it.
    fn forget(&self, slug: &str);

    /// Replaces the whole table, at start.
    fn load(&self, services: Vec<(Box<str>, Vec<Backend>)>);
}

/// Instances to which the gateway could not connect, for the registry to probe at once. Bounded: a full channel
/// loses nothing but speed, since the regular probe finds them too.
pub type Suspects = tokio::sync::mpsc::Sender<Arc<str>>;

/// Told of instances that the gateway could not connect to.
pub trait UnreachableHook: Send + Sync + 'static {
    fn unreachable(&self, instance_id: &str);
}
