//! `openorch backup`, `restore` and `check`: maintenance of the data, with or without a running daemon.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use openorch_store::{ArchiveReader, ArchiveWriter, Newest, Notes, Progress, SqliteEngine};

use crate::{Settings, StartError, VERSION, engine, settings::Engine, start::collections};

/// Minimum interval between progress updates.
const PAUSE: Duration = Duration::from_millis(200);
/// Keys of the notes in a backup.
const ENCRYPTION_KEY: &str = "encryption_key";
const MADE_AT: &str = "made_at";
const MADE_BY: &str = "version";

/// Writes a consistent snapshot of all data to a new file. A generated encryption key is included; a configured one is
/// not. Returns a message for the operator.
pub async fn backup(settings: &Settings, file: &Path, now: Timestamp) -> Result<String, StartError> {
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty() && !directory.is_dir())
    {
        return Err(StartError(format!(
            "the directory `{}` for the backup does not exist; create it, or name another file",
            directory.display()
        )));
    }
    let folder = settings.server_dir();
    let key = match settings.engine() {
        Engine::Sqlite => settings.secrets.generated_key(&folder)?,
        Engine::Postgres => None,
    };
    let about_key = match key {
        Some(_) => "it includes the encryption key: protect it like the data directory",
        None => "it does not include the encryption key: back up OPENORCH_ENCRYPTION_KEY too",
    };
    let notes = notes(now, key);
    let mut meter = Meter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let engine = engine::of(settings)?;
    let mut archive = ArchiveWriter::create(file)?;
    engine.backup(&mut archive, &mut show).await?;
    let size = archive.finish(&notes)?;
    meter.end();
    Ok(format!("`{}` contains all data of {}, {}; {about_key}", file.display(), engine::place(settings), bytes(size)))
}

/// The notes of a backup, with the encryption key if it was generated.
pub(crate) fn notes(now: Timestamp, key: Option<String>) -> Notes {
    let mut notes: Notes = vec![(MADE_AT.into(), now.to_string()), (MADE_BY.into(), VERSION.into())];
    notes.extend(key.map(|key| (ENCRYPTION_KEY.into(), key)));
    notes
}

/// Restores a backup into an empty directory or schema. Returns a message for the operator.
pub async fn restore(settings: &Settings, file: &Path) -> Result<String, StartError> {
    let mut meter = Meter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let (engine, collections) = (engine::of(settings)?, collections());
    let restoring = engine.restore(ArchiveReader::open(file)?, &collections, &mut show).await?;
    let notes = restoring.notes().clone();
    // The key is stored before the data, which cannot be read without it.
    let about_key = note(&notes, ENCRYPTION_KEY).map(|key| put_down(settings, key)).transpose()?;
    restoring.finish(&mut show).await?;
    meter.end();
    let made_at = note(&notes, MADE_AT).and_then(|at| at.parse::<Timestamp>().ok());
    let made = made_at.map_or(String::new(), |at| format!(" as of {at}"));
    let about_key = about_key.unwrap_or_else(|| " with its original OPENORCH_ENCRYPTION_KEY".into());
    let place = in_front(engine::place(settings));
    Ok(format!("{place} contains the data of `{}`{made}; start the daemon{about_key}", file.display()))
}

/// Stores a generated key where the next start finds it. Returns how to start the daemon.
fn put_down(settings: &Settings, key: &str) -> Result<String, StartError> {
    let folder = settings.server_dir();
    match settings.engine() {
        Engine::Sqlite => settings.secrets.put_back(&folder, key).map(str::to_owned),
        Engine::Postgres => settings.secrets.hand_over(&folder, key),
    }
}

/// Checks the data, or a SQLite database in another directory. Returns a message for the operator, or an error if there
/// are problems. `accept` allows the next start on a sound database that lacks its newest writes.
pub async fn check(settings: &Settings, folder: Option<&Path>, accept: bool) -> Result<String, StartError> {
    let mut meter = Meter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let own = settings.server_dir();
    let folder = match (folder, settings.engine()) {
        (Some(folder), _) => Some(folder),
        (None, Engine::Sqlite) => Some(own.as_path()),
        (None, Engine::Postgres) => None,
    };
    if folder.is_none() && accept {
        return Err(StartError("--accept applies to SQLite only; a database server keeps its own log".into()));
    }
    let engine = match folder {
        Some(folder) => Box::new(SqliteEngine::new(folder)),
        None => engine::of(settings)?,
    };
    let findings = engine.check(&collections(), &mut show).await?;
    meter.end();
    let place = folder.map_or_else(|| in_front(engine::place(settings)), |folder| format!("`{}`", folder.display()));
    if findings.problems.is_empty() {
        let sound = format!("{place} is sound: {} documents were checked", findings.documents);
        return match (findings.lacks_writes, folder) {
            (Some(_), Some(folder)) if accept => {
                let newest = openorch_store::accept(folder)?;
                Ok(format!("{sound}; {}. It is accepted; the daemon can start on it", in_words(newest)))
            }
            (Some(why), _) => Err(StartError(why)),
            (None, _) => Ok(sound),
        };
    }
    let count = findings.problems.len() as u64 + findings.further;
    let mut text = format!("{place} has {count} problems; restore a backup made before them:");
    findings.problems.iter().for_each(|problem| text += &format!("\n  {problem}"));
    if findings.further > 0 {
        text += &format!("\n  … and {} more", findings.further);
    }
    Err(StartError(text))
}

fn in_words(newest: Option<Newest>) -> String {
    match newest {
        Some(Newest { collection, id, time, .. }) => {
            let time = time.map_or(String::new(), |time| format!(" of {time}"));
            format!("its newest entry is `{id}` in {collection}{time}")
        }
        None => "it has no entry".into(),
    }
}

fn note<'a>(notes: &'a Notes, wanted: &str) -> Option<&'a str> {
    notes.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.as_str())
}

/// Capitalizes the beginning of a sentence.
fn in_front(text: String) -> String {
    match text.strip_prefix("the ") {
        Some(rest) => format!("The {rest}"),
        None => text,
    }
}

/// Shows the progress of a long operation: on a terminal in one line, which is erased at the end, otherwise in
/// occasional lines.
struct Meter {
    is_terminal: bool,
    said: Option<Instant>,
}

impl Meter {
    fn new() -> Meter {
        Meter { is_terminal: std::io::stderr().is_terminal(), said: None }
    }

    fn show(&mut self, progress: Progress<'_>) {
        let pause = if self.is_terminal { PAUSE } else { 25 * PAUSE };
        let now = Instant::now();
        // An operation that ends quickly prints nothing.
        let said = *self.said.get_or_insert(now);
        if now - said < pause {
            return;
        }
        self.said = Some(now);
        let percent = progress.done * 100 / progress.of.max(1);
        let (start, end) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // A closed stderr must not stop the operation.
        let _ = write!(std::io::stderr(), "{start}{}: {percent} %{end}", progress.what);
    }

    fn end(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn bytes(size: u64) -> String {
    match size {
        0..1_048_576 => format!("{} KiB", size.div_ceil(1024)),
        _ => format!("{:.1} MiB", size as f64 / 1_048_576.0),
    }
}
