//! The credential of a service: its slug and a generated password, stored where only the service can read it.

use std::{
    env,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{Error, private_file};

/// The slug and password of a service.
///
/// ```
/// let credential = openorch_sdk::Credential::random("skeleton-svc")?;
/// assert!(credential.password.starts_with("cred_"));
/// assert!(!format!("{credential:?}").contains(&credential.password), "it is never logged");
/// # Ok::<(), openorch_sdk::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The slug of the account, which is also the first path segment of the service.
    pub slug: String,
    /// The password: `cred_` and 32 random characters.
    pub password: String,
}

impl Credential {
    /// A credential with a random password.
    ///
    /// ```
    /// use openorch_sdk::Credential;
    /// assert_ne!(Credential::random("skeleton-svc")?, Credential::random("skeleton-svc")?);
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn random(slug: &str) -> Result<Credential, Error> {
        const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut password = String::from("cred_");
        while password.len() < 37 {
            let mut random_bytes = [0u8; 48];
            getrandom::fill(&mut random_bytes)
                .map_err(|error| Error::Credential(format!("cannot get random numbers from the system: {error}")))?;
            // Bytes from 248, the largest multiple of 62, are dropped: they would make some characters more likely.
            let characters =
                random_bytes.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(byte % 62)] as char);
            password.extend(characters.take(37 - password.len()));
        }
        Ok(Credential { slug: slug.to_owned(), password })
    }
}

// Not derived, so that `{:?}` never logs the password.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("slug", &self.slug).finish_non_exhaustive()
    }
}

/// Storage for the credential of a service.
///
/// ```
/// use std::sync::Mutex;
/// use openorch_sdk::{Credential, CredentialStore, Error};
///
/// /// For example in a table of the service's database.
/// struct InTable(Mutex<Option<Credential>>);
///
/// impl CredentialStore for InTable {
///     async fn load(&self) -> Result<Option<Credential>, Error> {
///         Ok(self.0.lock().unwrap().clone())
///     }
///     async fn get_or_insert(&self, fresh: Credential) -> Result<Credential, Error> {
///         Ok(self.0.lock().unwrap().get_or_insert(fresh).clone())
///     }
///     fn location(&self) -> String {
///         "the table `credentials`".into()
///     }
/// }
/// ```
pub trait CredentialStore: Send + Sync {
    /// The stored credential, if any.
    fn load(&self) -> impl Future<Output = Result<Option<Credential>, Error>> + Send;

    /// Stores `fresh` unless a credential is stored already; returns the stored one. It must be atomic, so that two
    /// processes of a service that start at the same time get the same credential, and durable when it returns.
    fn get_or_insert(&self, fresh: Credential) -> impl Future<Output = Result<Credential, Error>> + Send;

    /// A description of the storage location, for messages to the operator.
    fn location(&self) -> String;
}

/// Stores the credential in a JSON file that only its owner can read. A damaged file is an error and is not overwritten,
/// since it may contain the only copy of the password.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use openorch_sdk::{Credential, CredentialStore, FileCredentialStore};
///
/// # let directory = tempfile::tempdir()?;
/// let store = FileCredentialStore::new(directory.path(), "skeleton-svc");
/// let stored = store.get_or_insert(Credential::random("skeleton-svc")?).await?;
/// assert_eq!(store.load().await?, Some(stored));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FileCredentialStore {
    path: PathBuf,
}

impl FileCredentialStore {
    /// The file `<slug>.json` in this directory.
    ///
    /// ```
    /// let store = openorch_sdk::FileCredentialStore::new("/var/lib/skeleton-svc", "skeleton-svc");
    /// ```
    pub fn new(directory: impl AsRef<Path>, slug: &str) -> FileCredentialStore {
        FileCredentialStore { path: directory.as_ref().join(format!("{slug}.json")) }
    }

    /// The file `<slug>.json` in `~/.openorch/credentials`.
    ///
    /// ```no_run
    /// let store = openorch_sdk::FileCredentialStore::in_home("skeleton-svc")?;
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn in_home(slug: &str) -> Result<FileCredentialStore, Error> {
        let home = home_dir().ok_or_else(|| {
            Error::Credential("there is no home directory to store the credential in; set HOME".into())
        })?;
        Ok(FileCredentialStore::new(home.join(".openorch/credentials"), slug))
    }

