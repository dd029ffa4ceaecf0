//! Environment variables of the daemon, and warnings about them: unknown names, and variables without effect or with a
//! probably unintended one.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use openorch_chassis::{outbound::InstanceUrl, settings::RawSettings};

use super::{DaemonSettings, DatabaseSettings, Engine, all};
use crate::{StartError, secrets};

/// The variable that names the config file.
const CONFIG_FILE: &str = "OPENORCH_CONFIG";

/// The config file, if a variable names one.
pub fn config_file() -> Result<Option<PathBuf>, StartError> {
    Ok(variable(CONFIG_FILE)?.map(PathBuf::from))
}

/// Adds the settings in variables, and secrets in files that variables name.
pub fn read(given: &mut RawSettings) -> Result<(), StartError> {
    for (section, setting) in all() {
        let name = section.variable(setting);
        let text = match setting.is_secret {
            true => secrets::read(&name)?,
            false => variable(&name)?,
        };
        if let Some(text) = text {
            setting.check(&text).map_err(|error| StartError(format!("{name}: {error}")))?;
            given.add(name, text);
        }
    }
    Ok(())
}

/// The value of a variable; an empty one counts as unset.
fn variable(name: &str) -> Result<Option<String>, StartError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    value.into_string().map(Some).map_err(|_| StartError(format!("{name} is not UTF-8")))
}

/// The most similar name, if one is close enough.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::damerau_levenshtein(word, known), known));
    scored
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 3 + 1)
        .map(|(_, known)| known)
}

/// Variables that other code reads: the config file's, those of clients of the daemon, those of the existing system's
/// programs, and those of the tests.
const OTHER_VARIABLES: &[&str] = &[
    CONFIG_FILE,
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

/// All known variables.
fn known() -> Vec<String> {
    let settings = all().flat_map(|(section, setting)| {
        let variable = section.variable(setting);
        let file = setting.is_secret.then(|| format!("{variable}_FILE"));
        std::iter::once(variable).chain(file)
    });
    settings.chain(OTHER_VARIABLES.iter().map(|name| (*name).to_owned())).collect()
}

/// Warnings about variables without effect, or with a probably unintended one.
pub fn warnings(daemon: &DaemonSettings, database: &DatabaseSettings) -> Vec<String> {
    let (mut warnings, known) = (Vec::new(), known());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("OPENORCH_") && !known.iter().any(|known| *known == name) {
            warnings.push(match nearest(&name, known.iter().map(String::as_str)) {
                Some(nearest) => format!("ignoring the unknown variable {name}; did you mean {nearest}?"),
                None => format!("ignoring the unknown variable {name}; `openorch --help` lists all"),
            });
        }
    }
    if database.string.is_some() && database.engine == Engine::Sqlite {
        warnings.push(
            "OPENORCH_DB_STRING is ignored without OPENORCH_DB=postgres: the data is in the data directory".into(),
        );
    }
    warnings.extend(url_warning(daemon.url.as_deref(), daemon.listen.0));
    warnings
}

/// An `OPENORCH_URL` with another port of this machine was probably meant for a client.
fn url_warning(url: Option<&str>, listen: SocketAddr) -> Option<String> {
    let url = InstanceUrl::parse(url?).ok()?;
    let of_this_machine =
        url.host() == "localhost" || url.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let other_port = listen.port() != 0 && url.port() != listen.port();
    (of_this_machine && other_port).then(|| {
        format!(
            "OPENORCH_URL is {}, but the daemon listens on {listen}: the variable is the URL under which others reach this \
             daemon; to set the daemon of a client, set it for that client only",
            url.as_str()
        )
    })
}
