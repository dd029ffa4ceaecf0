//! Document storage for a service, in SQLite files or in PostgreSQL. Configured by the same environment variables as the
//! daemon. The store, its queries and its batches come from `openorch-store`.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use openorch_api::Slug;
pub use openorch_store::{
    Batch, Collection, Committed, Cursor, Direction, Filter, Guard, Index, Order, Page, Query, Row, RowStream, Store,
    StoreError, Stored, Table, TypedPage, Write,
};
use openorch_store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Credential, CredentialStore, Error, credential::home_dir};

/// The collection for the service's credential.
static CREDENTIALS: Collection = Collection { name: "credentials", indexes: &[] };
const CREDENTIAL_ID: &str = "own";

/// Maximum length of a PostgreSQL schema name.
const MAX_SCHEMA_LENGTH: usize = 63;

/// Opens the datastore of one service.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use openorch_sdk::datastore::{Batch, Collection, DatastoreFactory, Index, Query};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Note {
///     author: String,
///     text: String,
/// }
/// static NOTES: Collection = Collection { name: "notes", indexes: &[Index::on(&["author"])] };
///
/// # let directory = tempfile::tempdir()?;
/// let datastore = DatastoreFactory::in_directory(directory.path()).open(&[NOTES]).await?;
/// let notes = datastore.table::<Note>(&NOTES);
/// let note = Note { author: "joe".into(), text: "buy milk".into() };
/// datastore.commit(Batch::new().with(notes.create("note_1", &note)?)).await?;
///
/// let of_joe = notes.find(&Query::all().equals("author", "joe")).await?;
/// assert_eq!(of_joe[0].value.text, "buy milk");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct DatastoreFactory {
    engine: Engine,
}

#[derive(Clone, Debug)]
enum Engine {
    Sqlite(PathBuf, SqliteOptions),
    Postgres(PostgresOptions),
}

