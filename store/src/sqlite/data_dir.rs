//! The data directory: its lock, and whether its database is the one it belongs to. Knows nothing of collections; the
//! tables created here are the store's own.
//!
//! A lock file keeps other daemons out (by a lock of the operating system, so a dead process never blocks) and records
//! the database id once the first seeding is committed. Everything that can be checked is checked before the database
//! is opened for writing, so a refused directory is left unchanged.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    config::DbConfig,
    limits::Limit,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    clean_shutdown,
    errors::{from_file, from_io, from_sqlite},
    open_files::OpenFiles,
    schema_check,
    schema_check::{harden, harden_for_file},
};
use crate::{Result, StoreError, archive, sql::random_id};

/// The layout version of tables and keys. 2 added tables for lists and `min_compatible`, 3 the clean-shutdown flag. Any
/// other form of tables, indexes or declarations needs a new layout, since a start refuses what it does not know
/// (`schema_check.rs`).
pub(super) const LAYOUT: u32 = 3;
/// The lowest layout that a program must know to write here; stored in each database, so that an older program can
/// refuse it. Programs that only know layout 1 would not update the tables of lists, those that only know 2 not the
/// flag.
const MIN_COMPATIBLE: u32 = 3;

/// The maximum length of a value in an untrusted file.
const MAX_VALUE_BYTES: i32 = 64 << 20;
/// The number of SQLite VM steps that reading a file may take: a row of a few bytes takes about twenty.
const FREE_STEPS: u64 = 1_000_000;
const STEPS_PER_BYTE: u64 = 16;
/// The number of steps between two checks of the remaining budget.
const STEPS_PER_CHECK: i32 = 10_000;

const LOCK: &str = "openorch.lock";
pub(super) const DATABASE: &str = "openorch.db";
/// "OpOr", in the header of every database of ours.
const APPLICATION_ID: u32 = 0x4F70_4F72;
/// The store's own tables, and the statements that create them.
pub(super) const OWN_TABLES: [(&str, &str); 2] = [
    ("_store_info", "CREATE TABLE _store_info(key TEXT PRIMARY KEY, value) WITHOUT ROWID"),
    (
        "_store_meta",
        "CREATE TABLE _store_meta(collection TEXT PRIMARY KEY, spec TEXT NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID",
    ),
];
/// In the lock file until there is a database id.
const NO_ID: &str = "--------------------------------";

/// A data directory that this process has locked, until the value is dropped.
pub(super) struct DataDir {
    /// The path of the database.
    pub(super) database: PathBuf,
    /// The id of the database.
    pub(super) database_id: String,
    /// Whether the database was seeded when the directory was opened.
    pub(super) seeded: bool,
    /// Detects removed or replaced files.
    pub(super) open_files: OpenFiles,
    lock: File,
    lock_path: PathBuf,
}

/// The identity and state recorded in a database.
pub(crate) struct DatabaseInfo {
    pub(crate) id: String,
    pub(crate) seeded: bool,
    /// Whether the clean-shutdown flag is set.
    pub(super) is_clean: bool,
}

impl DataDir {
    /// Locks the directory and verifies that its database is ours and the right one, or creates a new one.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        create_data_dir(directory)?;
        let lock_path = directory.join(LOCK);
        let mut lock = acquire_lock(directory, &lock_path)?;
        let recorded_id = read_id(&mut lock).map_err(|error| from_io(&error, "reading", &lock_path))?;
        write_pid(&mut lock, recorded_id.as_deref()).map_err(|error| from_io(&error, "writing", &lock_path))?;

