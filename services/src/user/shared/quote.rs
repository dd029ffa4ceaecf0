//! Quoting the caller's input in errors.

/// Maximum number of characters quoted.
const MAX_QUOTED: usize = 256;

/// A quotation of the caller's input for an error: shortened, and without control characters.
pub fn quote(text: &str) -> String {
    openorch_api::text::without_hidden(&text.chars().take(MAX_QUOTED).collect::<String>())
}
