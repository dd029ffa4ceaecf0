//! The framework of the built-in services: errors, traits between components, and the router over the table of operations.

#![warn(missing_docs)]

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
};

pub mod audit;
pub mod body;
pub mod body_reader;
pub mod budget;
pub mod client_body;
pub mod clock;
pub mod encryption;
pub mod error;
pub mod events;
pub mod expiry;
pub mod fair_semaphore;
pub mod forwarded;
pub mod headers;
pub mod idempotency;
pub mod identity;
pub mod ids;
pub mod in_flight;
pub mod local;
pub mod log_limit;
pub mod mail;
pub mod metrics;
pub mod monitor;
pub mod outbound;
pub mod platform;
pub mod rate_limit;
pub mod response;
pub mod router;
pub mod routes;
pub mod service;
pub mod settings;

pub use audit::Audit;
pub use body::{Body, EncodedBody};
pub use budget::MemoryBudget;
pub use client_body::ClientBody;
pub use error::{Error, Result};
pub use identity::{Caller, Credential, ForwardedAuth, Identity};
pub use log_limit::LogLimit;
pub use monitor::RequestMonitor;
/// Error codes and request events for the gateway, which depends on the contract through this crate only.
pub use openorch_api::{ErrorCode, error as codes, platform::RequestSeen};
pub use platform::{LocalNode, Module, Platform};
pub use service::{BuiltService, Cx, ServiceBuilder};

/// A boxed, sendable future: the return type of asynchronous methods of trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The connection a request came on.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address and port of the peer: a client or a proxy.
    pub address: SocketAddr,
    /// Whether the connection is encrypted with TLS.
    pub tls: bool,
}

/// What the router records about a request for the access log and the request monitor. A request extension, set if either
/// of them is active.
#[derive(Debug, Default)]
pub struct CallInfo {
    /// The id of the called operation.
    pub operation: OnceLock<&'static str>,
    /// The slug of the built-in service that serves the operation.
    pub service: OnceLock<&'static str>,
    /// The slug of the calling account.
    pub caller: OnceLock<Arc<str>>,
}

/// All built-in paths behind one handler, so that the gateway's listener does not depend on the services.
pub trait Builtin: Send + Sync + 'static {
    /// Whether the (decoded) first path segment belongs to the daemon. Such a path is never forwarded to an upstream.
    fn owns(&self, first_segment: &str) -> bool;

    /// Handles a request; errors become responses. The request carries the client's address as the extension
    /// [`forwarded::ClientAddress`].
    fn call(&self, request: http::Request<ClientBody>, peer: Arc<Peer>) -> BoxFuture<'static, http::Response<Body>>;

    /// Shutdown begins: ends event streams, which would otherwise never end.
    fn drain(&self);
}