        let database = directory.join(DATABASE);
        let identity = match (read_info(&database)?, &recorded_id) {
            (Some(found), Some(wanted)) if found.id == *wanted => DatabaseInfo { seeded: true, ..found },
            (Some(found), Some(wanted)) => return Err(wrong_database(&database, &found.id, wanted, &lock_path)),
            (None, Some(wanted)) => return Err(missing_database(&database, wanted, directory)),
            // Seeded, but not recorded in the lock file: it was lost, or a crash came between the two writes.
            (Some(found), None) if found.seeded => found,
            // An unfinished first start. It had not acknowledged anything yet.
            (Some(_), None) => {
                remove_database(&database)?;
                create(&database)?
            }
            (None, None) => create(&database)?,
        };
        clean_shutdown::require(&identity, &database)?;
        restrict_permissions(&database);
        let place = OpenFiles::new(&database, &lock_path);
        let this =
            Self { database, database_id: identity.id, seeded: identity.seeded, open_files: place, lock, lock_path };
        if this.seeded && recorded_id.is_none() {
            this.record_id()?;
        }
        Ok(this)
    }

    /// Writes the database id into the lock file.
    pub(super) fn record_id(&self) -> Result<()> {
        let write = || {
            let mut lock = &self.lock;
            lock.seek(SeekFrom::Start(0))?;
            lock.write_all(format!("database {}\n", self.database_id).as_bytes())?;
            lock.sync_all()
        };
        write().map_err(|error| from_io(&error, "writing", &self.lock_path))
    }

    /// Releases the lock of the directory.
    pub(super) fn release(&self) {
        // The operating system does the same when this process ends.
        let _ = self.lock.unlock();
    }

    /// A connection for reading with all of its files open; `None` if the files at the paths are not ours any more.
    pub(super) fn connect_reader(&self) -> Result<Option<Connection>> {
        if !self.open_files.may_open_by_path() {
            return Ok(None);
        }
        let connection = self.connect()?;
        // It never checkpoints or removes the log: the writer does.
        let open_log = |connection: &Connection| {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.query_row("PRAGMA user_version", [], |_| Ok(()))
        };
        open_log(&connection).map_err(|error| from_sqlite(error, "opening a reader"))?;
        // If the files are in place after opening, they are the ones that were opened.
        Ok(self.open_files.may_open_by_path().then_some(connection))
    }

    /// A connection to the database, which must exist.
    pub(super) fn connect(&self) -> Result<Connection> {
        let doing = || format!("opening `{}`", self.database.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.database, flags)
            .and_then(harden)
            .map_err(|error| from_sqlite(error, &doing()))?;
        // SQLite silently opens a database read-only if it may not write.
        if connection.is_readonly("main").map_err(|error| from_sqlite(error, &doing()))? {
            let denied = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(from_io(&denied, "opening for writing", &self.database));
        }
        Ok(connection)
    }
}

fn wrong_database(database: &Path, found: &str, wanted: &str, lock: &Path) -> StoreError {
    StoreError::Corrupt(format!(
        "`{}` is database {found}, but this directory belongs to database {wanted}; put that one back, with its own \
         `-wal` file or none, or, to use this one, remove `{}`. Nothing was changed",
        database.display(),
        lock.display()
    ))
}

fn missing_database(database: &Path, wanted: &str, folder: &Path) -> StoreError {
    StoreError::Corrupt(format!(
        "`{}` is missing or empty, but this directory belongs to database {wanted}; restore it from a backup, or, to \
         start without data, move the directory `{}` away. Nothing was changed",
        database.display(),
        folder.display()
    ))
}

pub(super) fn create_data_dir(directory: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|error| from_io(&error, "creating the directory", directory))?;
    #[cfg(unix)]
    if let Ok(found) = fs::metadata(directory) {
        use std::os::unix::fs::MetadataExt;
        let (owner, own) = (found.uid(), rustix::process::geteuid().as_raw());
        if owner != own {
            tracing::warn!(
                "the data directory `{}` belongs to user {owner}, but the daemon runs as user {own}: that user can \
                 read and change all data",
                directory.display()
            );
        }
    }
    restrict_permissions(directory);
    Ok(())
}

/// The directory contains secrets, so permissions of other users are removed. Best effort: some file systems have no
/// permissions, and a directory may belong to another user who shares it on purpose.
fn restrict_permissions(path: &Path) {
    #[cfg(unix)]
    if let Ok(found) = fs::metadata(path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700));
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

pub(crate) fn open_private(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A user who can write to the directory must not be able to redirect this to another file by a link, or block a
        // start with a pipe.
        options.mode(0o600).custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32);
    }
    let file = options.open(path).map_err(|error| from_io(&error, "opening", path))?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        let other = io::Error::other("it is not a regular file; move it away");
        return Err(from_io(&other, "opening", path));
    }
    restrict_permissions(path);
    Ok(file)
}

/// A locked data directory whose database is about to be restored.
pub(super) struct LockedDataDir {
    /// Holds the lock until it is dropped.
    pub(super) file: File,
    /// Whether the lock file records a database.
    pub(super) has_database: bool,
}

