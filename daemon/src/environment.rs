//! The variables that the daemon is started with, and what is odd about them: names that nobody reads, and those that have no effect
//! or another one than was probably meant.

use std::{
    env,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use openorch_chassis::outbound::InstanceUrl;

use crate::StartError;

/// The value of a variable; an empty one counts as not set.
pub fn variable<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, StartError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let Some(text) = value.to_str() else { return Err(StartError(format!("{name} is not UTF-8"))) };
    text.parse().map(Some).map_err(|error| StartError(format!("{name}: {error}")))
}

/// The name that was probably meant, if one is near.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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
/// `settings` are the variables of the settings, `url` is OPENORCH_URL.
pub fn warnings(settings: &[&str], listen: SocketAddr, url: Option<&str>, ignored_database: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let known = || settings.iter().chain(OTHER_VARIABLES).copied();
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("OPENORCH_") && !known().any(|known| known == name) {
            warnings.push(match nearest(&name, known()) {
                Some(nearest) => format!("the variable {name} is not known and ignored; did you mean {nearest}?"),
                None => format!("the variable {name} is not known and ignored; `openorch --help` lists them"),
            });
        }
    }
    if ignored_database {
        warnings.push(
            "OPENORCH_DB_STRING is ignored without OPENORCH_DB=postgres: the data is kept in the data directory".into(),
        );
    }
    let url = url.and_then(|url| InstanceUrl::parse(url).ok());
    let is_of_this_machine = |url: &InstanceUrl| {
        url.host() == "localhost" || url.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    let is_other_port = |url: &InstanceUrl| listen.port() != 0 && url.port() != listen.port();
    if let Some(url) = url.filter(|url| is_of_this_machine(url) && is_other_port(url)) {
        warnings.push(format!(
            "OPENORCH_URL is {}, and the daemon listens on {listen}: it is the address under which others reach this \
             daemon; a program's daemon is set for that program alone",
            url.as_str()
        ));
    }
    warnings
}
