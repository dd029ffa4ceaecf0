//! State that the command line keeps between runs: environments and the users signed in to them. The file is the
//! documented `~/.openorch/cliConfig.yaml`; keys that this version does not know are preserved.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use openorch_sdk::private_file::{self, Replacement};
use serde::{Deserialize, Deserializer, Serialize};
use serde_norway::Value;

use crate::error::{CliError, warn};

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    #[serde(deserialize_with = "or_default")]
    pub selected_environment: String,
    #[serde(deserialize_with = "or_default")]
    pub environments: BTreeMap<String, Environment>,
    /// Random digits that distinguish the sessions of this home directory from those of others on the same machine.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub device: String,
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
    /// The user who signed in last.
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

    /// Stores the token of a user who just signed in, and selects that user.
    pub fn remember(&mut self, slug: &str, token: String) {
        let user = self.users.entry(slug.to_owned()).or_default();
        user.slug = slug.to_owned();
        user.token = token;
        self.selected_user = slug.to_owned();
    }
}

/// Maximum size of a settings file.
const MAX_BYTES: u64 = 4 << 20;

pub struct ConfigFile {
    /// `None` if there is no home directory.
    path: Option<PathBuf>,
}

/// Why a file is not a settings file of `oo`. Never quotes it: its values are tokens.
struct InvalidFile(String);

impl ConfigFile {
    pub fn in_home() -> ConfigFile {
        // An empty HOME means that there is none; an unset one is looked up in the account database.
        let has_none = env::var_os("HOME").is_some_and(|home| home.is_empty());
        let home = env::home_dir().filter(|home| !has_none && !home.as_os_str().is_empty());
        ConfigFile { path: home.map(|home| home.join(".openorch").join("cliConfig.yaml")) }
    }

    pub fn path(&self) -> Result<&Path, CliError> {
        let no_home = || CliError::Other("there is no home directory to store settings in; set HOME".into());
        self.path.as_deref().ok_or_else(no_home)
    }

    pub fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// The stored settings. A broken or foreign file is refused, with the remedy.
    pub fn load(&self) -> Result<Config, CliError> {
        let path = self.path()?;
        read(path)?.map_err(|InvalidFile(why)| {
            CliError::Other(format!(
                "`{}`: {why}; repair it, or start over with `oo env add NAME URL`, which renames this file",
                path.display()
            ))
        })
    }

    /// Reads, changes and writes the file under a lock against other `oo` processes. If the change fails, nothing is
    /// written. A broken or foreign file is renamed first, never overwritten.
    pub fn change<T>(&self, change: impl FnOnce(&mut Config) -> Result<T, CliError>) -> Result<T, CliError> {
        let path = self.path()?;
        let failed = |what: &dyn std::fmt::Display| {
            CliError::Other(format!("cannot write the settings `{}`: {what}", path.display()))
                .with_hint("make the file writable; with OPENORCH_TOKEN and OPENORCH_URL set, `oo` works without it")
        };
        let _held = private_file::lock(path).map_err(|error| failed(&error))?;
        let (mut config, broken) = match read(path)? {
            Ok(config) => (config, None),
            Err(broken) => (Config::default(), Some(broken)),
        };
        let answer = change(&mut config)?;
        let text = serde_norway::to_string(&config).map_err(|error| failed(&error))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(failed(&format!("they would exceed the limit of {MAX_BYTES} bytes")));
        }
        if let Some(InvalidFile(why)) = broken {
            let backup = move_to_backup_name(path).map_err(|error| failed(&error))?;
            warn(&format!("`{}`: {why}; it was renamed to `{}`", path.display(), backup.display()));
        }
        if private_file::replace(path, &text).map_err(|error| failed(&error))? == Replacement::InPlace {
            warn(&format!("`{}` is a mount point, so it was overwritten in place", path.display()));
        }
        Ok(answer)
    }
}

