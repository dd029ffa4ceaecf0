//! The config file (TOML): a table for each section, with the settings as its keys, and the settings of the daemon as a whole
//! before the first table.

use std::{ops::Range, path::Path};

use openorch_chassis::settings::{Given, Section, Settings as _};
use toml::de::{DeTable, DeValue};

use super::{DaemonSettings, all, nearest, sections};
use crate::{StartError, secrets::read_within};

const MAX_BYTES: u64 = 1 << 20;

/// A mistake and where it is.
struct Mistake {
    at: Option<Range<usize>>,
    reason: String,
}

/// Adds what the file says; a mistake in it names the place, the key and the nearest one.
pub fn read(path: &Path, given: &mut Given) -> Result<(), StartError> {
    let text = read_within(path, MAX_BYTES)
        .map_err(|error| StartError(format!("the config file {} cannot be read: {error}", path.display())))?;
    take(&text, given).map_err(|Mistake { at, reason }| {
        let at = at.map_or(0, |span| span.start);
        let number = text[..at].matches('\n').count();
        let line = text.lines().nth(number).unwrap_or_default();
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        // The parser's message may show a value, which may be a secret: of a line with one, only the place is told.
        let is_secret = all().any(|(_, setting)| setting.is_secret && key.ends_with(&setting.key()));
        let reason = if is_secret { "a secret is text in quotes".to_owned() } else { reason };
        // A line that is no key at all may be one of a secret's text.
        let is_key = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-._\"".contains(letter);
        let is_shown = !key.is_empty() && key.len() <= 64 && key.chars().all(is_key);
        let key = if is_shown { format!(", `{key}`") } else { String::new() };
        StartError(format!("the config file {} has a mistake in line {}{key}: {reason}", path.display(), number + 1))
    })
}

fn take(text: &str, given: &mut Given) -> Result<(), Mistake> {
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
                    take_one(section, key.get_ref(), Some(key.span()), value.get_ref(), Some(value.span()), given)?;
                }
            }
            value => take_one(&DaemonSettings::SECTION, key.get_ref(), Some(key.span()), value, span, given)?,
        }
    }
    Ok(())
}

fn take_one(
    section: &Section,
    key: &str,
    key_at: Option<Range<usize>>,
    value: &DeValue<'_>,
    at: Option<Range<usize>>,
    given: &mut Given,
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
        _ => return Err(Mistake { at, reason: "a setting is text in quotes, or a number".into() }),
    };
    setting.check(&text).map_err(|reason| Mistake { at, reason })?;
    given.add(section.variable(setting), text);
    Ok(())
}

/// No setting, or no table, has this name; perhaps one that does was meant, or its table is another.
fn unknown(what: &str, name: &str, known: &[String], at: Option<Range<usize>>) -> Mistake {
    let elsewhere = all().find(|(section, setting)| setting.key() == name && !known.contains(&section.name.to_owned()));
    let reason = match (nearest(name, known.iter().map(String::as_str)), elsewhere) {
        (Some(nearest), _) => format!("there is no {what} of this name; did you mean `{nearest}`?"),
        (None, Some((section, _))) if !section.name.is_empty() => {
            format!("there is no {what} of this name here; `{name}` belongs into the table [{}]", section.name)
        }
        (None, _) => format!("there is no {what} of this name; `openorch --help` lists them"),
    };
    Mistake { at, reason }
}