/// Locks a directory without opening its database.
pub(super) fn lock_data_dir(directory: &Path) -> Result<LockedDataDir> {
    let path = directory.join(LOCK);
    let mut file = acquire_lock(directory, &path)?;
    let has_database = read_id(&mut file).map_err(|error| from_io(&error, "reading", &path))?.is_some();
    Ok(LockedDataDir { file, has_database })
}

fn acquire_lock(directory: &Path, path: &Path) -> Result<File> {
    let mut lock = open_private(path)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = match lock.read_to_string(&mut text) {
                Ok(_) => text.lines().find_map(|line| line.strip_prefix("pid ")).map(str::trim),
                Err(_) => None,
            };
            Err(StoreError::InUse(format!(
                "the data directory `{}` is in use by another daemon (pid {}); stop that one, or choose another \
                 directory",
                directory.display(),
                holder.unwrap_or("unknown")
            )))
        }
        Err(TryLockError::Error(error)) => Err(from_io(&error, "locking", path)),
    }
}

/// The lock file has two lines: `database <id>` and `pid <number>`. The first is written in place and only once, so
/// that a crash at a later start cannot lose it.
fn read_id(lock: &mut File) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    lock.seek(SeekFrom::Start(0))?;
    lock.take(1024).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let id = text.lines().next().and_then(|line| line.strip_prefix("database "));
    Ok(id.filter(|id| id.len() == NO_ID.len() && id.bytes().all(|b| b.is_ascii_hexdigit())).map(str::to_owned))
}

fn write_pid(lock: &mut File, id: Option<&str>) -> io::Result<()> {
    if id.is_none() {
        lock.set_len(0)?;
        lock.seek(SeekFrom::Start(0))?;
        lock.write_all(format!("database {NO_ID}\n").as_bytes())?;
    }
    lock.seek(SeekFrom::Start(format!("database {NO_ID}\n").len() as u64))?;
    lock.write_all(format!("pid {:<10}\n", std::process::id()).as_bytes())
}

/// Reads the identity of a database without changing it: `None` if there is no database, an error if the file is not a
/// sound database of ours or contains foreign objects.
pub(crate) fn read_info(database: &Path) -> Result<Option<DatabaseInfo>> {
    let Some((identity, problems)) = inspect(database)? else { return Ok(None) };
    schema_check::refuse(&problems, database)?;
    // An archive is a database too, and may have been copied here as it is.
    let connection = open_read_only(database).map_err(|error| from_file(error, database))?;
    archive::require_sections(&connection, database)?;
    Ok(Some(identity))
}

/// The same, but returns the problems of its tables and indexes instead of refusing them.
pub(super) fn inspect(database: &Path) -> Result<Option<(DatabaseInfo, Vec<String>)>> {
    let wal_length = fs::metadata(with_suffix(database, "-wal")).map_or(0, |wal| wal.len());
    let length = match fs::metadata(database) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(from_io(&error, "reading", database)),
    };
    if length == 0 && wal_length == 0 {
        return Ok(None);
    }
    let layout = check_header(database, length, wal_length)?;

    let read = |connection: Connection| {
        // First, because nothing may be read from a table that is not as we created it.
        let problems = schema_check::problems(&connection)?;
        connection.query_row(
            "SELECT (SELECT value FROM _store_info WHERE key = 'database_id'), \
                    (SELECT value FROM _store_info WHERE key = 'seeded'), \
                    (SELECT value FROM _store_info WHERE key = 'min_compatible'), \
                    (SELECT value FROM _store_info WHERE key = 'clean_stop'), \
                    (SELECT value FROM _store_info WHERE key = 'last_version')",
            [],
            |row| {
                let identity = DatabaseInfo {
                    id: row.get(0)?,
                    seeded: row.get::<_, i64>(1)? != 0,
                    is_clean: clean_shutdown::is_set(layout, row.get(3)?),
                };
                // Required at each start.
                row.get::<_, i64>(4)?;
                Ok((identity, problems, row.get::<_, Option<u32>>(2)?))
            },
        )
    };
    match open_read_only(database).and_then(read) {
        Ok((identity, problems, min_compatible)) => {
            check_layout(database, layout, min_compatible)?;
            Ok(Some((identity, problems)))
        }
        Err(_) if layout > LAYOUT => check_layout(database, layout, None).map(|()| None),
        Err(error) => match from_file(error, database) {
            // One of our tables or a value in it is missing.
            StoreError::Internal(why) => Err(StoreError::Corrupt(format!("{why}; restore a backup"))),
            other => Err(other),
        },
    }
}

