//! The Rust SDK of OpenOrch: a typed client for all operations of the platform, and a kit for services. A service with
//! its own server uses [`service_client`] and [`InstanceRegistration`]; `service::Service` provides everything,
//! including the server.
//!
//! ```no_run
//! use openorch_sdk::{
//!     ClientFactory, Error, FileCredentialStore, InstanceRegistration,
//!     api::{Body, Json, registry::{LIST_NODES, ListNodesRequest}},
//!     service_client,
//! };
//!
//! # async fn example() -> Result<(), Error> {
//! let client = ClientFactory::new("http://127.0.0.1:58231")?.client();
//! let store = FileCredentialStore::new("/var/lib/skeleton-svc", "skeleton-svc");
//! let client = service_client(&client, "skeleton-svc", "Skeleton Svc", store).await?;
//!
//! let instance = InstanceRegistration::new("http://127.0.0.1:9311").register(&client).await?;
//! let Json(answer) = client.call(LIST_NODES, Body(ListNodesRequest::default())).await?;
//! instance.deregister().await
//! # }
//! ```
//!
//! Features: `service` (default) is the service kit on axum; `datastore` stores documents in a file or in PostgreSQL;
//! `testing` starts a daemon for tests. Without features, the crate contains only the client.
#![warn(missing_docs)]

/// Runs the examples of the README as doctests.
#[cfg(all(doctest, feature = "service"))]
#[doc = include_str!("../README.md")]
struct Readme;

mod account;
mod client;
mod credential;
#[cfg(feature = "datastore")]
pub mod datastore;
mod error;
mod events;
mod instance;
pub mod private_file;
mod response;
mod retry;
#[cfg(feature = "service")]
pub mod service;
mod session;
mod settings;
mod target;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;

pub use account::{register_service_account, register_service_account_with_timeout, service_client};
/// The type of request and response bodies.
pub use bytes::Bytes;
pub use client::{Client, ClientFactory};
pub use credential::{Credential, CredentialStore, FileCredentialStore, MemoryCredentialStore};
pub use error::Error;
pub use events::{EventStream, StreamItem};
/// The crate of the header and method types in this API.
pub use http;
pub use instance::{InstanceRegistration, RegisteredInstance};
/// The API contract: the operations and their wire types.
pub use openorch_api as api;
pub use response::{Response, StreamingResponse};
pub use settings::SdkSettings;
pub use target::{path_and_query, server_url};
pub use trace::TraceContext;
