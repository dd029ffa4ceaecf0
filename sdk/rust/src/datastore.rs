//! Where a service keeps its documents: a file of this machine or PostgreSQL, chosen by the variables that choose for the
//! daemon. What a store is, its queries and its batches are those of `openorch-store`.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use openorch_api::Slug;
use openorch_store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Credential, CredentialStore, Error, credential::home};

pub use openorch_store::{
    Batch, Collection, Committed, Cursor, Direction, Filter, Guard, Index, Order, Page, Query, Row, Rows, Store,
    StoreError, Stored, Table, TypedPage, Write,
};

/// Where a service that has a datastore may keep its credential.
static CREDENTIALS: Collection = Collection { name: "credentials", indexes: &[] };
const CREDENTIAL_ID: &str = "own";

/// The longest name of a schema of PostgreSQL.
const LONGEST_SCHEMA: usize = 63;

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
/// # let folder = tempfile::tempdir()?;
/// let datastore = DatastoreFactory::in_folder(folder.path()).open(&[NOTES]).await?;
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
    /// The datastore of the service with this slug, as the environment says. Without `OPENORCH_DB`, or with `sqlite`
    /// there: files in the folder `services/<slug>` of `OPENORCH_DATA_DIR`, or of `~/.openorch`. With `postgres`: a schema
    /// of the service's own in the database of `OPENORCH_DB_STRING`, or of the file that `OPENORCH_DB_STRING_FILE` names.
    /// With `allow` in `OPENORCH_NETWORK_FILE_SYSTEM`, the folder may be on NFS, SMB or 9p; see
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
        DatastoreFactory::from(slug, read)
    }

    fn from(slug: &str, variable: impl Fn(&str) -> Option<String>) -> Result<DatastoreFactory, Error> {
        let slug = Slug::parse(slug).map_err(|error| Error::Service(error.to_string()))?;
        let engine = variable("OPENORCH_DB").unwrap_or_default();
        match engine.as_str() {
            "" | "sqlite" => {
                let folder = variable("OPENORCH_DATA_DIR").map(PathBuf::from);
                let home = || home().map(|home| home.join(".openorch"));
                let folder = folder.or_else(home).ok_or_else(|| {
                    Error::Service("there is no home folder to keep data in; set OPENORCH_DATA_DIR or HOME".into())
                })?;
                let factory = DatastoreFactory::in_folder(folder.join("services").join(slug.as_str()));
                match variable("OPENORCH_NETWORK_FILE_SYSTEM").as_deref() {
                    Some("allow") => Ok(factory.allow_network_file_system()),
                    None | Some("refuse") => Ok(factory),
                    Some(other) => Err(Error::Service(format!(
                        "OPENORCH_NETWORK_FILE_SYSTEM is `{}`, which is not one of refuse and allow",
                        other.escape_debug()
                    ))),
                }
            }
            "postgres" => {
                if let Some(driver) = variable("OPENORCH_DB_DRIVER").filter(|driver| driver != "postgres") {
                    return Err(Error::Service(format!(
                        "OPENORCH_DB_DRIVER is `{}`; the driver of a database server is postgres",
                        driver.escape_debug()
                    )));
                }
                DatastoreFactory::on_postgres(&connection(variable)?, slug.as_str())
            }
            other => Err(Error::Service(format!(
                "OPENORCH_DB is `{}`, which is no engine; set it to `postgres`, or to `sqlite` for files of this machine",
                other.escape_debug()
            ))),
        }
    }

    /// A datastore in files of this folder, which no other program may have open.
    ///
    /// ```
    /// let factory = openorch_sdk::datastore::DatastoreFactory::in_folder("/var/lib/skeleton-svc");
    /// ```
    pub fn in_folder(folder: impl Into<PathBuf>) -> DatastoreFactory {
        DatastoreFactory { engine: Engine::Sqlite(folder.into(), SqliteOptions::default()) }
    }

    /// Also where the folder is on NFS, SMB or 9p, which is refused else: there, a copy of the service on another machine is
    /// not kept off, and the two damage the database. Says nothing to a database server.
    ///
    /// ```
    /// let factory = openorch_sdk::datastore::DatastoreFactory::in_folder("/mnt/nfs/skeleton-svc");
    /// let factory = factory.allow_network_file_system();
    /// ```
    pub fn allow_network_file_system(mut self) -> DatastoreFactory {
        if let Engine::Sqlite(_, options) = &mut self.engine {
            options.allow_network = true;
        }
        self
    }

    /// A datastore in a PostgreSQL database, in a schema that is named after the slug. One process at a time has it open.
    ///
    /// ```
    /// use openorch_sdk::datastore::DatastoreFactory;
    /// let factory = DatastoreFactory::on_postgres("postgres://me@db.example/mine?sslmode=verify-full", "skeleton-svc")?;
    /// assert!(!format!("{factory:?}").contains("db.example"), "a connection string may hold a password");
    /// # Ok::<(), openorch_sdk::Error>(())
    /// ```
    pub fn on_postgres(connection: &str, slug: &str) -> Result<DatastoreFactory, Error> {
        let slug = Slug::parse(slug).map_err(|error| Error::Service(error.to_string()))?;
        // Slugs have no `_`, so that no two of them name one schema.
        let schema = format!("svc_{}", slug.as_str().replace('-', "_"));
        if schema.len() > LONGEST_SCHEMA {
            return Err(Error::Service(format!(
                "the slug `{slug}` is too long to name a schema of PostgreSQL, which takes {} characters of it",
                LONGEST_SCHEMA - "svc_".len()
            )));
        }
        Ok(DatastoreFactory {
            engine: Engine::Postgres(PostgresOptions { schema, ..PostgresOptions::new(connection) }),
        })
    }

    /// Opens it with these collections, which are made or brought to what is declared. A database that is away is waited
    /// for, for half a minute.
    ///
    /// Fails with [`Error::Datastore`], whose sentence names the place and the way out.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use openorch_sdk::datastore::{Collection, DatastoreFactory};
    /// # let folder = tempfile::tempdir()?;
    /// static NOTES: Collection = Collection { name: "notes", indexes: &[] };
    /// let datastore = DatastoreFactory::in_folder(folder.path()).open(&[NOTES]).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn open(&self, collections: &[Collection]) -> Result<Datastore, Error> {
        if collections.iter().any(|collection| collection.name == CREDENTIALS.name) {
            return Err(Error::Datastore(StoreError::Invalid(format!(
                "the collection `{}` is where this library keeps the service's credential; give yours another name",
                CREDENTIALS.name
            ))));
        }
        let (store, place) = match &self.engine {
            Engine::Sqlite(folder, options) => {
                (SqliteStore::open(folder, options.clone())?, format!("the database in `{}`", folder.display()))
            }
            Engine::Postgres(options) => {
                let place = format!("the schema `{}` of the database", options.schema);
                (PostgresStore::open(options.clone()).await?, place)
            }
        };
        store.open_collections(&[CREDENTIALS]).await?;
        store.open_collections(collections).await?;
        if !store.is_seeded() {
            // There is nothing to be seeded, and a store that never was is begun afresh at the next start.
            store.mark_seeded().await?;
        }
        Ok(Datastore { store, place: place.into() })
    }
}