impl DatastoreFactory {
    /// The datastore of the service with this slug, configured by environment variables. If `OPENORCH_DB` is unset or
    /// `sqlite`: files in the directory `services/<slug>` under `OPENORCH_DATA_DIR` or `~/.openorch`. If it is `postgres`: a
    /// separate schema in the database of `OPENORCH_DB_STRING`, or of the file named by `OPENORCH_DB_STRING_FILE`.
    /// `OPENORCH_NETWORK_FILE_SYSTEM=allow` permits a directory on NFS, SMB or 9p; see
    /// [`DatastoreFactory::allow_network_file_system`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), openorch_sdk::Error> {
    /// use openorch_sdk::datastore::{Collection, DatastoreFactory};
    ///
    /// static NOTES: Collection = Collection { name: "notes", indexes: &[] };
    /// let datastore = DatastoreFactory::from_env("skeleton-svc")?.open(&[NOTES]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env(slug: &str) -> Result<DatastoreFactory, Error> {
        let read =
            |name: &str| env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        DatastoreFactory::from_variables(slug, read)
    }

    fn from_variables(slug: &str, variable: impl Fn(&str) -> Option<String>) -> Result<DatastoreFactory, Error> {
        let slug = Slug::parse(slug).map_err(|error| Error::Service(error.to_string()))?;
        let engine = variable("OPENORCH_DB").unwrap_or_default();
        match engine.as_str() {
            "" | "sqlite" => {
                let directory = variable("OPENORCH_DATA_DIR").map(PathBuf::from);
                let home = || home_dir().map(|home| home.join(".openorch"));
                let directory = directory.or_else(home).ok_or_else(|| {
                    Error::Service("there is no home directory to store data in; set OPENORCH_DATA_DIR or HOME".into())
                })?;
                let factory = DatastoreFactory::in_directory(directory.join("services").join(slug.as_str()));
                match variable("OPENORCH_NETWORK_FILE_SYSTEM").as_deref() {
                    Some("allow") => Ok(factory.allow_network_file_system()),
                    None | Some("refuse") => Ok(factory),
                    Some(other) => Err(Error::Service(format!(
                        "OPENORCH_NETWORK_FILE_SYSTEM is `{}`; it must be `refuse` or `allow`",
                        other.escape_debug()
                    ))),
                }
            }
            "postgres" => {
                if let Some(driver) = variable("OPENORCH_DB_DRIVER").filter(|driver| driver != "postgres") {
                    return Err(Error::Service(format!(
                        "OPENORCH_DB_DRIVER is `{}`; the only supported driver is `postgres`",
                        driver.escape_debug()
                    )));
                }
                DatastoreFactory::on_postgres(&connection_string(variable)?, slug.as_str())
            }
            other => Err(Error::Service(format!(
                "OPENORCH_DB is `{}`; it must be `postgres`, or `sqlite` for local files",
                other.escape_debug()
            ))),
        }
    }

    /// A datastore in files in this directory, which only one process can have open.
    ///
    /// ```
    /// let factory = openorch_sdk::datastore::DatastoreFactory::in_directory("/var/lib/skeleton-svc");
    /// ```
    pub fn in_directory(directory: impl Into<PathBuf>) -> DatastoreFactory {
        DatastoreFactory { engine: Engine::Sqlite(directory.into(), SqliteOptions::default()) }
    }

    /// Permits a directory on NFS, SMB or 9p, which is rejected by default: the file lock does not exclude a process on
    /// another machine there, and two processes corrupt the database. Has no effect on PostgreSQL.
    ///
    /// ```
    /// let factory = openorch_sdk::datastore::DatastoreFactory::in_directory("/mnt/nfs/skeleton-svc");
    /// let factory = factory.allow_network_file_system();
    /// ```
    pub fn allow_network_file_system(mut self) -> DatastoreFactory {
        if let Engine::Sqlite(_, options) = &mut self.engine {
            options.allow_network = true;
        }
        self
    }

    /// A datastore in a PostgreSQL database, in a schema named after the slug. Only one process can have it open.
    ///
    /// ```
    /// use openorch_sdk::datastore::DatastoreFactory;
    /// let factory = DatastoreFactory::on_postgres("postgres://me@db.example/mine?sslmode=verify-full", "skeleton-svc")?;
    /// assert!(!format!("{factory:?}").contains("db.example"), "a connection string may hold a password");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn on_postgres(connection: &str, slug: &str) -> Result<DatastoreFactory, Error> {
        let slug = Slug::parse(slug).map_err(|error| Error::Service(error.to_string()))?;
        // Slugs contain no `_`, so two slugs never map to the same schema.
        let schema = format!("svc_{}", slug.as_str().replace('-', "_"));
        if schema.len() > MAX_SCHEMA_LENGTH {
            return Err(Error::Service(format!(
                "the slug `{slug}` is too long for the name of a PostgreSQL schema; it may have {} characters",
                MAX_SCHEMA_LENGTH - "svc_".len()
            )));
        }
        Ok(DatastoreFactory {
            engine: Engine::Postgres(PostgresOptions { schema, ..PostgresOptions::new(connection) }),
        })
    }

    /// Opens the datastore and creates the collections, or migrates them to the declarations. If the database server is
    /// unavailable, this retries for 30 seconds.
    ///
    /// Fails with [`Error::Datastore`], whose message names the location and the remedy.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use openorch_sdk::datastore::{Collection, DatastoreFactory};
    /// # let directory = tempfile::tempdir()?;
    /// static NOTES: Collection = Collection { name: "notes", indexes: &[] };
    /// let datastore = DatastoreFactory::in_directory(directory.path()).open(&[NOTES]).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn open(&self, collections: &[Collection]) -> Result<Datastore, Error> {
        if collections.iter().any(|collection| collection.name == CREDENTIALS.name) {
            return Err(Error::Datastore(StoreError::Invalid(format!(
                "the collection `{}` is reserved for the service's credential; use another name",
                CREDENTIALS.name
            ))));
        }
        let (store, place) = match &self.engine {
            Engine::Sqlite(directory, options) => {
                (SqliteStore::open(directory, options.clone())?, format!("the database in `{}`", directory.display()))
            }
            Engine::Postgres(options) => {
                let place = format!("the schema `{}` of the database", options.schema);
                (PostgresStore::open(options.clone()).await?, place)
            }
        };
        store.open_collections(&[CREDENTIALS]).await?;
        store.open_collections(collections).await?;
        if !store.is_seeded() {
            // There is nothing to seed, but a store that is not marked as seeded is recreated at the next start.
            store.mark_seeded().await?;
        }
        Ok(Datastore { store, location: place.into() })
    }
}

