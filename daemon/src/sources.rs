//! Where settings come from beside flags: variables and the config file; and what in them is probably a mistake.

use std::{
    env,
    fmt::Display,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
};

use openorch_chassis::outbound;

use crate::{
    StartError,
    settings::{Given, KEYS, VARIABLES},
};

/// The value of a variable; an empty one counts as not set.
pub fn variable<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, StartError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let Some(text) = value.to_str() else { return Err(StartError(format!("{name} is not UTF-8"))) };
    text.parse().map(Some).map_err(|error| StartError(format!("{name}: {error}")))
}

/// What the config file says.
pub fn read_file(path: &Path) -> Result<Given, StartError> {
    let text = fs::read_to_string(path)
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
            match nearest(key, known.iter().map(String::as_str)) {
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

/// The name that was probably meant, if one is near.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::damerau_levenshtein(word, known), known));
    scored
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 3 + 1)
        .map(|(_, known)| known)
}

/// Variables that are read elsewhere: secrets, the config file's, those of programs that call the daemon, those of the
/// existing system's programs, and those of the tests.
const OTHER_VARIABLES: &[&str] = &[
    "OPENORCH_CONFIG",
    "OPENORCH_ADMIN_PASSWORD",
    "OPENORCH_ADMIN_PASSWORD_FILE",
    "OPENORCH_ENCRYPTION_KEY",
    "OPENORCH_ENCRYPTION_KEY_FILE",
    "OPENORCH_SMTP_PASSWORD",
    "OPENORCH_SMTP_PASSWORD_FILE",
    "OPENORCH_DB_STRING",
    "OPENORCH_DB_STRING_FILE",
    "OPENORCH_TOKEN",
    "OPENORCH_TOKEN_FILE",
    "OPENORCH_BIN",
    "OPENORCH_CONFIG_PATH",
    "OPENORCH_DB_SQL_CONNECTION_STRING",
    "OPENORCH_GPU_PLATFORM",
    "OPENORCH_LLM_HOST",
    "OPENORCH_UI_LISTEN",
    "OPENORCH_VOLUME_NAME",
    "OPENORCH_TEST_DB_STRING",
    "OPENORCH_TEST_DB_PROGRAMS",
];

/// What in the environment has no effect, or probably another one than was meant.
pub fn warnings(given: &Given, listen: SocketAddr, has_db_string: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let known = || VARIABLES.iter().chain(OTHER_VARIABLES).copied();
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("OPENORCH_") && !known().any(|known| known == name) {
            warnings.push(match nearest(&name, known()) {
                Some(nearest) => format!("the variable {name} is not known and ignored; did you mean {nearest}?"),
                None => format!("the variable {name} is not known and ignored; `openorch --help` lists them"),
            });
        }
    }
    if has_db_string && given.db.is_none() {
        warnings.push(
            "OPENORCH_DB_STRING is ignored without OPENORCH_DB=postgres: the data is kept in the data directory".into(),
        );
    }
    let url = given.url.as_deref().and_then(|url| outbound::InstanceUrl::parse(url).ok());
    let is_of_this_machine = |url: &outbound::InstanceUrl| {
        url.host() == "localhost" || url.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let is_other_port = |url: &outbound::InstanceUrl| listen.port() != 0 && url.port() != listen.port();
    if let Some(url) = url.filter(|url| is_of_this_machine(url) && is_other_port(url)) {
        warnings.push(format!(
            "OPENORCH_URL is {}, and the daemon listens on {listen}: it is the address under which others reach this \
             daemon; a program's daemon is set for that program alone",
            url.as_str()
        ));
    }
    warnings
}

/// The keys of the config file that are no settings but secrets.
const SECRET_KEYS: &[&str] = &["admin-password", "encryption-key", "smtp-password", "db-string"];
