//! `openorch backup`, `restore` and `check`: keeping the data, beside a daemon that runs or without one.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use openorch_store::{ArchiveReader, ArchiveWriter, Newest, Notes, Progress, SqliteEngine};

use crate::{Settings, StartError, VERSION, engine, settings::Engine, start::collections};

/// Between two words about the progress.
const PAUSE: Duration = Duration::from_millis(200);
/// The names of the notes in a backup.
const ENCRYPTION_KEY: &str = "encryption_key";
const MADE_AT: &str = "made_at";
const MADE_BY: &str = "version";

/// Writes all data into one new file, as of one moment. A key that the daemon made for itself goes with it; one that
/// the operator gave does not. Answers what to tell.
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
        Some(_) => "the key that decrypts it is in it: keep it as safe as the data folder",
        None => "the key that decrypts it is not in it: keep OPENORCH_ENCRYPTION_KEY as well",
    };
    let notes = notes(now, key);
    let mut meter = Meter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let engine = engine::of(settings)?;
    let mut archive = ArchiveWriter::create(file)?;
    engine.backup(&mut archive, &mut show).await?;
    let size = archive.finish(&notes)?;
    meter.end();
    Ok(format!("`{}` has all data of {}, {}; {about_key}", file.display(), engine::place(settings), bytes(size)))
}

/// What a backup says beside the documents. A key that the daemon made for itself goes with it.
pub(crate) fn notes(now: Timestamp, key: Option<String>) -> Notes {
    let mut notes: Notes = vec![(MADE_AT.into(), now.to_string()), (MADE_BY.into(), VERSION.into())];
    notes.extend(key.map(|key| (ENCRYPTION_KEY.into(), key)));
    notes
}

/// Puts the data of a backup into a folder or a schema that has none. Answers what to tell.
pub async fn restore(settings: &Settings, file: &Path) -> Result<String, StartError> {
    let mut meter = Meter::new();
    let mut show = |progress: Progress<'_>| meter.show(progress);
    let (engine, collections) = (engine::of(settings)?, collections());
    let restoring = engine.restore(ArchiveReader::open(file)?, &collections, &mut show).await?;
    let notes = restoring.notes().clone();
    // The key is put down before the data, which cannot be read without it.
    let about_key = note(&notes, ENCRYPTION_KEY).map(|key| put_down(settings, key)).transpose()?;
    restoring.finish(&mut show).await?;
    meter.end();
    let made_at = note(&notes, MADE_AT).and_then(|at| at.parse::<Timestamp>().ok());
    let made = made_at.map_or(String::new(), |at| format!(" as of {at}"));
    let about_key = about_key.unwrap_or_else(|| ", with the OPENORCH_ENCRYPTION_KEY it had".into());
    let place = in_front(engine::place(settings));
    Ok(format!("{place} has the data of `{}`{made}; start the daemon{about_key}", file.display()))
}

/// Keeps a key that a daemon made for itself where the next start finds it. Answers how that start is.
fn put_down(settings: &Settings, key: &str) -> Result<String, StartError> {
    let folder = settings.server_dir();
    match settings.engine() {
        Engine::Sqlite => settings.secrets.put_back(&folder, key).map(str::to_owned),
        Engine::Postgres => settings.secrets.hand_over(&folder, key),
    }
}

/// Looks for what is wrong with the data, or with that in another folder. Answers what to tell; an error where something
/// is wrong. `accept`: a database that lacks its newest writes and is sound otherwise may be started on again.
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
        return Err(StartError("--accept is for databases in files; a database server keeps its own log".into()));
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
                Ok(format!("{sound}; {}. It is accepted as it is, and can be started on", in_words(newest)))
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

/// The beginning of a sentence.
fn in_front(text: String) -> String {
    match text.strip_prefix("the ") {
        Some(rest) => format!("The {rest}"),
        None => text,
    }
}

/// Shows on a terminal how far a long piece of work is, in one line that is gone afterwards; says it now and then where
/// there is none.
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
        // What is over at once needs no word.
        let said = *self.said.get_or_insert(now);
        if now - said < pause {
            return;
        }
        self.said = Some(now);
        let percent = progress.done * 100 / progress.of.max(1);
        let (start, end) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody may be looking, and that is no reason to stop.
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