/// The connection string: from `OPENORCH_DB_STRING`, otherwise from the file named by `OPENORCH_DB_STRING_FILE`.
fn connection_string(variable: impl Fn(&str) -> Option<String>) -> Result<String, Error> {
    if let Some(text) = variable("OPENORCH_DB_STRING") {
        return Ok(text);
    }
    let path = variable("OPENORCH_DB_STRING_FILE").ok_or_else(|| {
        Error::Service(
            "OPENORCH_DB is `postgres`, but OPENORCH_DB_STRING is not set; set it (or OPENORCH_DB_STRING_FILE) to a \
             connection string such as postgres://user:password@host:5432/database"
                .into(),
        )
    })?;
    let text = fs::read_to_string(&path)
        .map_err(|error| Error::Service(format!("OPENORCH_DB_STRING_FILE: `{path}` cannot be read: {error}")))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::Service(format!("OPENORCH_DB_STRING_FILE: `{path}` is empty"))),
        text => Ok(text.to_owned()),
    }
}

/// An open datastore. Cheap to clone; closed when the last clone is dropped.
///
/// It is also a [`CredentialStore`], for services without a credential file:
///
/// ```no_run
/// # use openorch_sdk::{ClientFactory, Error, datastore::DatastoreFactory, service_client};
/// # async fn example() -> Result<(), Error> {
/// let datastore = DatastoreFactory::from_env("skeleton-svc")?.open(&[]).await?;
/// let client = ClientFactory::new("http://127.0.0.1:58231")?.client();
/// let client = service_client(&client, "skeleton-svc", "Skeleton Svc", datastore.clone()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Datastore {
    store: Arc<dyn Store>,
    location: Arc<str>,
}

impl Datastore {
    /// A typed view of a collection that the datastore was opened with.
    ///
    /// ```
    /// # use openorch_sdk::datastore::{Collection, Datastore, Table};
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Note {
    ///     text: String,
    /// }
    /// static NOTES: Collection = Collection { name: "notes", indexes: &[] };
    ///
    /// fn notes(datastore: &Datastore) -> Table<Note> {
    ///     datastore.table(&NOTES)
    /// }
    /// ```
    pub fn table<T: Serialize + DeserializeOwned>(&self, collection: &'static Collection) -> Table<T> {
        Table::new(Arc::clone(&self.store), collection)
    }

    /// Commits a batch atomically, with its writes in order. Returns when it is durable.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, datastore::{Batch, Datastore}};
    /// async fn forget(datastore: &Datastore, id: &str) -> Result<(), Error> {
    ///     datastore.commit(Batch::new().delete("notes", id)).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn commit(&self, batch: Batch) -> Result<Committed, Error> {
        Ok(self.store.commit(batch).await?)
    }

    /// Writes a consistent snapshot of all data to a new local file, readable by its owner only; `openorch restore` reads
    /// it. Also works if the files of the datastore were removed while the service runs. Returns its size in bytes.
    ///
    /// ```no_run
    /// # use openorch_sdk::{Error, datastore::Datastore};
    /// async fn save(datastore: &Datastore) -> Result<(), Error> {
    ///     datastore.back_up("/backup/skeleton-svc".as_ref()).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn back_up(&self, file: &Path) -> Result<u64, Error> {
        Ok(self.store.back_up(file, &Vec::new()).await?)
    }

    /// The underlying store, for operations without a shortcut here.
    ///
    /// ```no_run
    /// # use openorch_sdk::datastore::Datastore;
    /// async fn is_well(datastore: &Datastore) -> bool {
    ///     datastore.store().ready().await.is_ok()
    /// }
    /// ```
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

