//! Error codes: stable identifiers by which programs distinguish errors. Each is declared once, with its status, cause
//! and remedy. Messages may be reworded at any time; codes do not change. The daemon's tests generate `docs/errors.md`
//! from them.

pub mod access;
pub mod gateway;
pub mod platform;
pub mod repeat;
pub mod request;

/// A declared error code.
#[derive(Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// `<service or area>.<snake_case>`: the `code` field of the error response.
    pub id: &'static str,
    /// The HTTP status of every response with this code.
    pub status: u16,
    /// Why it is returned, as a clause: `the slug is taken`.
    pub cause: &'static str,
    /// What the caller should do, as a clause: `choose another`.
    pub remedy: &'static str,
}

/// Declares the error codes of a service or an area, and the list `ERRORS`.
///
/// ```text
/// errors! {
///     URL_TAKEN 403 "registry.url_taken" "the URL belongs to another account"
///         "remove the other instance first, or listen elsewhere";
/// }
/// ```
#[macro_export]
macro_rules! errors {
    ($($name:ident $status:literal $id:literal $cause:literal $remedy:literal;)*) => {
        $(
            #[doc = $cause]
            pub static $name: $crate::ErrorCode =
                $crate::ErrorCode { id: $id, status: $status, cause: $cause, remedy: $remedy };
        )*
        /// All of these codes, in declaration order.
        pub static ERRORS: &[&$crate::ErrorCode] = &[$(&$name),*];
    };
}
