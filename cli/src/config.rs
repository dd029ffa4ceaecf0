//! What the command line remembers between runs: environments, and the users who signed in to them. The file is the
//! documented `~/.openorch/cliConfig.yaml`; keys that this version does not know are kept.

use std::{collections::BTreeMap, env, path::PathBuf};

use openorch_sdk::private_file;
use serde::{Deserialize, Deserializer, Serialize};
use serde_norway::Value;

use crate::failure::Failure;

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    #[serde(deserialize_with = "or_default")]
    pub selected_environment: String,
    #[serde(deserialize_with = "or_default")]
    pub environments: BTreeMap<String, Environment>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Environment {
    #[serde(deserialize_with = "or_default")]
    pub url: String,
    #[serde(deserialize_with = "or_default")]
    pub short_name: String,
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Who signed in last.
    #[serde(deserialize_with = "or_default")]
    pub selected_user: String,
    #[serde(deserialize_with = "or_default")]
    pub users: BTreeMap<String, User>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    #[serde(deserialize_with = "or_default")]
    pub slug: String,
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

impl Environment {
    pub fn new(name: &str, url: &str) -> Environment {
        Environment { url: url.to_owned(), short_name: name.to_owned(), ..Environment::default() }
    }

    /// Keeps the token of a user who just signed in, and selects that user.
    pub fn remember(&mut self, slug: &str, token: String) {
        let user = self.users.entry(slug.to_owned()).or_default();
        user.slug = slug.to_owned();
        user.token = token;
        self.selected_user = slug.to_owned();
    }
}

pub struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    pub fn in_home() -> Result<ConfigFile, Failure> {
        let home = env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .ok_or_else(|| Failure::Other("there is no home folder to keep the settings in; set HOME".into()))?;
        Ok(ConfigFile { path: home.join(".openorch").join("cliConfig.yaml") })
    }

    pub fn load(&self) -> Result<Config, Failure> {
        let failed = |what: &dyn std::fmt::Display| Failure::Other(format!("`{}`: {what}", self.path.display()));
        let text = private_file::read(&self.path).map_err(|error| failed(&error))?.unwrap_or_default();
        if text.trim().is_empty() {
            return Ok(Config::default());
        }
        // An error of the parser may repeat a value, and values here are tokens: only where it is gets told.
        serde_norway::from_str(&text).map_err(|error| {
            let at = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            failed(&format_args!("{at}this is not a settings file of `oo`; repair it, or move it away to start anew"))
        })
    }

    /// Reads, changes and writes back, while no other `oo` does. Nothing is written if the change fails.
    pub fn change<T>(&self, change: impl FnOnce(&mut Config) -> Result<T, Failure>) -> Result<T, Failure> {
        let failed = |what: &dyn std::fmt::Display| {
            Failure::Other(format!("cannot write the settings `{}`: {what}", self.path.display()))
        };
        let _held = private_file::lock(&self.path).map_err(|error| failed(&error))?;
        let mut config = self.load()?;
        let answer = change(&mut config)?;
        let text = serde_norway::to_string(&config).map_err(|error| failed(&error))?;
        private_file::replace(&self.path, &text).map_err(|error| failed(&error))?;
        Ok(answer)
    }
}

/// `key:` with nothing after it is null, and means the same as no key.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = "
selectedEnvironment: local
theme: dark
environments:
  local:
    url: http://127.0.0.1:58231
    shortName: local
    description: \"\"
    selectedUser: openorch
    color: {r: 1, g: [2, 3]}
    users:
      openorch: {slug: openorch, token: eyJ, note: mine}
      '123': {slug: '123', token: eyK}
  empty:
    url: http://127.0.0.1:2
    users:
    description:
";

    fn file(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cliConfig.yaml");
        std::fs::write(&path, text).unwrap();
        (folder, ConfigFile { path })
    }

    #[test]
    fn a_documented_file_is_read_and_what_it_knows_beyond_us_is_kept() {
        let (_folder, file) = file(DOCUMENTED);
        let before = file.load().unwrap();
        assert_eq!(before.selected_environment, "local");
        assert_eq!(before.environments["local"].users["openorch"].token, "eyJ");
        assert!(before.environments["empty"].users.is_empty());
        file.change(|config| {
            config.environments.get_mut("local").unwrap().remember("openorch", "new".into());
            Ok(())
        })
        .unwrap();
        let text = std::fs::read_to_string(&file.path).unwrap();
        let after: Value = serde_norway::from_str(&text).unwrap();
        assert_eq!(after["theme"], "dark");
        assert_eq!(after["environments"]["local"]["color"]["g"][1], 3);
        assert_eq!(after["environments"]["local"]["users"]["openorch"]["note"], "mine");
        assert_eq!(after["environments"]["local"]["users"]["openorch"]["token"], "new");
        assert_eq!(after["environments"]["local"]["users"]["123"]["token"], "eyK");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_could_read_is_closed_to_them_by_the_next_write() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, file) = file(DOCUMENTED);
        std::fs::set_permissions(&file.path, std::fs::Permissions::from_mode(0o644)).unwrap();
        file.change(|_| Ok(())).unwrap();
        assert_eq!(std::fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_empty_file_is_no_settings_and_a_broken_one_is_named_and_left_alone() {
        let (_folder, empty) = file(" \n");
        assert!(empty.load().unwrap().environments.is_empty());
        let (_folder, broken) = file("environments: [token-s3cret");
        let failure = broken.change(|_| Ok(())).err().unwrap().to_string();
        assert!(failure.contains("cliConfig.yaml") && !failure.contains("s3cret"), "{failure}");
        assert_eq!(std::fs::read_to_string(&broken.path).unwrap(), "environments: [token-s3cret");
    }
}
