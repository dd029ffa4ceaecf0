//! A backup that a running daemon makes for a caller over the network: made as a file, which has no name any more
//! while it is sent.

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

use crate::keep;

/// Bytes of a piece, and how many wait to be sent.
const PIECE: usize = 64 << 10;
const WAITING: usize = 2;

/// The name of the file while it is made begins so.
const PREFIX: &str = "openorch-backup-";

/// Makes backups, one at a time.
pub struct Backups {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    /// Where it is made; where there is no such folder, the system's for temporary files.
    folder: PathBuf,
    /// The key that the daemon made for itself.
    key: Option<String>,
    one: Arc<Mutex<()>>,
}

impl Backups {
    /// Removes what a daemon left that was killed while it made one.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        ids: Arc<Ids>,
        folder: PathBuf,
        key: Option<String>,
    ) -> Arc<Backups> {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                // Best effort: it is in nobody's way.
                let _ = fs::remove_file(entry.path());
            }
        }
        Arc::new(Backups { store, clock, ids, folder, key, one: Arc::default() })
    }

    /// Makes one, and gives it away.
    pub async fn make(self: Arc<Backups>) -> Result<Download> {
        let turn = self.one.clone().try_lock_owned();
        let turn = turn.map_err(|_| {
            Error::new(&openorch_api::platform::BACKUP_RUNNING, "another backup is being made; wait for it")
        })?;
        let folder = if self.folder.is_dir() { self.folder.clone() } else { env::temp_dir() };
        let path = folder.join(format!("{PREFIX}{}", self.ids.random("bak")));
        self.store.back_up(&path, &self.notes()).await?;
        let file = File::open(&path);
        fs::remove_file(&path).map_err(Error::internal)?;
        Ok(sent(file.map_err(Error::internal)?, turn))
    }

    fn notes(&self) -> Notes {
        keep::notes(self.clock.now(), self.key.clone())
    }
}

/// Reads the file, on a thread that may wait for the disk, as fast as it is sent. The next one waits for `turn`.
fn sent(mut file: File, turn: OwnedMutexGuard<()>) -> Download {
    let (pieces, mut coming) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        loop {
            let mut piece = vec![0; PIECE];
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
    Download { pieces: Box::new(move |context| coming.poll_recv(context)), held: (WAITING + 1) * PIECE }
}