/// Where the database server is: said by a variable, which counts first, or by the file that the other one names.
fn connection(variable: impl Fn(&str) -> Option<String>) -> Result<String, Error> {
    if let Some(text) = variable("OPENORCH_DB_STRING") {
        return Ok(text);
    }
    let path = variable("OPENORCH_DB_STRING_FILE").ok_or_else(|| {
        Error::Service(
            "OPENORCH_DB is `postgres`, and OPENORCH_DB_STRING does not say where the database is: set it, or \
             OPENORCH_DB_STRING_FILE, to something like postgres://user:password@host:5432/database"
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

/// An open datastore. Cheap to clone; let go of when the last clone is dropped.
///
/// It is a [`CredentialStore`] too, for services that have no file of their own:
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
    place: Arc<str>,
}

impl Datastore {
    /// The typed view of a collection that it was opened with.
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

    /// Applies a batch: all of its writes, in their order, or none. Answered when it is on disk.
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

    /// Writes all data as of this moment into a new file of this machine, for its owner alone; also where the files of the
    /// datastore were removed under the running service. `openorch restore` reads it. Answers its size in bytes.
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

    /// The store itself, for what has no short way here.
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

    async fn keep(&self, fresh: Credential) -> Result<Credential, Error> {
        let write = self.table(&CREDENTIALS).create(CREDENTIAL_ID, &fresh)?;
        match self.store.commit(Batch::new().with(write)).await {
            Ok(_) => Ok(fresh),
            // Another copy of the service was first.
            Err(StoreError::AlreadyExists(_)) => self.load().await.map(|standing| standing.unwrap_or(fresh)),
            Err(error) => Err(error.into()),
        }
    }

    fn place(&self) -> String {
        self.place.to_string()
    }
}

impl fmt::Debug for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datastore").field("place", &self.place).finish_non_exhaustive()
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
        match DatastoreFactory::from("a-svc", find).map(|factory| factory.engine) {
            Ok(Engine::Sqlite(folder, options)) => {
                let network = if options.allow_network { " on a network" } else { "" };
                Ok(format!("{}{network}", folder.display()))
            }
            Ok(Engine::Postgres(options)) => Ok(format!("{} in {}", options.schema, options.connection)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_environment_says_where_documents_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "postgres://there\n").unwrap();
        let secret = secret.to_str().unwrap();
        for (variables, want) in [
            (&[("OPENORCH_DATA_DIR", "/d")][..], Ok("/d/services/a-svc")),
            (&[("OPENORCH_DATA_DIR", "/d"), ("OPENORCH_DB", "sqlite")], Ok("/d/services/a-svc")),
            (
                &[("OPENORCH_DATA_DIR", "/d"), ("OPENORCH_NETWORK_FILE_SYSTEM", "allow")],
                Ok("/d/services/a-svc on a network"),
            ),
            (
                &[("OPENORCH_DATA_DIR", "/d"), ("OPENORCH_NETWORK_FILE_SYSTEM", "yes")],
                Err("`yes`, which is not one of"),
            ),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING", "postgres://x")], Ok("svc_a_svc in postgres://x")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING_FILE", secret)], Ok("svc_a_svc in postgres://there")),
            (
                &[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING", "x"), ("OPENORCH_DB_STRING_FILE", "/none")],
                Ok("svc_a_svc in x"),
            ),
            (
                &[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING", "x"), ("OPENORCH_DB_DRIVER", "mysql")],
                Err("`mysql`; the driver"),
            ),
            (&[("OPENORCH_DB", "postgres")], Err("OPENORCH_DB_STRING does not say")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING_FILE", "/none")], Err("`/none` cannot be read")),
            (&[("OPENORCH_DB", "postgres"), ("OPENORCH_DB_STRING_FILE", "/dev/null")], Err("is empty")),
            (&[("OPENORCH_DB", "mysql")], Err("`mysql`, which is no engine")),
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