    fn read(&self) -> Result<Option<Credential>, Error> {
        let Some(text) = private_file::read(&self.path).map_err(|error| self.failed("read", &error))? else {
            return Ok(None);
        };
        // A damaged file is never overwritten: it may contain the only copy of the password.
        serde_json::from_str(&text).map(Some).map_err(|_| {
            Error::Credential(format!(
                "the credential file `{}` is damaged; repair it, or remove it and have an admin reset the password",
                self.path.display()
            ))
        })
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        Error::Credential(format!("cannot {what} the credential file `{}`: {error}", self.path.display()))
    }
}

impl CredentialStore for FileCredentialStore {
    async fn load(&self) -> Result<Option<Credential>, Error> {
        self.read()
    }

    async fn get_or_insert(&self, fresh: Credential) -> Result<Credential, Error> {
        let _lock = private_file::lock(&self.path).map_err(|error| self.failed("lock", &error))?;
        if let Some(existing) = self.read()? {
            return Ok(existing);
        }
        let text = serde_json::to_string_pretty(&fresh).map_err(|error| Error::Credential(error.to_string()))?;
        private_file::replace(&self.path, &text).map_err(|error| self.failed("write", &error))?;
        Ok(fresh)
    }

    fn location(&self) -> String {
        format!("the file `{}`", self.path.display())
    }
}

/// Keeps the credential in memory only: for tests, and for services that may lose their account.
///
/// ```
/// let store = openorch_sdk::MemoryCredentialStore::default();
/// ```
#[derive(Debug, Default)]
pub struct MemoryCredentialStore {
    credential: Mutex<Option<Credential>>,
}

impl MemoryCredentialStore {
    /// A store with an existing credential, for example from a secret manager.
    ///
    /// ```
    /// use openorch_sdk::{Credential, MemoryCredentialStore};
    ///
    /// fn store(password: String) -> MemoryCredentialStore {
    ///     MemoryCredentialStore::with(Credential { slug: "skeleton-svc".into(), password })
    /// }
    /// ```
    pub fn with(credential: Credential) -> MemoryCredentialStore {
        MemoryCredentialStore { credential: Mutex::new(Some(credential)) }
    }
}

impl CredentialStore for MemoryCredentialStore {
    async fn load(&self) -> Result<Option<Credential>, Error> {
        Ok(self.credential.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn get_or_insert(&self, fresh: Credential) -> Result<Credential, Error> {
        let mut standing = self.credential.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(standing.get_or_insert(fresh).clone())
    }

    fn location(&self) -> String {
        "the memory of this process".into()
    }
}

/// The home directory. An empty `HOME` means that there is none; if `HOME` is unset, the user database is consulted.
pub(crate) fn home_dir() -> Option<PathBuf> {
    let has_none = env::var_os("HOME").is_some_and(|home| home.is_empty());
    env::home_dir().filter(|home| !has_none && !home.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_random_and_of_plain_characters() {
        let (one, two) = (Credential::random("a-svc").unwrap(), Credential::random("a-svc").unwrap());
        assert_ne!(one.password, two.password);
        assert_eq!(one.password.len(), 37);
        assert!(one.password.strip_prefix("cred_").unwrap().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert!(!format!("{one:?}").contains(&one.password));
    }

    #[tokio::test]
    async fn the_first_credential_stands() {
        let directory = tempfile::tempdir().unwrap();
        let store = FileCredentialStore::new(directory.path(), "a-svc");
        assert_eq!(store.load().await.unwrap(), None);
        let first = store.get_or_insert(Credential::random("a-svc").unwrap()).await.unwrap();
        let again = store.get_or_insert(Credential::random("a-svc").unwrap()).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(FileCredentialStore::new(directory.path(), "a-svc").load().await.unwrap(), Some(first));
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a-svc.json");
        std::fs::write(&path, "{\"slug\":\"a-s").unwrap();
        let store = FileCredentialStore::new(directory.path(), "a-svc");
        let error = store.get_or_insert(Credential::random("a-svc").unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("a-svc.json` is damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"slug\":\"a-s");
    }
}
