//! Restores a backup of either engine into an empty schema, in one transaction, so that the schema contains nothing or
//! everything.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use tokio_postgres::Transaction;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::errors::Failure;
use super::hold::{self, Lock};
use super::start::{self, Schema};
use super::statements::Value;
use super::target::Target;
use super::{Collections, Document, Known, PostgresOptions, schema};
use crate::archive::Declared;
use crate::check::{OnProgress, Progress};
use crate::sql::change::{self, DOCUMENTS_ALONE};
use crate::sql::{Spec, quote};
use crate::{ArchiveReader, BoxFuture, Collection, Notes, Restoring, Result, Row, StoreError, document};

type Outcome<T> = std::result::Result<T, Failure>;

/// A prepared restore into an empty, locked schema. Nothing is changed before it is finished.
pub(super) struct Held {
    archive: ArchiveReader,
    declared: Vec<Arc<Known>>,
    target: Target,
    schema: String,
    lock: Lock,
}

impl Held {
    /// Locks the schema. Fails, with nothing changed, for the reasons of [`super::PostgresStore::open`], if the schema
    /// is not empty (`AlreadyExists`), or if the archive is damaged (`Corrupt`).
    pub(super) async fn prepare(
        archive: ArchiveReader,
        options: &PostgresOptions,
        collections: &[Collection],
    ) -> Result<Self> {
        archive.require_sound()?;
        let declared = Collections::check(collections)?;
        start::check_schema(&options.schema)?;
        let (target, schema) = (Target::parse(&options.connection)?, options.schema.clone());
        let prepare = async {
            let (client, connection) = start::connect(&target, options.connect_patience).await?;
            hold::set_up(&client).await?;
            start::check_server(&target, &client).await?;
            let lock = Lock::take(&target, &schema, client, connection).await?;
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

impl Restoring for Held {
    fn notes(&self) -> &Notes {
        self.archive.notes()
    }

    fn finish<'a>(self: Box<Self>, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.fill(progress))
    }
}

fn failed(failure: Failure, schema: &str) -> StoreError {
    failure.into_store(&format!("restoring into the schema `{schema}`"))
}

async fn restore(
    mut archive: ArchiveReader,
    place: &Schema<'_>,
    lock: &mut Lock,
    declared: Vec<Arc<Known>>,
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
    place.make(client, archive.origin.database_id.clone(), true).await?;
    if archive.origin.last_version > 0 {
        transaction.execute("SELECT setval('_store_version', $1)", &[&archive.origin.last_version]).await?;
    }
    schema::bring_up_within(&transaction, &declared).await?;
    let declared: HashMap<&str, Arc<Known>> = declared.into_iter().map(|known| (known.spec.name, known)).collect();
    for one in &std::mem::take(&mut archive.collections) {
        let known = declared.get(one.name.as_str());
        if known.is_none() {
            make_without_columns(&transaction, one).await?;
        }
        Filling { transaction: &transaction, name: &one.name, known }.fill(&mut archive, progress).await?;
    }
    Ok(transaction.commit().await?)
}

/// Creates the table of a collection that is not declared here, without its index columns.
async fn make_without_columns(transaction: &Transaction<'_>, declared: &Declared) -> Outcome<()> {
    let table = quote(&format!("c_{}", declared.name));
    transaction.batch_execute(&schema::table_without_columns(&table)).await?;
    let meta = "INSERT INTO _store_meta VALUES ($1, $2, $3)";
    transaction.execute(meta, &[&declared.name, &declared.declaration, &DOCUMENTS_ALONE]).await?;
    Ok(())
}

/// Loads the documents of a collection into its empty tables.
struct Filling<'a> {
    transaction: &'a Transaction<'a>,
    name: &'a str,
    /// `None` if it is not declared here; then only its documents are restored.
    known: Option<&'a Arc<Known>>,
}

impl Filling<'_> {
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
            progress(Progress { what: self.name, done, of });
        }
        // Updates the planner statistics, since the tables were empty until now.
        let lists = self.known.map_or(&[][..], |known| &known.spec.lists);
        let lists: String = lists.iter().map(|list| format!("ANALYZE {};", list.table)).collect();
        Ok(self.transaction.batch_execute(&format!("ANALYZE {}; {lists}", quote(&format!("c_{}", self.name)))).await?)
    }

    async fn add(&self, rows: Vec<Row>) -> Outcome<()> {
        let Some(known) = self.known else {
            let values = rows.iter().map(|row| of_row(&row.id, row.version, &row.body)).collect();
            return self.copy(&quote(&format!("c_{}", self.name)), "id, ver, doc", values).await;
        };
        let spec = &known.spec;
        let mut documents = Vec::with_capacity(rows.len());
        for Row { id, version, body } in rows {
            let value = document::parse_stored(&body, self.name, &id)?;
            documents.push((version, Document::new(known.clone(), id, body, &value)?));
        }
        let columns: String = spec.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
        let values = documents.iter().map(|(version, document)| {
            let mut values = of_row(&document.place.id, *version, &document.body);
            values.extend(document.keys.iter().map(|key| Value::Bytes(key)));
            values
        });
        let copied = self.copy(&spec.table, &format!("id, ver, doc{columns}"), values.collect()).await;
        copied.map_err(|failure| broken(spec, failure))?;
        for (at, list) in spec.lists.iter().enumerate() {
            let entries = documents.iter().flat_map(|(_, document)| {
                document.entries[at].iter().map(|entry| {
                    let keys = entry.iter().map(|key| Value::Bytes(key));
                    [Value::id(&document.place.id)].into_iter().chain(keys).collect()
                })
            });
            self.copy(&list.table, &format!("id, {}", list.columns().join(", ")), entries.collect()).await?;
        }
        Ok(())
    }

    /// Copies rows into a table; the types of the values determine those of the columns.
    async fn copy(&self, table: &str, columns: &str, rows: Vec<Vec<Value<'_>>>) -> Outcome<()> {
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

fn of_row<'a>(id: &'a str, version: u64, body: &'a str) -> Vec<Value<'a>> {
    vec![Value::id(id), Value::version(version), Value::Text(body)]
}

/// The first text is the id; any other text is a document.
fn type_of(at: usize, value: &Value<'_>) -> Type {
    match value {
        Value::Text(_) if at == 0 => Type::TEXT,
        Value::Text(_) => Type::JSON,
        Value::Version(_) => Type::INT8,
        Value::Bytes(_) | Value::Many(_) => Type::BYTEA,
    }
}

/// Translates a unique violation: the index may not have been unique at the source.
fn broken(spec: &Spec<'_>, failure: Failure) -> Failure {
    let Failure::Postgres(error) = &failure else { return failure };
    let Some(told) = error.as_db_error().filter(|told| *told.code() == SqlState::UNIQUE_VIOLATION) else {
        return failure;
    };
    match spec.indexes.iter().find(|index| told.constraint() == Some(&*index.name)) {
        Some(index) => change::broken_by_documents(spec, index).into(),
        None => failure,
    }
}
