//! The embedded engine: one folder with one SQLite database, for a daemon that stands alone.

use std::path::Path;
use std::sync::Arc;

use crate::{Result, Store, StoreError};

/// What can be set when a folder is opened; the defaults are what the daemon runs with.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The largest document in bytes.
    pub document_limit: usize,
    /// At most so many reads at a time; threads and connections are made when needed.
    pub readers: usize,
    /// The database may grow to so many pages of 4 KiB; beyond, it behaves as on a full disk.
    pub page_limit: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { document_limit: 4 * 1024 * 1024, readers: 4, page_limit: None }
    }
}

/// A store in a folder of this machine.
pub struct SqliteStore;

impl SqliteStore {
    /// Opens the folder.
    pub fn open(_folder: impl AsRef<Path>, _options: SqliteOptions) -> Result<Arc<dyn Store>> {
        Err(StoreError::Unavailable("not built yet".into()))
    }
}
