//! Error codes: programs tell refusals apart by them. Each is declared once, with its status, cause and remedy. Sentences
//! may be reworded at any time; codes stay. The daemon's tests fold them into `docs/errors.md`.

pub mod access;
pub mod gateway;
pub mod platform;
pub mod repeat;
pub mod request;

/// A refusal as programs know it.
#[derive(Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// `<service or area>.<snake_case>`: the `code` of the answer.
    pub id: &'static str,
    /// The HTTP status that it always comes with.
    pub status: u16,
    /// When it comes, as a clause: `the slug is taken`.
    pub cause: &'static str,
    /// What to do then, as a clause: `choose another`.
    pub remedy: &'static str,
}

/// Declares the codes of a service or an area and the list of them.
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
        /// All of these codes, in the order of their declaration.
        pub static ERRORS: &[&$crate::ErrorCode] = &[$(&$name),*];
    };
}