/// A read-only connection that creates no files beside the database.
pub(crate) fn open_read_only(database: &Path) -> rusqlite::Result<Connection> {
    // Without a log, `immutable` keeps SQLite from creating files; with one, a reader leaves it in place.
    let has_log = fs::metadata(with_suffix(database, "-wal")).is_ok_and(|wal| wal.len() > 0);
    let immutable = if has_log { "" } else { "?immutable=1" };
    let uri = format!("file:{}{immutable}", uri_path(database));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&uri, flags).and_then(harden_for_file)?;
    limit_read_cost(connection, database)
}

/// Limits the cost of reading an untrusted file: its pages may form a cycle, and its values may claim to be longer than
/// the file. The limit is far above the maximum cost of a valid file of its size.
fn limit_read_cost(mut connection: Connection, database: &Path) -> rusqlite::Result<Connection> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let mut left = FREE_STEPS + STEPS_PER_BYTE * (length(database) + length(&with_suffix(database, "-wal")));
    let spend = move || {
        left = left.saturating_sub(STEPS_PER_CHECK.unsigned_abs().into());
        left == 0
    };
    connection.progress_handler(STEPS_PER_CHECK, Some(spend))?;
    Ok(connection)
}

/// A connection that works with or without a running daemon and leaves the log in place: a database without its log
/// looks like one that is missing its newest writes.
pub(super) fn open_alongside(database: &Path) -> rusqlite::Result<Connection> {
    let had_log = clean_shutdown::has_log(database);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).and_then(harden_for_file)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, had_log)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// The id and the last version of the database at a path, read from the main file alone.
pub(super) fn read_main_file(database: &Path) -> rusqlite::Result<(String, i64)> {
    let uri = format!("file:{}?immutable=1", uri_path(database));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags).and_then(harden)?.query_row(
        "SELECT (SELECT value FROM _store_info WHERE key = 'database_id'), \
                (SELECT value FROM _store_info WHERE key = 'last_version')",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// The layout version in the header, if it is the header of a sound database of ours.
fn check_header(database: &Path, length: u64, wal_length: u64) -> Result<u32> {
    let refused = |why: &str| {
        Err(StoreError::Corrupt(format!(
            "`{}` {why}; restore it from a backup, or move it away. Nothing was changed",
            database.display()
        )))
    };
    if length == 0 {
        return refused("is missing or empty while its log `-wal` is not");
    }
    let mut header = [0; 100];
    let read = File::open(database).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return refused("is not a database of OpenOrch"),
        Err(error) => return Err(from_io(&error, "reading", database)),
        Ok(()) => {}
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if !header.starts_with(b"SQLite format 3\0") || number(68) != APPLICATION_ID {
        return refused("is not a database of OpenOrch");
    }
    let page_size = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65536,
        size => size,
    };
    // With a log, the file may be shorter than its header says until the log is checkpointed.
    if wal_length == 0 && u64::from(number(28)) * page_size > length {
        return refused("is truncated");
    }
    Ok(number(60))
}

/// Refuses a database of a newer version, unless it declares compatibility with this one.
fn check_layout(database: &Path, layout: u32, min_compatible: Option<u32>) -> Result<()> {
    if layout > LAYOUT && min_compatible.unwrap_or(layout) > LAYOUT {
        return Err(StoreError::Unavailable(format!(
            "`{}` was written by a newer version (layout {layout}, this version knows {LAYOUT}); start that version, or \
             restore a backup made before it. Nothing was changed",
            database.display()
        )));
    }
    Ok(())
}

