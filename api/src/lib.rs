//! The API contract: wire types, permissions and the table of operations of each service, and what is derived from the
//! table without I/O (decoding, input validation, the OpenAPI document). Depends on no other crate of this workspace and
//! on no web framework.

#![warn(missing_docs)]

pub mod audit;
pub mod error;
pub mod events;
pub mod form;
pub mod header;
pub mod input;
pub mod input_keys;
pub mod json;
pub mod op;
pub mod openapi;
pub mod output;
pub mod platform;
pub mod policy;
pub mod query;
pub mod registry;
mod schema_validator;
pub mod slug;
mod strict;
pub mod text;
pub mod time;
pub mod user;

pub use error::ErrorCode;
pub use events::Events;
pub use input::{Body, Input, InvalidInput, Path, Query, RequestParts};
pub use input_keys::InputKeys;
pub use op::{
    Access, Condition, Effect, Exempt, Idempotency, Method, Op, Operation, Permission, PermissionRequirement,
};
pub use output::{Created, Download, Html, Json, NoContent, Output, PrometheusText, SharedDocument, SharedJson};
pub use schema_validator::SchemaValidator;
pub use slug::Slug;
pub use time::Time;

/// The contract of a built-in service.
pub struct Service {
    /// The first segment of its paths and the slug of its account.
    pub slug: &'static str,
    /// The display name of its account, for example `Registry Svc`.
    pub name: &'static str,
    /// Its operations, in the order of the document.
    pub operations: &'static [&'static Operation],
    /// The permissions that it declares, which are seeded when the daemon first starts.
    pub permissions: &'static [&'static Permission],
    /// The error codes that this service declares.
    pub errors: &'static [&'static ErrorCode],
}

/// Every built-in service, in the order of the document.
pub static SERVICES: &[&Service] = &[&platform::SERVICE, &user::SERVICE, &registry::SERVICE, &policy::SERVICE];

/// Every operation of every service.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    SERVICES.iter().flat_map(|service| service.operations.iter().copied())
}

/// Every permission of every service.
pub fn permissions() -> impl Iterator<Item = &'static Permission> {
    SERVICES.iter().flat_map(|service| service.permissions.iter().copied())
}

/// Every error code that the daemon may return, in the order of the document.
pub fn errors() -> impl Iterator<Item = &'static ErrorCode> {
    let common = [
        error::request::ERRORS,
        error::access::ERRORS,
        error::repeat::ERRORS,
        error::platform::ERRORS,
        error::gateway::ERRORS,
    ];
    common.into_iter().chain(SERVICES.iter().map(|service| service.errors)).flatten().copied()
}

/// The built-in roles. Roles do not inherit: the admin account has only `ADMIN`.
pub mod role {
    /// Administrators of the platform.
    pub const ADMIN: &str = "user-svc:admin";
    /// Every registered account.
    pub const USER: &str = "user-svc:user";
}
