//! `oo backup`: saves all data of the daemon in a local file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use openorch_sdk::{OpenResponse, api::platform::BACKUP, http::Method};

use crate::{context::Context, failure::Failure, raw};

/// First bytes of a backup, which is an SQLite database (https://www.sqlite.org/fileformat.html, 1.2).
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Read timeout: the daemon finishes its copy before it sends the first byte.
const SILENCE: Duration = Duration::from_secs(3600);

pub async fn run(context: &Context, file: &Path) -> Result<String, Failure> {
    // Checked before the daemon starts the backup.
    let part = Part::make(file)?;
    let mut connection = context.connection_for(BACKUP.row)?;
    connection.client = connection.client.with_silence_limit(SILENCE)?;
    let asked = connection.client.open(Method::POST, BACKUP.row.path, None);
    let answer = context.answered(&connection, Some(BACKUP.row.id), asked).await?;
    if !answer.status.is_success() {
        let refusal = raw::refusal(BACKUP.row.id.into(), answer.whole().await?);
        return Err(context.explained(refusal, connection.caller.as_ref()));
    }
    let size = part.fill(answer).await?;
    Ok(format!(
        "saved all data of {1} in `{0}`, {size} bytes; keep the file safe: it contains secrets",
        file.display(),
        connection.client.url()
    ))
}

/// The incomplete file, under a temporary name. Dropping it removes the file.
struct Part<'a> {
    file: &'a Path,
    path: PathBuf,
    open: File,
}

impl Part<'_> {
    fn make(file: &Path) -> Result<Part<'_>, Failure> {
        refuse_another(file)?;
        let mut path = file.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let open = options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::Usage(format!(
                "`{}` already exists: another backup is running or was interrupted; remove the file, or choose another name",
                path.display()
            )),
            _ => cannot_write(&path, &error),
        })?;
        Ok(Part { file, path, open })
    }

    async fn fill(mut self, mut answer: OpenResponse) -> Result<u64, Failure> {
        let mut size = 0;
        let mut beginning: Vec<u8> = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if size < SQLITE.len() as u64 {
                beginning.extend(piece.iter().take(SQLITE.len() - beginning.len()));
            }
            self.open.write_all(&piece).map_err(|error| cannot_write(&self.path, &error))?;
            size += piece.len() as u64;
        }
        if beginning != SQLITE {
            return Err(Failure::Other("the server's response is not a backup; is it an OpenOrch daemon?".into()));
        }
        self.open.sync_all().map_err(|error| cannot_write(&self.path, &error))?;
        refuse_another(self.file)?;
        fs::rename(&self.path, self.file).map_err(|error| cannot_write(self.file, &error))?;
        Ok(size)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // Fails after the rename, when the file no longer has this name.
        let _ = fs::remove_file(&self.path);
    }
}

fn refuse_another(file: &Path) -> Result<(), Failure> {
    match file.exists() {
        false => Ok(()),
        true => Err(Failure::Usage(format!("`{}` already exists; choose another name", file.display()))),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Other(format!("cannot write `{}`: {error}", path.display()))
}
