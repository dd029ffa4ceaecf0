//! Copies the database of a data directory: a compacted snapshot, with or without a running daemon.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rusqlite::Connection;

use super::{
    clean_shutdown,
    data_dir::{DATABASE, copy_into, open_alongside, read_info},
    errors::from_sqlite,
};
use crate::{
    ArchiveWriter, Result, StoreError,
    check::{OnProgress, Progress},
};

/// The interval of progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Copies a snapshot of the database of a data directory, with or without a running daemon.
pub(super) fn backup(data_dir: &Path, archive: &ArchiveWriter, progress: OnProgress<'_>) -> Result<()> {
    let database = data_dir.join(DATABASE);
    let Some(identity) = read_info(&database)?.filter(|identity| identity.seeded) else {
        return Err(StoreError::NotFound(format!(
            "there is no data in `{}`; pass the data directory of a daemon that has been started",
            data_dir.display()
        )));
    };
    clean_shutdown::require(&identity, &database)?;
    let failed = |error| from_sqlite(error, &format!("opening `{}`", database.display()));
    copy(&open_alongside(&database).map_err(failed)?, archive.temp_path(), progress)
}

/// Copies a snapshot of the database of a connection.
pub(super) fn copy(connection: &Connection, part: &Path, progress: OnProgress<'_>) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("copying the database into `{}`", part.display()));
    let size = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";
    let of: i64 = connection.query_row(size, [], |row| row.get(0)).map_err(failed)?;
    let of = u64::try_from(of).unwrap_or_default();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let done = fs::metadata(part).map_or(0, |part| part.len());
                progress(Progress { task: "copying the database", done: done.min(of), total: of });
                thread::park_timeout(PROGRESS_INTERVAL);
            }
        });
        let copied = copy_into(connection, part).map_err(failed);
        is_over.store(true, Ordering::Release);
        copied
    })
}
