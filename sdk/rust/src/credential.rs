//! The credential of a service: its slug and a password made once, kept where only the service reads it.

use std::{
    env,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{Error, private_file};

/// What a service signs in with.
///
/// ```
/// let credential = openorch_sdk::Credential::random("skeleton-svc")?;
/// assert!(credential.password.starts_with("cred_"));
/// assert!(!format!("{credential:?}").contains(&credential.password), "it never lands in a log");
/// # Ok::<(), openorch_sdk::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The account, and so the first path segment under which the service is reached.
    pub slug: String,
    /// `cred_` and 32 random characters.
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
            let mut noise = [0u8; 48];
            getrandom::fill(&mut noise)
                .map_err(|error| Error::Credential(format!("the system gives no random numbers: {error}")))?;
            // 248 is the largest multiple of 62 in a byte: beyond it some characters would come more often.
            let fair = noise.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(byte % 62)] as char);
            password.extend(fair.take(37 - password.len()));
        }
        Ok(Credential { slug: slug.to_owned(), password })
    }
}

// Written by hand so that a password never lands in a log through `{:?}`.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("slug", &self.slug).finish_non_exhaustive()
    }
}

/// Where a service keeps its credential.
///
/// ```
/// use std::sync::Mutex;
/// use openorch_sdk::{Credential, CredentialStore, Error};
///
/// /// In a table of the service's own, say.
/// struct InTable(Mutex<Option<Credential>>);
///
/// impl CredentialStore for InTable {
///     async fn load(&self) -> Result<Option<Credential>, Error> {
///         Ok(self.0.lock().unwrap().clone())
///     }
///     async fn keep(&self, fresh: Credential) -> Result<Credential, Error> {
///         Ok(self.0.lock().unwrap().get_or_insert(fresh).clone())
///     }
///     fn place(&self) -> String {
///         "the table `credentials`".into()
///     }
/// }
/// ```
pub trait CredentialStore: Send + Sync {
    /// The credential that was kept before, if any.
    fn load(&self) -> impl Future<Output = Result<Option<Credential>, Error>> + Send;

    /// Keeps `fresh` unless there is a credential already, and answers the one that stands. Two copies of a service
    /// that start together must end up with the same one; it must be safely stored when this returns.
    fn keep(&self, fresh: Credential) -> impl Future<Output = Result<Credential, Error>> + Send;

    /// Where that is, for messages to the operator.
    fn place(&self) -> String;
}

/// Keeps the credential as a JSON file that only its owner can read. One that is damaged is refused and left as it is: it
/// may hold the account's only password.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use openorch_sdk::{Credential, CredentialStore, FileCredentialStore};
///
/// # let folder = tempfile::tempdir()?;
/// let store = FileCredentialStore::new(folder.path(), "skeleton-svc");
/// let kept = store.keep(Credential::random("skeleton-svc")?).await?;
/// assert_eq!(store.load().await?, Some(kept));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FileCredentialStore {
    path: PathBuf,
}

impl FileCredentialStore {
    /// In `folder`, as `<slug>.json`.
    ///
    /// ```
    /// let store = openorch_sdk::FileCredentialStore::new("/var/lib/skeleton-svc", "skeleton-svc");
    /// ```
    pub fn new(folder: impl AsRef<Path>, slug: &str) -> FileCredentialStore {
        FileCredentialStore { path: folder.as_ref().join(format!("{slug}.json")) }
    }

    /// In `~/.openorch/credentials`, as `<slug>.json`.
    ///
    /// ```no_run
    /// let store = openorch_sdk::FileCredentialStore::in_home("skeleton-svc")?;
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn in_home(slug: &str) -> Result<FileCredentialStore, Error> {
        let home = home()
            .ok_or_else(|| Error::Credential("there is no home folder to keep the credential in; set HOME".into()))?;
        Ok(FileCredentialStore::new(home.join(".openorch/credentials"), slug))
    }

    fn read(&self) -> Result<Option<Credential>, Error> {
        let Some(text) = private_file::read(&self.path).map_err(|error| self.failed("read", &error))? else {
            return Ok(None);
        };
        // A damaged file is never written over: the account's only password may still be in it.
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

    async fn keep(&self, fresh: Credential) -> Result<Credential, Error> {
        let _held = private_file::lock(&self.path).map_err(|error| self.failed("lock", &error))?;
        if let Some(standing) = self.read()? {
            return Ok(standing);
        }
        let text = serde_json::to_string_pretty(&fresh).map_err(|error| Error::Credential(error.to_string()))?;
        private_file::replace(&self.path, &text).map_err(|error| self.failed("write", &error))?;
        Ok(fresh)
    }

    fn place(&self) -> String {
        format!("the file `{}`", self.path.display())
    }
}

/// Keeps the credential as long as the program runs: for tests, and for services whose account may be lost.
///
/// ```
/// let store = openorch_sdk::MemoryCredentialStore::default();
/// ```
#[derive(Debug, Default)]
pub struct MemoryCredentialStore {
    credential: Mutex<Option<Credential>>,
}

impl MemoryCredentialStore {
    /// A store that already knows a credential, for example one from a secret manager.
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

    async fn keep(&self, fresh: Credential) -> Result<Credential, Error> {
        let mut standing = self.credential.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(standing.get_or_insert(fresh).clone())
    }

    fn place(&self) -> String {
        "this program's memory".into()
    }
}

/// The home folder. A HOME that is set to nothing says that there is none; one that is not set is looked up by the account.
pub(crate) fn home() -> Option<PathBuf> {
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
        let folder = tempfile::tempdir().unwrap();
        let store = FileCredentialStore::new(folder.path(), "a-svc");
        assert_eq!(store.load().await.unwrap(), None);
        let first = store.keep(Credential::random("a-svc").unwrap()).await.unwrap();
        let again = store.keep(Credential::random("a-svc").unwrap()).await.unwrap();
        assert_eq!(first, again);
        assert_eq!(FileCredentialStore::new(folder.path(), "a-svc").load().await.unwrap(), Some(first));
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-svc.json");
        std::fs::write(&path, "{\"slug\":\"a-s").unwrap();
        let store = FileCredentialStore::new(folder.path(), "a-svc");
        let error = store.keep(Credential::random("a-svc").unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("a-svc.json` is damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"slug\":\"a-s");
    }
}
