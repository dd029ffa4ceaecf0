//! Durability checks of the writer, so that the next start finds every acknowledged write: the clean-shutdown flag is
//! cleared before the first write and set at shutdown, and after each commit the files are checked.

use rusqlite::{ErrorCode, config::DbConfig};

use super::{clean_shutdown, data_dir::read_main_file, writer::Writer};
use crate::Result;

impl Writer {
    /// Checkpoints the log and sets the clean-shutdown flag; if that fails, the log is kept for recovery at the next
    /// start.
    pub(super) fn shut_down(self) {
        let place = &self.folder.open_files;
        let in_place = place.check().is_ok() && place.first_replaced().is_none();
        let connection = &self.connection;
        let written_back = || {
            // Another database's log must not be combined with a database that has our writes.
            if place.has_foreign_log() {
                return Ok(false);
            }
            match clean_shutdown::set(connection) {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) && self.reserve.release() => {
                    clean_shutdown::set(connection)?;
                }
                set => set?,
            }
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
        };
        if !(matches!(written_back(), Ok(true)) && in_place) {
            // Closing would remove the log at the path, even if it is not ours.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
    }

    /// Called before a write: refuses it once a file was removed or replaced, and clears the clean-shutdown flag.
    pub(super) fn prepare_write(&mut self) -> Result<()> {
        self.folder.open_files.check()?;
        if self.may_be_clean {
            clean_shutdown::clear(&self.connection)?;
            self.may_be_clean = false;
        }
        Ok(())
    }

    /// Whether [`Writer::prepare_write`] would have nothing to do.
    pub(super) fn is_prepared_to_write(&self) -> bool {
        !self.may_be_clean && self.folder.open_files.check().is_ok()
    }

    /// Called after a commit and before it is acknowledged: checks that the written files are the ones at their paths.
    /// A file with another inode number is a different file, except on file systems with unstable numbers. Those are
    /// detected by a write to the open file that shows at the path.
    pub(super) fn check_files(&mut self) -> Result<()> {
        let place = &self.folder.open_files;
        let Some(path) = place.first_replaced() else { return Ok(()) };
        let path = path.to_owned();
        if place.is_database(&path) && self.is_same_database() {
            tracing::warn!(
                "the file system of `{}` has unstable inode numbers, so a file that is removed or replaced while it is \
                 open is not detected",
                path.display()
            );
            self.folder.open_files.disable();
            return Ok(());
        }
        Err(self.folder.open_files.mark_replaced(&path))
    }

    /// Whether the database at the path is the open one: if so, it has the version that is written now for the first
    /// time.
    fn is_same_database(&mut self) -> bool {
        self.last_version += 1;
        let written = self.save_version().is_ok();
        if written {
            self.saved_version = self.last_version;
        }
        let checkpoint = "PRAGMA wal_checkpoint(FULL)";
        let written = written && self.connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0)) == Ok(0);
        let folder = &self.folder;
        written
            && read_main_file(&folder.database)
                .is_ok_and(|(id, version)| id == folder.database_id && u64::try_from(version) == Ok(self.saved_version))
    }
}
