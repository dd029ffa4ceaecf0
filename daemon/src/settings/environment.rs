//! The variables that the daemon is started with, and what is odd about them: names that nobody reads, and those that have no effect
//! or another one than was probably meant.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use openorch_chassis::{outbound::InstanceUrl, settings::Given};

use super::{DaemonSettings, DatabaseSettings, Engine, all};
use crate::{StartError, secrets};

/// The variable that names the config file.
const CONFIG_FILE: &str = "OPENORCH_CONFIG";

/// The config file, if a variable names one.
pub fn config_file() -> Result<Option<PathBuf>, StartError> {
    Ok(variable(CONFIG_FILE)?.map(PathBuf::from))
}

/// Adds what variables say, for secrets also the files that variables name.
pub fn read(given: &mut Given) -> Result<(), StartError> {
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

/// The value of a variable; an empty one counts as not set.
fn variable(name: &str) -> Result<Option<String>, StartError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    value.into_string().map(Some).map_err(|_| StartError(format!("{name} is not UTF-8")))
}

/// The name that was probably meant, if one is near.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::damerau_levenshtein(word, known), known));
    scored
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len() / 3 + 1)
        .map(|(_, known)| known)
}

/// Variables that are read elsewhere: the config file's, those of programs that call the daemon, those of the existing
/// system's programs, and those of the tests.
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

/// Every variable that some program reads.
fn known() -> Vec<String> {
    let settings = all().flat_map(|(section, setting)| {
        let variable = section.variable(setting);
        let file = setting.is_secret.then(|| format!("{variable}_FILE"));
        std::iter::once(variable).chain(file)
    });
    settings.chain(OTHER_VARIABLES.iter().map(|name| (*name).to_owned())).collect()
}

/// What in the environment has no effect, or probably another one than was meant.
pub fn warnings(daemon: &DaemonSettings, database: &DatabaseSettings) -> Vec<String> {
    let (mut warnings, known) = (Vec::new(), known());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("OPENORCH_") && !known.iter().any(|known| *known == name) {
            warnings.push(match nearest(&name, known.iter().map(String::as_str)) {
                Some(nearest) => format!("the variable {name} is not known and ignored; did you mean {nearest}?"),
                None => format!("the variable {name} is not known and ignored; `openorch --help` lists them"),
            });
        }
    }
    if database.string.is_some() && database.engine == Engine::Sqlite {
        warnings.push(
            "OPENORCH_DB_STRING is ignored without OPENORCH_DB=postgres: the data is kept in the data directory".into(),
        );
    }
    warnings.extend(strange_url(daemon.url.as_deref(), daemon.listen.0));
    warnings
}

/// An `OPENORCH_URL` that leads to another port of this machine is one that was meant for a program.
fn strange_url(url: Option<&str>, listen: SocketAddr) -> Option<String> {
    let url = InstanceUrl::parse(url?).ok()?;
    let of_this_machine =
        url.host() == "localhost" || url.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let other_port = listen.port() != 0 && url.port() != listen.port();
    (of_this_machine && other_port).then(|| {
        format!(
            "OPENORCH_URL is {}, and the daemon listens on {listen}: it is the address under which others reach this \
             daemon; a program's daemon is set for that program alone",
            url.as_str()
        )
    })
}
