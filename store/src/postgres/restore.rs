//! Restores a backup of either engine into an empty schema, in one transaction, so that the schema contains nothing or
//! everything.

use std::{collections::HashMap, pin::pin, sync::Arc};

use tokio_postgres::{Transaction, binary_copy::BinaryCopyInWriter, error::SqlState, types::Type};

use super::{
    Collections, OpenCollection, PostgresOptions, PreparedDocument,
    connection_string::ConnectOptions,
    errors::PgError,
    open::{self, Schema},
    schema,
    schema_lock::{self, LockConnection},
    statements::Param,
};
use crate::{
    ArchiveReader, BoxFuture, Collection, Notes, PendingRestore, Result, Row, StoreError,
    archive::ArchivedCollection,
    check::{OnProgress, Progress},
    document,
    sql::{
        Spec,
        migration::{self, DOCUMENTS_ONLY},
        quote,
    },
};

type Outcome<T> = std::result::Result<T, PgError>;

/// A prepared restore into an empty, locked schema. Nothing is changed before it is finished.
pub(super) struct LockedRestore {
    archive: ArchiveReader,
    declared: Vec<Arc<OpenCollection>>,
    target: ConnectOptions,
    schema: String,
    lock: LockConnection,
}

impl LockedRestore {
    /// Locks the schema. Fails, with nothing changed, for the reasons of [`super::PostgresStore::open`], if the schema
    /// is not empty (`AlreadyExists`), or if the archive is damaged (`Corrupt`).
    pub(super) async fn prepare(
        archive: ArchiveReader,
        options: &PostgresOptions,
        collections: &[Collection],
    ) -> Result<Self> {
        archive.require_sound()?;
        let declared = Collections::validate(collections)?;
        open::check_schema(&options.schema)?;
        let (target, schema) = (ConnectOptions::parse(&options.connection)?, options.schema.clone());
        let prepare = async {
            let (client, connection) = open::connect(&target, options.connect_patience).await?;
            schema_lock::set_up_session(&client).await?;
            open::check_server(&target, &client).await?;
            let lock = LockConnection::acquire(&target, &schema, client, connection).await?;
            let place = Schema { target: &target, name: &schema };
            place.check_rights(&lock.client).await?;
            place.require_empty(&lock.client).await?;
            Ok(lock)
        };
        match prepare.await {
            Ok(lock) => Ok(Self { archive, declared, target, schema, lock }),
            Err(failure) => Err(failed(failure, &schema)),
        }
    }

    async fn fill(self, progress: OnProgress<'_>) -> Result<()> {
        let Self { archive, declared, target, schema, mut lock } = self;
        let place = Schema { target: &target, name: &schema };
        let restored = restore(archive, &place, &mut lock, declared, progress).await;
        restored.map_err(|failure| failed(failure, &schema))
    }
}

impl PendingRestore for LockedRestore {
    fn notes(&self) -> &Notes {
        self.archive.notes()
    }

    fn finish<'a>(self: Box<Self>, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.fill(progress))
    }
}

fn failed(failure: PgError, schema: &str) -> StoreError {
    failure.into_store(&format!("restoring into the schema `{schema}`"))
}

async fn restore(
    mut archive: ArchiveReader,
    place: &Schema<'_>,
    lock: &mut LockConnection,
    declared: Vec<Arc<OpenCollection>>,
    progress: OnProgress<'_>,
) -> Outcome<()> {
    let transaction = lock.client.transaction().await?;
    let client = transaction.client();
    let is_there = place.check_rights(client).await?;
    place.require_empty(client).await?;
    if !is_there {
        transaction.batch_execute(&format!("CREATE SCHEMA {}", quote(place.name))).await?;
    }
    transaction.batch_execute(&format!("SET LOCAL search_path = {}", quote(place.name))).await?;
    place.create_tables(client, archive.origin.database_id.clone(), true).await?;
    if archive.origin.last_version > 0 {
        transaction.execute("SELECT setval('_store_version', $1)", &[&archive.origin.last_version]).await?;
    }
    schema::migrate_in_transaction(&transaction, &declared).await?;
    let declared: HashMap<&str, Arc<OpenCollection>> =
        declared.into_iter().map(|known| (known.spec.name, known)).collect();
    for one in &std::mem::take(&mut archive.collections) {
        let known = declared.get(one.name.as_str());
        if known.is_none() {
            make_without_columns(&transaction, one).await?;
        }
        CollectionLoader { transaction: &transaction, name: &one.name, known }.fill(&mut archive, progress).await?;
    }
    Ok(transaction.commit().await?)
}

