//! A schema of a database as an [`Engine`].

use std::sync::Arc;

use super::{PostgresOptions, PostgresStore, backup, check, restore::LockedRestore};
use crate::{
    ArchiveReader, ArchiveWriter, BoxFuture, Collection, Engine, Findings, OnProgress, PendingRestore, Result, Store,
};

/// A schema of a PostgreSQL database, and how it is opened.
#[derive(Debug, Clone)]
pub struct PostgresEngine(pub PostgresOptions);

impl Engine for PostgresEngine {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>>> {
        Box::pin(PostgresStore::open(self.0.clone()))
    }

    fn backup<'a>(&'a self, archive: &'a mut ArchiveWriter, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(backup::backup(&self.0, archive, progress))
    }

    fn restore<'a>(
        &'a self,
        archive: ArchiveReader,
        collections: &'a [Collection],
        _: OnProgress<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn PendingRestore>>> {
        Box::pin(async move {
            let held = LockedRestore::prepare(archive, &self.0, collections).await?;
            Ok(Box::new(held) as Box<dyn PendingRestore>)
        })
    }

    fn check<'a>(&'a self, collections: &'a [Collection], progress: OnProgress<'a>) -> BoxFuture<'a, Result<Findings>> {
        Box::pin(check::check(&self.0, collections, progress))
    }
}
