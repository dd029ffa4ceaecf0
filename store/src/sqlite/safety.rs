//! What the writer does so that what is acknowledged is in the files that the next start finds: the mark of a clean stop is
//! taken away before the first write and put back at the end, and after each commit the files are looked for.

use rusqlite::ErrorCode;
use rusqlite::config::DbConfig;

use super::folder::read_file;
use super::mark;
use super::writer::Writer;
use crate::Result;

impl Writer {
    /// Writes the log back and marks the database as complete; where that cannot be, the log stays, from which the rest is
    /// read at the next start.
    pub(super) fn finish(self) {
        let place = &self.folder.place;
        let in_place = place.check().is_ok() && place.moved().is_none();
        let connection = &self.connection;
        let written_back = || {
            // What is read from another log must not meet a database that has our writes.
            if place.has_another_log() {
                return Ok(false);
            }
            match mark::set(connection) {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) && self.reserve.release() => {
                    mark::set(connection)?;
                }
                set => set?,
            }
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
        };
        if !(matches!(written_back(), Ok(true)) && in_place) {
            // Closing would remove the log that is at the path, whosever it is.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    /// Before anything is written: refuses once the files are gone, and takes the mark of a clean stop away.
    pub(super) fn may_write(&mut self) -> Result<()> {
        self.folder.place.check()?;
        if self.marked {
            mark::clear(&self.connection)?;
            self.marked = false;
        }
        Ok(())
    }

    /// Whether that would do nothing.
    pub(super) fn may_write_now(&self) -> bool {
        !self.marked && self.folder.place.check().is_ok()
    }

    /// After a commit and before it is acknowledged: whether what was written is where it will be looked for. A file that
    /// has another number now is a different one, but on file systems that give a file several numbers; those show, when
    /// something is written to the open one, the same at the path.
    pub(super) fn still_in_place(&mut self) -> Result<()> {
        let place = &self.folder.place;
        let Some(path) = place.moved() else { return Ok(()) };
        let path = path.to_owned();
        if place.is_database(&path) && self.is_the_same_database() {
            tracing::warn!(
                "the file system of `{}` gives one file several numbers, so that nothing tells when the file is removed or \
                 replaced while it is open",
                path.display()
            );
            self.folder.place.forget();
            return Ok(());
        }
        Err(self.folder.place.lose(&path))
    }

    /// Whether the database at the path is the one that is open: it has a version that was never written before.
    fn is_the_same_database(&mut self) -> bool {
        self.last_version += 1;
        let written = self.save_version().is_ok();
        if written {
            self.saved_version = self.last_version;
        }
        let checkpoint = "PRAGMA wal_checkpoint(FULL)";
        let written = written && self.connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0)) == Ok(0);
        let folder = &self.folder;
        written
            && read_file(&folder.database)
                .is_ok_and(|(id, version)| id == folder.database_id && u64::try_from(version) == Ok(self.saved_version))
    }
}
