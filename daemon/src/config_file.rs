//! The config file (TOML): settings under the names of their flags, and secrets.

use std::path::Path;

use crate::{
    StartError, environment,
    secrets::read_within,
    settings::{Given, KEYS},
};

const MAX_BYTES: u64 = 1 << 20;

/// Reads the file; a mistake in it names the place, the key and the nearest one.
pub fn read(path: &Path) -> Result<Given, StartError> {
    let text = read_within(path, MAX_BYTES)
        .map_err(|error| StartError(format!("the config file {} cannot be read: {error}", path.display())))?;
    // The parser's message may show a value, which may be a secret: of a line with one, only the place is told.
    toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let number = text[..at].matches('\n').count();
        let line = text.lines().nth(number).unwrap_or_default();
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        let reason = if SECRET_KEYS.iter().any(|key| line.contains(key)) {
            "a secret is text in quotes".to_owned()
        } else if error.message().starts_with("unknown field") {
            let known = KEYS.iter().map(|name| name.replace('_', "-"));
            let known: Vec<String> = known.chain(SECRET_KEYS.iter().map(|key| (*key).to_owned())).collect();
            match environment::nearest(key, known.iter().map(String::as_str)) {
                Some(nearest) => format!("there is no setting of this name; did you mean `{nearest}`?"),
                None => "there is no setting of this name; `openorch --help` lists them".into(),
            }
        } else {
            error.message().to_owned()
        };
        let key = if key.is_empty() { String::new() } else { format!(", `{key}`") };
        StartError(format!("the config file {} has a mistake in line {}{key}: {reason}", path.display(), number + 1))
    })
}

/// The keys of the config file that are no settings but secrets.
const SECRET_KEYS: &[&str] = &["admin-password", "encryption-key", "smtp-password", "db-string"];
