//! Secrets of the operator: from a variable, from the file that `…_FILE` names, or from the config file; never from a
//! flag, where every user of the machine would read them.

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use openorch_chassis::{ids::random_text, seal::PUBLISHED_DEFAULT_KEY};

use crate::StartError;

/// The generated key's file in the folder of the server.
const KEY_FILE: &str = "encryption.key";
/// 32 characters: also the size that secrets encrypted by the existing system need.
const KEY_LENGTH: usize = 32;

#[derive(Clone, Default)]
pub struct Secrets {
    pub admin_password: Option<String>,
    pub encryption_key: Option<String>,
    /// Where the PostgreSQL database is, with its password.
    pub db_string: Option<String>,
}

impl Secrets {
    /// Whether the key is the one that everybody can look up (decision "Restricted mode").
    pub fn has_published_key(&self) -> bool {
        self.encryption_key.as_deref() == Some(PUBLISHED_DEFAULT_KEY)
    }

    /// The key that was given. A database server is shared by machines, so that none may make one for itself.
    pub fn given_key(&self) -> Result<String, StartError> {
        self.encryption_key.clone().ok_or_else(|| {
            StartError(
                "with its data in PostgreSQL the daemon makes no encryption key of its own: set OPENORCH_ENCRYPTION_KEY, \
                 or OPENORCH_ENCRYPTION_KEY_FILE, to a long random text, and keep it"
                    .into(),
            )
        })
    }

    /// The key that was given, else that of the folder. `is_new`: nothing was encrypted yet, so one may be made.
    pub fn encryption_key(&self, folder: &Path, is_new: bool) -> Result<String, StartError> {
        if let Some(key) = &self.encryption_key {
            return Ok(key.clone());
        }
        let path = folder.join(KEY_FILE);
        match read_within(&path, MAX_SECRET) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) if !is_new => return Err(missing(&path, "is empty")),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StartError(format!("the key file {} cannot be read: {error}", path.display())));
            }
            Err(_) if !is_new => return Err(missing(&path, "is missing")),
            _ => {}
        }
        let key = random_text(KEY_LENGTH);
        write_private(&path, &key)
            .map_err(|error| StartError(format!("the key file {} cannot be written: {error}", path.display())))?;
        Ok(key)
    }

    /// The key that the daemon made for itself, if it works with that one.
    pub fn generated_key(&self, folder: &Path) -> Result<Option<String>, StartError> {
        let path = folder.join(KEY_FILE);
        match (&self.encryption_key, read_within(&path, MAX_SECRET)) {
            (Some(_), _) => Ok(None),
            (None, Ok(text)) => Ok(Some(text.trim().to_owned()).filter(|key| !key.is_empty())),
            (None, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            (None, Err(error)) => Err(StartError(format!("the key file {} cannot be read: {error}", path.display()))),
        }
    }

    /// Puts a key back that the daemon had made for itself. Answers what else the next start needs.
    pub fn put_back(&self, folder: &Path, key: &str) -> Result<&'static str, StartError> {
        keep_key(folder, key)?;
        let other = self.encryption_key.as_deref().is_some_and(|given| given != key);
        Ok(if other { " without OPENORCH_ENCRYPTION_KEY, which is not the key it has" } else { "" })
    }

    /// Keeps a key that a daemon had made for itself, for one with its data in PostgreSQL, which has to be given it. Answers
    /// how the next start is.
    pub fn hand_over(&self, folder: &Path, key: &str) -> Result<String, StartError> {
        if self.encryption_key.as_deref() == Some(key) {
            return Ok(String::new());
        }
        let path = keep_key(folder, key)?;
        let instead = match self.encryption_key {
            Some(_) => ", instead of the OPENORCH_ENCRYPTION_KEY that is set now and is not the key it has",
            None => ", where its key is",
        };
        Ok(format!(" with OPENORCH_ENCRYPTION_KEY_FILE={}{instead}", path.display()))
    }
}

/// Writes a key into the folder, whose file it answers. One that is there already may be all that decrypts other data.
fn keep_key(folder: &Path, key: &str) -> Result<PathBuf, StartError> {
    let path = folder.join(KEY_FILE);
    let place = path.display();
    match read_within(&path, MAX_SECRET) {
        Ok(text) if text.trim() == key => {}
        Ok(text) if !text.trim().is_empty() => {
            return Err(StartError(format!(
                "the key of this backup has to go to {place}, where there is another one; move that one away, or choose \
                 another data folder. Nothing was changed"
            )));
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StartError(format!("the key file {place} cannot be read: {error}")));
        }
        _ => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| write_private(&path, key))
            .map_err(|error| StartError(format!("the key file {place} cannot be written: {error}")))?,
    }
    Ok(path)
}

fn missing(path: &Path, how: &str) -> StartError {
    StartError(format!(
        "the key file {} {how}, and the data is encrypted with it: put it back, or set OPENORCH_ENCRYPTION_KEY to its text",
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

/// The text of a file of at most `most` bytes.
pub fn read_within(path: &Path, most: u64) -> std::io::Result<String> {
    let mut text = String::new();
    // Also of what has no length, such as a pipe.
    fs::File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    match text.len() as u64 > most {
        true => Err(std::io::Error::other(format!("it has more than {most} bytes"))),
        false => Ok(text),
    }
}

/// Bytes of a secret, or of a key file.
const MAX_SECRET: u64 = 64 << 10;

/// The text of a file that holds a secret.
fn read_text(path: &Path) -> Result<String, String> {
    read_within(path, MAX_SECRET).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => format!(
            "{} is not text; a secret is one line of text, such as `openssl rand -hex 32` makes",
            path.display()
        ),
        _ => format!("{} cannot be read: {error}", path.display()),
    })
}

/// The secret of a variable, else of the file that `…_FILE` names. An empty one counts as not set.
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
