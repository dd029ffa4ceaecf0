//! `oo backup`: saves all data of the daemon in a local file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use openorch_sdk::{StreamingResponse, api::platform::BACKUP, http::Method};

use crate::{context::Context, error::CliError, raw};

/// First bytes of a backup, which is an SQLite database (https://www.sqlite.org/fileformat.html, 1.2).
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// Read timeout: the daemon finishes its copy before it sends the first byte.
const READ_TIMEOUT: Duration = Duration::from_secs(3600);

pub async fn run(context: &Context, file: &Path) -> Result<String, CliError> {
    // Checked before the daemon starts the backup.
    let part = PartialFile::create(file)?;
    let mut connection = context.connection_for(BACKUP.row)?;
    connection.client = connection.client.with_read_timeout(READ_TIMEOUT)?;
    let asked = connection.client.stream(Method::POST, BACKUP.row.path, None);
    let answer = context.await_answer(&connection, Some(BACKUP.row.id), asked).await?;
    if !answer.status.is_success() {
        let refusal = raw::refusal(BACKUP.row.id.into(), answer.read_to_end().await?);
        return Err(context.with_hint(refusal, connection.caller.as_ref()));
    }
    let size = part.save(answer).await?;
    Ok(format!(
        "saved all data of {1} in `{0}`, {size} bytes; keep the file safe: it contains secrets",
        file.display(),
        connection.client.url()
    ))
}

/// The incomplete file, under a temporary name. Dropping it removes the file.
struct PartialFile<'a> {
    file: &'a Path,
    path: PathBuf,
    open: File,
}

impl PartialFile<'_> {
    fn create(file: &Path) -> Result<PartialFile<'_>, CliError> {
        ensure_absent(file)?;
        let mut path = file.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let open = options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CliError::Usage(format!(
                "`{}` already exists: another backup is running or was interrupted; remove the file, or choose another name",
                path.display()
            )),
            _ => cannot_write(&path, &error),
        })?;
        Ok(PartialFile { file, path, open })
    }

    async fn save(mut self, mut answer: StreamingResponse) -> Result<u64, CliError> {
        let mut size = 0;
        let mut head: Vec<u8> = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if size < SQLITE_MAGIC.len() as u64 {
                head.extend(piece.iter().take(SQLITE_MAGIC.len() - head.len()));
            }
            self.open.write_all(&piece).map_err(|error| cannot_write(&self.path, &error))?;
            size += piece.len() as u64;
        }
        if head != SQLITE_MAGIC {
            return Err(CliError::Other("the server's response is not a backup; is it an OpenOrch daemon?".into()));
        }
        self.open.sync_all().map_err(|error| cannot_write(&self.path, &error))?;
        ensure_absent(self.file)?;
        fs::rename(&self.path, self.file).map_err(|error| cannot_write(self.file, &error))?;
        Ok(size)
    }
}

impl Drop for PartialFile<'_> {
    fn drop(&mut self) {
        // Fails after the rename, when the file no longer has this name.
        let _ = fs::remove_file(&self.path);
    }
}

fn ensure_absent(file: &Path) -> Result<(), CliError> {
    match file.exists() {
        false => Ok(()),
        true => Err(CliError::Usage(format!("`{}` already exists; choose another name", file.display()))),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::Other(format!("cannot write `{}`: {error}", path.display()))
}