fn read(path: &Path) -> Result<Result<Config, InvalidFile>, CliError> {
    let failed = |error: io::Error| CliError::Other(format!("cannot read the settings `{}`: {error}", path.display()));
    if fs::metadata(path).is_ok_and(|file| file.len() > MAX_BYTES) {
        return Ok(Err(InvalidFile("it is too large to be a settings file of `oo`".into())));
    }
    match private_file::read(path) {
        Ok(text) => Ok(parse(&text.unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Ok(Err(InvalidFile("it is not text, so not a settings file of `oo`".into())))
        }
        Err(error) => Err(failed(error)),
    }
}

fn parse(text: &str) -> Result<Config, InvalidFile> {
    if text.trim().is_empty() {
        return Ok(Config::default());
    }
    let foreign = |at: String| InvalidFile(format!("{at}this is not a settings file of `oo`"));
    let config: Config = serde_norway::from_str(text)
        .map_err(|error| foreign(error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default()))?;
    if config.environments.is_empty() && config.selected_environment.is_empty() {
        // Only foreign keys: another program's file, unless our keys are there too and empty.
        let whole: Value = serde_norway::from_str(text).unwrap_or_default();
        let ours = ["environments", "selectedEnvironment"].iter().any(|key| whole.get(key).is_some());
        if !ours && !config.other.is_empty() {
            return Err(foreign(String::new()));
        }
    }
    Ok(config)
}

/// Renames the file to a free name in the same directory.
fn move_to_backup_name(path: &Path) -> io::Result<PathBuf> {
    let with_suffix = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let names = std::iter::once(".broken".to_owned()).chain((2..).map(|count| format!(".broken-{count}")));
    for name in names {
        let backup = with_suffix(&name);
        if fs::symlink_metadata(&backup).is_err() {
            fs::rename(path, &backup)?;
            return Ok(backup);
        }
    }
    unreachable!("the sequence of names is infinite")
}

/// `key:` without a value is null, and means the same as a missing key.
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
        (folder, ConfigFile { path: Some(path) })
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
        let text = std::fs::read_to_string(file.path().unwrap()).unwrap();
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
        std::fs::set_permissions(file.path().unwrap(), std::fs::Permissions::from_mode(0o644)).unwrap();
        file.change(|_| Ok(())).unwrap();
        assert_eq!(std::fs::metadata(file.path().unwrap()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_a_mount_of_its_own_is_written_in_place() {
        let (folder, file) = file(DOCUMENTED);
        let mounted = folder.path().join("mounted.yaml");
        std::fs::write(&mounted, DOCUMENTED).unwrap();
        let run = |command: &str, words: &[&std::path::Path]| {
            std::process::Command::new(command).args(words).status().is_ok_and(|status| status.success())
        };
        if !run("mount", &["--bind".as_ref(), &mounted, file.path().unwrap()]) {
            return eprintln!("SKIP: mounting is not allowed here");
        }
        let changed = file.change(|config| {
            config.selected_environment = "empty".into();
            Ok(())
        });
        assert!(run("umount", &[file.path().unwrap()]));
        changed.unwrap();
        assert!(std::fs::read_to_string(&mounted).unwrap().contains("selectedEnvironment: empty"));
    }

    #[test]
    fn an_empty_file_is_no_settings_and_our_own_keys_may_be_empty() {
        for text in ["", " \n", "environments:", "theme: dark\nenvironments: {}\nselectedEnvironment: ''\n"] {
            let (_folder, file) = file(text);
            assert!(file.load().unwrap().environments.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_broken_or_foreign_file_is_told_when_read_and_kept_aside_when_written() {
        let cases: [(&[u8], &str); 6] = [
            (b"environments: [token-s3cret", "line"),
            (b"selectedEnvironment: [s3cret]", "line 1"),
            (b"- s3cret", "not a settings file"),
            (b"s3cret: 1\nother: 2\n", "not a settings file"),
            (b"s3cret", "not a settings file"),
            (b"\xff\xfes3cret", "not text"),
        ];
        for (bytes, words) in cases {
            let (folder, file) = file("");
            std::fs::write(file.path().unwrap(), bytes).unwrap();
            let refusal = file.load().err().unwrap().to_string();
            assert!(refusal.contains("cliConfig.yaml") && refusal.contains(words), "{refusal}");
            assert!(!refusal.contains("s3cret"), "{refusal}");
            assert!(file.change(|_| Err::<(), _>(CliError::Other(String::new()))).is_err());
            assert_eq!(std::fs::read(file.path().unwrap()).unwrap(), bytes, "a change that fails moves nothing");

            std::fs::write(folder.path().join("cliConfig.yaml.broken"), "older").unwrap();
            file.change(|config| {
                config.selected_environment = "a".into();
                Ok(())
            })
            .unwrap();
            let aside = folder.path().join("cliConfig.yaml.broken-2");
            assert_eq!(std::fs::read(aside).unwrap(), bytes);
            assert_eq!(std::fs::read_to_string(folder.path().join("cliConfig.yaml.broken")).unwrap(), "older");
            assert_eq!(file.load().unwrap().selected_environment, "a");
        }
    }
}
