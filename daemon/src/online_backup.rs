//! Backups of the running daemon over the network. Each is made as a file, which is unlinked before it is sent.

use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use openorch_api::Download;
use openorch_chassis::{Error, Result, clock::Clock, ids::Ids};
use openorch_store::{Notes, Store};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

use crate::maintenance;

/// Bytes of a chunk, and the number of chunks queued for sending.
const CHUNK_BYTES: usize = 64 << 10;
const QUEUED_CHUNKS: usize = 2;

/// Prefix of the temporary files.
const PREFIX: &str = "openorch-backup-";

/// Makes backups, one at a time.
pub struct Backups {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    /// Directory of the temporary file; the system's temporary directory if it does not exist.
    directory: PathBuf,
    /// The generated encryption key, if there is one.
    key: Option<String>,
    running: Arc<Mutex<()>>,
}

impl Backups {
    /// Removes temporary files of a daemon that was killed during a backup.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        ids: Arc<Ids>,
        directory: PathBuf,
        key: Option<String>,
    ) -> Arc<Backups> {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                // Best effort: a leftover file does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
        Arc::new(Backups { store, clock, ids, directory, key, running: Arc::default() })
    }

    /// Makes a backup and returns it as a download.
    pub async fn make(self: Arc<Backups>) -> Result<Download> {
        let turn = self.running.clone().try_lock_owned();
        let turn = turn.map_err(|_| {
            Error::new(&openorch_api::platform::BACKUP_RUNNING, "another backup is running; wait for it to finish")
        })?;
        let directory = if self.directory.is_dir() { self.directory.clone() } else { env::temp_dir() };
        let path = directory.join(format!("{PREFIX}{}", self.ids.random("bak")));
        self.store.back_up(&path, &self.notes()).await?;
        let file = File::open(&path);
        fs::remove_file(&path).map_err(Error::internal)?;
        Ok(stream_file(file.map_err(Error::internal)?, turn))
    }

    fn notes(&self) -> Notes {
        maintenance::notes(self.clock.now(), self.key.clone())
    }
}

/// Reads the file on a blocking thread, as fast as it is sent. `turn` is held until the end, which serializes backups.
fn stream_file(mut file: File, turn: OwnedMutexGuard<()>) -> Download {
    let (pieces, mut coming) = mpsc::channel::<io::Result<Bytes>>(QUEUED_CHUNKS);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        loop {
            let mut piece = vec![0; CHUNK_BYTES];
            let read = file.read(&mut piece);
            let is_over = !matches!(read, Ok(read) if read > 0);
            let piece = read.map(|read| {
                piece.truncate(read);
                Bytes::from(piece)
            });
            if matches!(&piece, Ok(piece) if piece.is_empty()) || pieces.blocking_send(piece).is_err() || is_over {
                return;
            }
        }
    });
    Download { pieces: Box::new(move |context| coming.poll_recv(context)), held: (QUEUED_CHUNKS + 1) * CHUNK_BYTES }
}
