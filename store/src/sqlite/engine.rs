//! A data directory as an [`Engine`].

use std::{path::PathBuf, sync::Arc};

use super::{SqliteOptions, SqliteStore, backup, check, restore::StagedRestore};
use crate::{
    ArchiveReader, ArchiveWriter, BoxFuture, Collection, Engine, Findings, OnProgress, PendingRestore, Result, Store,
    StoreError,
};

/// A data directory and the options to open it with.
#[derive(Debug, Clone)]
pub struct SqliteEngine {
    /// The directory of the database and its lock file.
    pub data_dir: PathBuf,
    /// The options to open it with.
    pub options: SqliteOptions,
}

impl SqliteEngine {
    /// A data directory with the default options.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { data_dir: folder.into(), options: SqliteOptions::default() }
    }
}

impl Engine for SqliteEngine {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>>> {
        let Self { data_dir: folder, options } = self.clone();
        Box::pin(async move {
            // Recovering a long log takes a while.
            let opening = tokio::task::spawn_blocking(move || SqliteStore::open(folder, options)).await;
            opening.map_err(|error| StoreError::Internal(format!("the store could not be opened: {error}")))?
        })
    }

    fn backup<'a>(&'a self, archive: &'a mut ArchiveWriter, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { backup::backup(&self.data_dir, archive, progress) })
    }

    fn restore<'a>(
        &'a self,
        archive: ArchiveReader,
        collections: &'a [Collection],
        progress: OnProgress<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn PendingRestore>>> {
        Box::pin(async move {
            let copied = StagedRestore::prepare(archive, &self.data_dir, collections, progress)?;
            Ok(Box::new(copied) as Box<dyn PendingRestore>)
        })
    }

    fn check<'a>(&'a self, collections: &'a [Collection], progress: OnProgress<'a>) -> BoxFuture<'a, Result<Findings>> {
        Box::pin(async move { check::check(&self.data_dir, collections, progress) })
    }
}
