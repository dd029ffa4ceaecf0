//! Backs up a schema: a snapshot of all documents, taken during concurrent writes, into a file that either engine
//! restores. Columns, lists and indexes are omitted; a restore rebuilds them from the documents.

use tokio_postgres::Transaction;

use super::{PostgresOptions, errors::PgError, reader::PortalChunks, schema, snapshot::Snapshot};
use crate::{
    ArchiveWriter, Result,
    archive::{ArchivedCollection, SourceDatabase},
    check::{OnProgress, Progress},
    sql::quote,
};

type Outcome<T> = std::result::Result<T, PgError>;

/// Writes a snapshot of all documents of a schema, with or without a running daemon.
pub(super) async fn backup(
    options: &PostgresOptions,
    archive: &mut ArchiveWriter,
    progress: OnProgress<'_>,
) -> Result<()> {
    let copied = copy(options, archive, progress).await;
    copied.map_err(|failure| failure.into_store(&format!("copying the schema `{}`", options.schema)))
}

async fn copy(options: &PostgresOptions, archive: &mut ArchiveWriter, progress: OnProgress<'_>) -> Outcome<()> {
    let mut visit = Snapshot::connect(options).await?;
    let (transaction, identity) = visit.begin_transaction().await?;
    let recorded = schema::recorded(transaction.client()).await?;
    // A sequence is not part of the snapshot and may be ahead of it, which is fine; it must not be behind.
    let last = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM _store_version";
    let last_version = transaction.query_one(last, &[]).await?.try_get(0)?;
    archive.begin(&SourceDatabase { database_id: identity.id, last_version })?;
    for (name, (declaration, _)) in recorded {
        let declared = ArchivedCollection { name, declaration };
        archive.collection(&declared)?;
        documents(&transaction, &declared.name, archive, progress).await?;
    }
    Ok(())
}

async fn documents(
    transaction: &Transaction<'_>,
    collection: &str,
    archive: &mut ArchiveWriter,
    progress: OnProgress<'_>,
) -> Outcome<()> {
    let table = quote(&format!("c_{collection}"));
    let of = count(transaction, &table).await?;
    let portal = transaction.bind(&format!("SELECT id, ver, doc FROM {table}"), &[]).await?;
    let mut chunks = PortalChunks::from_portal(transaction, portal);
    let mut done = 0;
    while let Some(rows) = chunks.next().await? {
        archive.add(collection, &rows)?;
        done += rows.len() as u64;
        progress(Progress { task: collection, done, total: of });
    }
    Ok(())
}

pub(super) async fn count(transaction: &Transaction<'_>, table: &str) -> Outcome<u64> {
    let row = transaction.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
    Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
}