impl CredentialStore for Datastore {
    async fn load(&self) -> Result<Option<Credential>, Error> {
        Ok(self.table::<Credential>(&CREDENTIALS).get(CREDENTIAL_ID).await?.map(|stored| stored.value))
    }

    async fn get_or_insert(&self, fresh: Credential) -> Result<Credential, Error> {
        let write = self.table(&CREDENTIALS).create(CREDENTIAL_ID, &fresh)?;
        match self.store.commit(Batch::new().with(write)).await {
            Ok(_) => Ok(fresh),
            // Another process of the service stored its credential first.
            Err(StoreError::AlreadyExists(_)) => self.load().await.map(|standing| standing.unwrap_or(fresh)),
            Err(error) => Err(error.into()),
        }
    }

    fn location(&self) -> String {
        self.location.to_string()
    }
}

impl fmt::Debug for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datastore").field("place", &self.location).finish_non_exhaustive()
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        Error::Datastore(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factory(variables: &[(&str, &str)]) -> Result<String, String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        match DatastoreFactory::from_variables("a-svc", find).map(|factory| factory.engine) {
            Ok(Engine::Sqlite(directory, options)) => {
                let network = if options.allow_network { " on a network" } else { "" };
                Ok(format!("{}{network}", directory.display()))
            }
            Ok(Engine::Postgres(options)) => Ok(format!("{} in {}", options.schema, options.connection)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_environment_says_where_documents_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "postgres://there\n").unwrap();
        let secret = secret.to_str().unwrap();
        for (variables, want) in [
            (&[("OPENORCH_DATA_DIR", "/d")][..], Ok("/d/services/a-svc")),
            (&[("OPENORCH_DATA_DIR", "/d"), ("OPENORCH_DB", "sqlite")], Ok("/d/services/a-svc")),
            (
                &[("OPENORCH_DATA_DIR", "/d"), ("OPENORCH_NETWORK_FILE_SYSTEM", "allow")],
                Ok("/d/services/a-svc on a network"),
            ),
            (&[("OPENORCH_DATA_DIR", "/d"), ("OPENORCH_NETWORK_FILE_SYSTEM", "yes")], Err("`yes`; it must be")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING", "postgres://x")], Ok("svc_a_svc in postgres://x")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING_FILE", secret)], Ok("svc_a_svc in postgres://there")),
            (
                &[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING", "x"), ("OPENORCH_DB_STRING_FILE", "/none")],
                Ok("svc_a_svc in x"),
            ),
            (
                &[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING", "x"), ("OPENORCH_DB_DRIVER", "mysql")],
                Err("`mysql`; the only"),
            ),
            (&[("OPENORCH_DB", "postgres")], Err("OPENORCH_DB_STRING is not set")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING_FILE", "/none")], Err("`/none` cannot be read")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING_FILE", "/dev/null")], Err("is empty")),
            (&[("OPENORCH_DB", "mysql")], Err("`mysql`; it must be")),
        ] {
            match (factory(variables), want) {
                (Ok(place), Ok(want)) => assert_eq!(place, want, "{variables:?}"),
                (Err(error), Err(want)) => assert!(error.contains(want), "{variables:?}: {error}"),
                (got, _) => panic!("{variables:?}: {got:?}"),
            }
        }
        assert!(DatastoreFactory::on_postgres("postgres://x", &"a".repeat(60)).is_err());
        assert!(DatastoreFactory::on_postgres("postgres://x", "No slug").is_err());
    }
}
