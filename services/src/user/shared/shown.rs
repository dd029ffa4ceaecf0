//! What an error repeats of what a caller sent.

/// Characters of a caller's text that an error repeats.
const MAX_SHOWN: usize = 256;

/// What an error repeats of a caller's text: not all of a long one, and nothing that steers a terminal.
pub fn shown(text: &str) -> String {
    openorch_api::text::without_hidden(&text.chars().take(MAX_SHOWN).collect::<String>())
}
