//! Secrets of the operator: from a variable, from the file that `…_FILE` names, or from the config file; never from a
//! flag, which other users of the machine could read.

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use openorch_chassis::{encryption::PUBLISHED_DEFAULT_KEY, ids::random_text};

use crate::StartError;

/// File of the generated key in the server's directory.
const KEY_FILE: &str = "encryption.key";
/// 32 characters, which is also the key size of the existing system.
const KEY_LENGTH: usize = 32;

#[derive(Clone, Default)]
pub struct Secrets {
    pub admin_password: Option<String>,
    pub encryption_key: Option<String>,
    /// PostgreSQL connection string, with its password.
    pub db_string: Option<String>,
}

impl Secrets {
    /// Whether the key is the publicly documented default (decision "Restricted mode").
    pub fn has_published_key(&self) -> bool {
        self.encryption_key.as_deref() == Some(PUBLISHED_DEFAULT_KEY)
    }

    /// The configured key. Several machines share a database server, so the daemon must not generate a key there.
    pub fn configured_key(&self) -> Result<String, StartError> {
        self.encryption_key.clone().ok_or_else(|| {
            StartError(
                "with PostgreSQL the daemon does not generate an encryption key: set OPENORCH_ENCRYPTION_KEY, \
                 or OPENORCH_ENCRYPTION_KEY_FILE, to a long random text, and keep a copy"
                    .into(),
            )
        })
    }

    /// The configured key, else the one in the directory. `is_new`: nothing is encrypted yet, so a key may be
    /// generated.
    pub fn encryption_key(&self, folder: &Path, is_new: bool) -> Result<String, StartError> {
        if let Some(key) = &self.encryption_key {
            return Ok(key.clone());
        }
        let path = folder.join(KEY_FILE);
        match read_limited(&path, MAX_SECRET_BYTES) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) if !is_new => return Err(key_unavailable(&path, "is empty")),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StartError(format!("cannot read the key file {}: {error}", path.display())));
            }
            Err(_) if !is_new => return Err(key_unavailable(&path, "is missing")),
            _ => {}
        }
        let key = random_text(KEY_LENGTH);
        write_private(&path, &key)
            .map_err(|error| StartError(format!("cannot write the key file {}: {error}", path.display())))?;
        Ok(key)
    }

    /// The generated key, if it is the one in use.
    pub fn generated_key(&self, folder: &Path) -> Result<Option<String>, StartError> {
        let path = folder.join(KEY_FILE);
        match (&self.encryption_key, read_limited(&path, MAX_SECRET_BYTES)) {
            (Some(_), _) => Ok(None),
            (None, Ok(text)) => Ok(Some(text.trim().to_owned()).filter(|key| !key.is_empty())),
            (None, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            (None, Err(error)) => Err(StartError(format!("cannot read the key file {}: {error}", path.display()))),
        }
    }

    /// Restores a generated key. Returns a further condition for the next start.
    pub fn restore_key(&self, folder: &Path, key: &str) -> Result<&'static str, StartError> {
        store_key(folder, key)?;
        let other = self.encryption_key.as_deref().is_some_and(|given| given != key);
        Ok(if other { " without OPENORCH_ENCRYPTION_KEY, which is not the key of this data" } else { "" })
    }

    /// Stores a generated key for a daemon with PostgreSQL, which needs it as a setting. Returns how to start the
    /// daemon.
    pub fn export_key(&self, folder: &Path, key: &str) -> Result<String, StartError> {
        if self.encryption_key.as_deref() == Some(key) {
            return Ok(String::new());
        }
        let path = store_key(folder, key)?;
        let remark = match self.encryption_key {
            Some(_) => ", instead of the current OPENORCH_ENCRYPTION_KEY, which is not the key of this data",
            None => ", which contains its key",
        };
        Ok(format!(" with OPENORCH_ENCRYPTION_KEY_FILE={}{remark}", path.display()))
    }
}

/// Writes a key into the directory; returns its file. Never overwrites another key, which may be needed to decrypt
/// other data.
fn store_key(folder: &Path, key: &str) -> Result<PathBuf, StartError> {
    let path = folder.join(KEY_FILE);
    let place = path.display();
    match read_limited(&path, MAX_SECRET_BYTES) {
        Ok(text) if text.trim() == key => {}
        Ok(text) if !text.trim().is_empty() => {
            return Err(StartError(format!(
                "the key of this backup belongs in {place}, which contains another one; move that one away, or choose \
                 another data directory. Nothing was changed"
            )));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StartError(format!("cannot read the key file {place}: {error}")));
        }
        _ => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| write_private(&path, key))
            .map_err(|error| StartError(format!("cannot write the key file {place}: {error}")))?,
    }
    Ok(path)
}

fn key_unavailable(path: &Path, how: &str) -> StartError {
    StartError(format!(
        "the key file {} {how}, and the data is encrypted with it: restore it, or set OPENORCH_ENCRYPTION_KEY to its content",
        path.display()
    ))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Reads a text file of at most `max_bytes` bytes.
pub fn read_limited(path: &Path, max_bytes: u64) -> std::io::Result<String> {
    let mut text = String::new();
    // Limits files without a known length too, such as a pipe.
    fs::File::open(path)?.take(max_bytes + 1).read_to_string(&mut text)?;
    match text.len() as u64 > max_bytes {
        true => Err(std::io::Error::other(format!("it is larger than {max_bytes} bytes"))),
        false => Ok(text),
    }
}

/// Maximum bytes of a secret or a key file.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// The text of a file that contains a secret.
fn read_text(path: &Path) -> Result<String, String> {
    read_limited(path, MAX_SECRET_BYTES).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => format!(
            "{} is not text; a secret is one line of text, such as the output of `openssl rand -hex 32`",
            path.display()
        ),
        _ => format!("cannot read {}: {error}", path.display()),
    })
}

/// The secret in a variable, else in the file that `…_FILE` names. An empty value counts as unset.
pub fn read(name: &str) -> Result<Option<String>, StartError> {
    if let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) {
        return value.into_string().map(Some).map_err(|_| StartError(format!("{name} is not UTF-8")));
    }
    let Some(path) = env::var_os(format!("{name}_FILE")).filter(|path| !path.is_empty()) else { return Ok(None) };
    let text = read_text(Path::new(&path)).map_err(|error| StartError(format!("{name}_FILE: {error}")))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(StartError(format!("{name}_FILE: {} is empty", Path::new(&path).display())));
    }
    Ok(Some(secret.to_owned()))
}