/// Creates the table of a collection that is not declared here, without its index columns.
async fn make_without_columns(transaction: &Transaction<'_>, declared: &ArchivedCollection) -> Outcome<()> {
    let table = quote(&format!("c_{}", declared.name));
    transaction.batch_execute(&schema::table_without_columns(&table)).await?;
    let meta = "INSERT INTO _store_meta VALUES ($1, $2, $3)";
    transaction.execute(meta, &[&declared.name, &declared.declaration, &DOCUMENTS_ONLY]).await?;
    Ok(())
}

/// Loads the documents of a collection into its empty tables.
struct CollectionLoader<'a> {
    transaction: &'a Transaction<'a>,
    name: &'a str,
    /// `None` if it is not declared here; then only its documents are restored.
    known: Option<&'a Arc<OpenCollection>>,
}

impl CollectionLoader<'_> {
    async fn fill(&self, archive: &mut ArchiveReader, progress: OnProgress<'_>) -> Outcome<()> {
        let of = archive.count(self.name)?;
        let (mut place, mut done) = (i64::MIN, 0);
        loop {
            let rows = archive.page(self.name, &mut place)?;
            if rows.is_empty() {
                break;
            }
            done += rows.len() as u64;
            self.add(rows).await?;
            progress(Progress { task: self.name, done, total: of });
        }
        // Updates the planner statistics, since the tables were empty until now.
        let lists = self.known.map_or(&[][..], |known| &known.spec.lists);
        let lists: String = lists.iter().map(|list| format!("ANALYZE {};", list.table)).collect();
        Ok(self.transaction.batch_execute(&format!("ANALYZE {}; {lists}", quote(&format!("c_{}", self.name)))).await?)
    }

    async fn add(&self, rows: Vec<Row>) -> Outcome<()> {
        let Some(known) = self.known else {
            let values = rows.iter().map(|row| row_params(&row.id, row.version, &row.body)).collect();
            return self.copy(&quote(&format!("c_{}", self.name)), "id, ver, doc", values).await;
        };
        let spec = &known.spec;
        let mut documents = Vec::with_capacity(rows.len());
        for Row { id, version, body } in rows {
            let value = document::parse_stored(&body, self.name, &id)?;
            documents.push((version, PreparedDocument::new(known.clone(), id, body, &value)?));
        }
        let columns: String = spec.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
        let values = documents.iter().map(|(version, document)| {
            let mut values = row_params(&document.doc_ref.id, *version, &document.body);
            values.extend(document.keys.iter().map(|key| Param::Bytes(key)));
            values
        });
        let copied = self.copy(&spec.table, &format!("id, ver, doc{columns}"), values.collect()).await;
        copied.map_err(|failure| unique_violation(spec, failure))?;
        for (at, list) in spec.lists.iter().enumerate() {
            let entries = documents.iter().flat_map(|(_, document)| {
                document.entries[at].iter().map(|entry| {
                    let keys = entry.iter().map(|key| Param::Bytes(key));
                    [Param::id(&document.doc_ref.id)].into_iter().chain(keys).collect()
                })
            });
            self.copy(&list.table, &format!("id, {}", list.columns().join(", ")), entries.collect()).await?;
        }
        Ok(())
    }

    /// Copies rows into a table; the types of the values determine those of the columns.
    async fn copy(&self, table: &str, columns: &str, rows: Vec<Vec<Param<'_>>>) -> Outcome<()> {
        let Some(first) = rows.first() else { return Ok(()) };
        let types: Vec<Type> = first.iter().enumerate().map(|(at, value)| type_of(at, value)).collect();
        let sink = self.transaction.copy_in(&format!("COPY {table}({columns}) FROM STDIN (FORMAT binary)")).await?;
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
        for row in rows {
            writer.as_mut().write_raw(row).await?;
        }
        writer.finish().await?;
        Ok(())
    }
}

fn row_params<'a>(id: &'a str, version: u64, body: &'a str) -> Vec<Param<'a>> {
    vec![Param::id(id), Param::version(version), Param::Text(body)]
}

/// The first text is the id; any other text is a document.
fn type_of(at: usize, value: &Param<'_>) -> Type {
    match value {
        Param::Text(_) if at == 0 => Type::TEXT,
        Param::Text(_) => Type::JSON,
        Param::Version(_) => Type::INT8,
        Param::Bytes(_) | Param::BytesArray(_) => Type::BYTEA,
    }
}

/// Translates a unique violation: the index may not have been unique at the source.
fn unique_violation(spec: &Spec<'_>, failure: PgError) -> PgError {
    let PgError::Postgres(error) = &failure else { return failure };
    let Some(told) = error.as_db_error().filter(|told| *told.code() == SqlState::UNIQUE_VIOLATION) else {
        return failure;
    };
    match spec.indexes.iter().find(|index| told.constraint() == Some(&*index.name)) {
        Some(index) => migration::unique_violation_in_documents(spec, index).into(),
        None => failure,
    }
}
