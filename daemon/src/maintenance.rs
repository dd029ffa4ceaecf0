//! `openorch backup`, `restore` and `check`: maintenance of the data, with or without a running daemon.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use openorch_store::{ArchiveReader, ArchiveWriter, LastWrite, Notes, Progress, SqliteEngine};

use crate::{Settings, StartError, VERSION, engine, settings::Engine, start::collections};

/// Minimum interval between progress updates.
const UPDATE_INTERVAL: Duration = Duration::from_millis(200);
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
    let mut meter = ProgressMeter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let engine = engine::from_settings(settings)?;
    let mut archive = ArchiveWriter::create(file)?;
    engine.backup(&mut archive, &mut show).await?;
    let size = archive.finish(&notes)?;
    meter.end();
    Ok(format!(
        "`{}` contains all data of {}, {}; {about_key}",
        file.display(),
        engine::location(settings),
        bytes(size)
    ))
}

/// The notes of a backup, with the encryption key if it was generated.
pub(crate) fn notes(now: Timestamp, key: Option<String>) -> Notes {
    let mut notes: Notes = vec![(MADE_AT.into(), now.to_string()), (MADE_BY.into(), VERSION.into())];
    notes.extend(key.map(|key| (ENCRYPTION_KEY.into(), key)));
    notes
}

/// Restores a backup into an empty directory or schema. Returns a message for the operator.
pub async fn restore(settings: &Settings, file: &Path) -> Result<String, StartError> {
    let mut meter = ProgressMeter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let (engine, collections) = (engine::from_settings(settings)?, collections());
    let restoring = engine.restore(ArchiveReader::open(file)?, &collections, &mut show).await?;
    let notes = restoring.notes().clone();
    // The key is stored before the data, which cannot be read without it.
    let about_key = note(&notes, ENCRYPTION_KEY).map(|key| store_generated_key(settings, key)).transpose()?;
    restoring.finish(&mut show).await?;
    meter.end();
    let made_at = note(&notes, MADE_AT).and_then(|at| at.parse::<Timestamp>().ok());
    let made = made_at.map_or(String::new(), |at| format!(" as of {at}"));
    let about_key = about_key.unwrap_or_else(|| " with its original OPENORCH_ENCRYPTION_KEY".into());
    let place = capitalize(engine::location(settings));
    Ok(format!("{place} contains the data of `{}`{made}; start the daemon{about_key}", file.display()))
}

/// Stores a generated key where the next start finds it. Returns how to start the daemon.
fn store_generated_key(settings: &Settings, key: &str) -> Result<String, StartError> {
    let folder = settings.server_dir();
    match settings.engine() {
        Engine::Sqlite => settings.secrets.restore_key(&folder, key).map(str::to_owned),
        Engine::Postgres => settings.secrets.export_key(&folder, key),
    }
}

/// Checks the data, or a SQLite database in another directory. Returns a message for the operator, or an error if there
/// are problems. `accept` allows the next start on a sound database that lacks its newest writes.
pub async fn check(settings: &Settings, directory: Option<&Path>, accept: bool) -> Result<String, StartError> {
    let mut meter = ProgressMeter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let own = settings.server_dir();
    let folder = match (directory, settings.engine()) {
        (Some(folder), _) => Some(folder),
        (None, Engine::Sqlite) => Some(own.as_path()),
        (None, Engine::Postgres) => None,
    };
    if folder.is_none() && accept {
        return Err(StartError("--accept applies to SQLite only; a database server keeps its own log".into()));
    }
    let engine = match folder {
        Some(folder) => Box::new(SqliteEngine::new(folder)),
        None => engine::from_settings(settings)?,
    };
    let findings = engine.check(&collections(), &mut show).await?;
    meter.end();
    let place =
        folder.map_or_else(|| capitalize(engine::location(settings)), |folder| format!("`{}`", folder.display()));
    if findings.problems.is_empty() {
        let sound = format!("{place} is sound: {} documents were checked", findings.documents);
        return match (findings.missing_writes, folder) {
            (Some(_), Some(folder)) if accept => {
                let newest = openorch_store::accept_missing_writes(folder)?;
                Ok(format!("{sound}; {}. It is accepted; the daemon can start on it", describe_newest(newest)))
            }
            (Some(why), _) => Err(StartError(why)),
            (None, _) => Ok(sound),
        };
    }
    let count = findings.problems.len() as u64 + findings.unreported;
    let mut text = format!("{place} has {count} problems; restore a backup made before them:");
    findings.problems.iter().for_each(|problem| text += &format!("\n  {problem}"));
    if findings.unreported > 0 {
        text += &format!("\n  … and {} more", findings.unreported);
    }
    Err(StartError(text))
}

fn describe_newest(newest: Option<LastWrite>) -> String {
    match newest {
        Some(LastWrite { collection, id, time, .. }) => {
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
fn capitalize(text: String) -> String {
    match text.strip_prefix("the ") {
        Some(rest) => format!("The {rest}"),
        None => text,
    }
}

/// Shows the progress of a long operation: on a terminal in one line, which is erased at the end, otherwise in
/// occasional lines.
struct ProgressMeter {
    is_terminal: bool,
    last_shown: Option<Instant>,
}

impl ProgressMeter {
    fn new() -> ProgressMeter {
        ProgressMeter { is_terminal: std::io::stderr().is_terminal(), last_shown: None }
    }

    fn show(&mut self, progress: Progress<'_>) {
        let pause = if self.is_terminal { UPDATE_INTERVAL } else { 25 * UPDATE_INTERVAL };
        let now = Instant::now();
        // An operation that ends quickly prints nothing.
        let said = *self.last_shown.get_or_insert(now);
        if now - said < pause {
            return;
        }
        self.last_shown = Some(now);
        let percent = progress.done * 100 / progress.total.max(1);
        let (start, end) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // A closed stderr must not stop the operation.
        let _ = write!(std::io::stderr(), "{start}{}: {percent} %{end}", progress.task);
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
