//! What callers send: that lists and texts are not longer than anybody means, and what an error repeats of them.

use openorch_chassis::{Error, Result};

/// Characters of a caller's text that an error repeats.
const MAX_SHOWN: usize = 256;

/// What an error repeats of a caller's text: not all of a long one, and nothing that steers a terminal.
pub fn shown(text: &str) -> String {
    openorch_api::text::without_hidden(&text.chars().take(MAX_SHOWN).collect::<String>())
}

/// A text that people read: of one line, and not long.
pub fn check_text(what: &str, text: &str, limit: usize) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    openorch_api::input::check_name(what, text, limit).map_err(|error| Error::invalid(error.0))
}

/// Refuses lists that nobody means.
pub fn check_count(what: &str, count: usize, most: usize) -> Result<()> {
    if count > most {
        return Err(Error::invalid(format!("there are {count} {what}; at most {most} are taken in one request")));
    }
    Ok(())
}
