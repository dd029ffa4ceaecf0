//! The Rust SDK of OpenOrch: a client typed by the table of operations, and what a service needs to live on the platform.
//! A service with a server of its own begins with [`service_client`] and [`InstanceRegistration`]; one without has all of
//! it from `service::Service`.
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
//! Features: `service` (default) is the service kit on axum; `datastore` keeps documents in a file or in PostgreSQL;
//! `testing` starts a daemon for a test. Without features it is the client alone.
#![warn(missing_docs)]

/// The README is tested like any example.
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

pub use account::{register_service_account, register_service_account_within, service_client};
pub use client::{Client, ClientFactory};
pub use credential::{Credential, CredentialStore, FileCredentialStore, MemoryCredentialStore};
pub use error::Error;
pub use events::{EventStream, StreamItem};
pub use instance::{InstanceRegistration, RegisteredInstance};
pub use response::{OpenResponse, Response};
pub use settings::SdkSettings;
pub use target::{path_and_query, server_url};
pub use trace::TraceContext;

/// What bodies are made of.
pub use bytes::Bytes;
/// The types of headers and methods that this crate's functions take.
pub use http;
/// The contract: the tables of operations and their wire types.
pub use openorch_api as api;