/// Upgrades an older layout, after copying the whole database.
pub(super) fn upgrade(connection: &Connection, database: &Path) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("upgrading `{}`", database.display()));
    let layout: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if layout >= LAYOUT {
        return Ok(());
    }
    let copy = database.with_file_name(format!("openorch-layout-{layout}.db"));
    // Leftovers of an interrupted upgrade; the database itself is unchanged.
    remove_database(&copy)?;
    drop(open_private(&copy)?);
    if let Err(error) = copy_into(connection, &copy).map_err(failed) {
        // Best effort: an incomplete copy is useless.
        let _ = remove_database(&copy);
        return Err(error);
    }
    sync_file(&copy)?;
    sync_parent_dir(&copy)?;
    tracing::info!(
        "the database is upgraded from layout {layout} to layout {LAYOUT}; a copy of the old database is in `{}`",
        copy.display()
    );
    let steps = format!(
        "BEGIN IMMEDIATE;
         INSERT INTO _store_info VALUES ('min_compatible', {MIN_COMPATIBLE})
           ON CONFLICT(key) DO UPDATE SET value = {MIN_COMPATIBLE};
         INSERT INTO _store_info VALUES ('clean_stop', 1) ON CONFLICT(key) DO UPDATE SET value = 1;
         PRAGMA user_version = {LAYOUT};
         COMMIT;"
    );
    connection.execute_batch(&steps).map_err(|error| {
        // If this fails too, closing the connection rolls back.
        let _ = connection.execute_batch("ROLLBACK");
        failed(error)
    })
}

/// Writes a compacted snapshot of the database into a new or empty file.
pub(super) fn copy_into(connection: &Connection, copy: &Path) -> rusqlite::Result<()> {
    // The path is bytes, but SQLite expects a text value.
    let name = ToSqlOutput::Borrowed(ValueRef::Text(copy.as_os_str().as_encoded_bytes()));
    connection.execute("VACUUM INTO ?", [name]).map(drop)
}

/// Creates the database under a temporary name and renames it, so that a crash leaves all of it or nothing.
fn create(database: &Path) -> Result<DatabaseInfo> {
    let new = database.with_extension("db.new");
    let made = remove_database(&new).and_then(|()| fill_new(&new)).and_then(|identity| {
        fs::rename(&new, database).map_err(|error| from_io(&error, "making", database))?;
        sync_parent_dir(database)?;
        Ok(identity)
    });
    if made.is_err() {
        // Best effort: leftovers are removed at the next start.
        let _ = remove_database(&new);
    }
    made
}

fn fill_new(new: &Path) -> Result<DatabaseInfo> {
    let id = random_id()?;
    drop(open_private(new)?);
    let fill = || {
        let connection = Connection::open_with_flags(new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch("PRAGMA synchronous = FULL; BEGIN")?;
        make_own_tables(&connection, &id, false, 0)?;
        connection.execute_batch("COMMIT; PRAGMA journal_mode = WAL")?;
        connection.close().map_err(|(_, error)| error)
    };
    fill().map_err(|error| from_sqlite(error, &format!("making `{}`", new.display())))?;
    Ok(DatabaseInfo { id, seeded: false, is_clean: true })
}

/// Creates the store's own tables, within the caller's transaction.
pub(crate) fn make_own_tables(connection: &Connection, id: &str, seeded: bool, last: i64) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {LAYOUT};"
    ))?;
    for (_, statement) in OWN_TABLES {
        connection.execute_batch(statement)?;
    }
    connection
        .execute(
            "INSERT INTO _store_info VALUES ('database_id', ?), ('seeded', ?), ('last_version', ?), ('min_compatible', ?), \
             ('clean_stop', 1)",
            (id, i64::from(seeded), last, MIN_COMPATIBLE),
        )
        .map(drop)
}

/// The log is removed first: a log without its database must never meet another one.
pub(crate) fn remove_database(database: &Path) -> Result<()> {
    remove_side_files(database)?;
    remove(database)
}

/// Removes the files that SQLite creates beside a database.
pub(crate) fn remove_side_files(database: &Path) -> Result<()> {
    ["-wal", "-shm", "-journal"].iter().try_for_each(|end| remove(&with_suffix(database, end)))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(from_io(&error, "removing", path)),
        _ => Ok(()),
    }
}

pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| from_io(&error, "writing", path))
}

pub(crate) fn sync_parent_dir(file: &Path) -> Result<()> {
    #[cfg(unix)]
    if let Some(folder) = file.parent() {
        // A bare file name is in the current directory.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| from_io(&error, "syncing the directory", folder))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

pub(crate) fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path for a SQLite URI: every byte with a special meaning is escaped.
fn uri_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut uri = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b':' => uri.push(byte.into()),
            b'\\' if cfg!(windows) => uri.push('/'),
            _ if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    if cfg!(windows) { format!("///{uri}") } else { uri }
}
