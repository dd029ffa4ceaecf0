//! The config file (TOML): a table for each section, with the settings as keys. The daemon's own settings precede the
//! first table.

use std::{ops::Range, path::Path};

use openorch_chassis::settings::{RawSettings, Section, Settings as _};
use toml::de::{DeTable, DeValue};

use super::{DaemonSettings, all, nearest, sections};
use crate::{StartError, secrets::read_limited};

const MAX_BYTES: u64 = 1 << 20;

/// A mistake and its position.
struct Mistake {
    at: Option<Range<usize>>,
    reason: String,
}

/// Adds the settings in the file. An error names the line, the key and the most similar key.
pub fn read(path: &Path, given: &mut RawSettings) -> Result<(), StartError> {
    let text = read_limited(path, MAX_BYTES)
        .map_err(|error| StartError(format!("cannot read the config file {}: {error}", path.display())))?;
    parse(&text, given).map_err(|Mistake { at, reason }| {
        let at = at.map_or(0, |span| span.start);
        let number = text[..at].matches('\n').count();
        let line = text.lines().nth(number).unwrap_or_default();
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        // The parser's message may quote a value, which may be a secret: for a line with a secret, only its position is
        // reported.
        let is_secret = all().any(|(_, setting)| setting.is_secret && key.ends_with(&setting.key()));
        let reason = if is_secret { "a secret must be quoted text".to_owned() } else { reason };
        // A line without a key may be part of a secret's text.
        let is_key = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-._\"".contains(letter);
        let is_shown = !key.is_empty() && key.len() <= 64 && key.chars().all(is_key);
        let key = if is_shown { format!(", `{key}`") } else { String::new() };
        StartError(format!("the config file {}, line {}{key}: {reason}", path.display(), number + 1))
    })
}

fn parse(text: &str, given: &mut RawSettings) -> Result<(), Mistake> {
    let file = DeTable::parse(text)
        .map_err(|error| Mistake { at: error.span(), reason: error.message().to_owned() })?
        .into_inner();
    for (key, value) in &file {
        let span = Some(value.span());
        match value.get_ref() {
            DeValue::Table(table) => {
                let section = sections().find(|section| section.name == key.get_ref().as_ref());
                let section = section.ok_or_else(|| {
                    let tables = sections().map(|section| section.name).filter(|name| !name.is_empty());
                    unknown("table", key.get_ref(), &tables.map(str::to_owned).collect::<Vec<_>>(), Some(key.span()))
                })?;
                for (key, value) in table {
                    parse_setting(
                        section,
                        key.get_ref(),
                        Some(key.span()),
                        value.get_ref(),
                        Some(value.span()),
                        given,
                    )?;
                }
            }
            value => parse_setting(&DaemonSettings::SECTION, key.get_ref(), Some(key.span()), value, span, given)?,
        }
    }
    Ok(())
}

fn parse_setting(
    section: &Section,
    key: &str,
    key_at: Option<Range<usize>>,
    value: &DeValue<'_>,
    at: Option<Range<usize>>,
    given: &mut RawSettings,
) -> Result<(), Mistake> {
    let Some(setting) = section.settings.iter().find(|setting| setting.key() == key) else {
        let keys: Vec<String> = section.settings.iter().map(|setting| setting.key()).collect();
        return Err(unknown("setting", key, &keys, key_at));
    };
    let text = match value {
        DeValue::String(text) => text.to_string(),
        _ if setting.is_secret => return Err(Mistake { at, reason: String::new() }),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        _ => return Err(Mistake { at, reason: "a setting must be quoted text or a number".into() }),
    };
    setting.check(&text).map_err(|reason| Mistake { at, reason })?;
    given.add(section.variable(setting), text);
    Ok(())
}

/// The error for an unknown table or key: suggests a similar name, or the right table.
fn unknown(what: &str, name: &str, known: &[String], at: Option<Range<usize>>) -> Mistake {
    let elsewhere = all().find(|(section, setting)| setting.key() == name && !known.contains(&section.name.to_owned()));
    let reason = match (nearest(name, known.iter().map(String::as_str)), elsewhere) {
        (Some(nearest), _) => format!("no {what} of this name; did you mean `{nearest}`?"),
        (None, Some((section, _))) if !section.name.is_empty() => {
            format!("no {what} of this name here; `{name}` belongs in the table [{}]", section.name)
        }
        (None, _) => format!("no {what} of this name; `openorch --help` lists them"),
    };
    Mistake { at, reason }
}
