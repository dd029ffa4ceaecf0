//! `openorch backup`, `restore` and `check`: keeping the data, beside a daemon that runs or without one.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use openorch_store::{Notes, Progress, Restoring};

use crate::{Settings, StartError, VERSION, start::collections, values::Engine};

/// Between two words about the progress.
const PAUSE: Duration = Duration::from_millis(200);
/// The names of the notes in a backup.
const ENCRYPTION_KEY: &str = "encryption_key";
const MADE_AT: &str = "made_at";
const MADE_BY: &str = "version";

/// Writes all data into one new file, as of one moment. A key that the daemon made for itself goes with it; one that
/// the operator gave does not. Answers what to tell.
pub fn backup(settings: &Settings, file: &Path, now: Timestamp) -> Result<String, StartError> {
    require_folder(settings)?;
    let folder = settings.server_dir();
    let key = settings.secrets.generated_key(&folder)?;
    let mut notes: Notes = vec![(MADE_AT.into(), now.to_string()), (MADE_BY.into(), VERSION.into())];
    let about_key = match key {
        Some(key) => {
            notes.push((ENCRYPTION_KEY.into(), key));
            "the key that decrypts it is in it: keep it as safe as the data folder"
        }
        None => "the key that decrypts it is not in it: keep OPENORCH_ENCRYPTION_KEY as well",
    };
    let mut meter = Meter::new();
    let size = openorch_store::backup(&folder, file, &notes, &mut |progress| meter.show(progress))?;
    meter.end();
    Ok(format!("`{}` has all data of `{}`, {}; {about_key}", file.display(), folder.display(), bytes(size)))
}

/// Puts the data of a backup into a folder that has none. Answers what to tell.
pub fn restore(settings: &Settings, file: &Path) -> Result<String, StartError> {
    require_folder(settings)?;
    let folder = settings.server_dir();
    let mut meter = Meter::new();
    let restoring = Restoring::prepare(file, &folder, &mut |progress| meter.show(progress))?;
    meter.end();
    let note = |wanted: &str| restoring.notes().iter().find(|(name, _)| name == wanted).map(|(_, text)| text.clone());
    let key = note(ENCRYPTION_KEY);
    let made = note(MADE_AT).map_or(String::new(), |at| format!(" as of {at}"));
    let about_key = match &key {
        // Before the data, which cannot be read without it.
        Some(key) => settings.secrets.put_back(&folder, key)?,
        None => ", with the OPENORCH_ENCRYPTION_KEY it had",
    };
    restoring.finish()?;
    Ok(format!("`{}` has the data of `{}`{made}; start the daemon{about_key}", folder.display(), file.display()))
}

/// Looks for what is wrong with the data. Answers what to tell; an error where something is wrong.
pub fn check(settings: &Settings) -> Result<String, StartError> {
    require_folder(settings)?;
    let folder = settings.server_dir();
    let mut meter = Meter::new();
    let findings = openorch_store::check(&folder, &collections(), &mut |progress| meter.show(progress))?;
    meter.end();
    if findings.problems.is_empty() {
        return Ok(format!("`{}` is sound: {} documents were checked", folder.display(), findings.documents));
    }
    let count = findings.problems.len() as u64 + findings.further;
    let mut text = format!("`{}` has {count} problems; restore a backup made before them:", folder.display());
    findings.problems.iter().for_each(|problem| text += &format!("\n  {problem}"));
    if findings.further > 0 {
        text += &format!("\n  … and {} more", findings.further);
    }
    Err(StartError(text))
}

/// A database server has its own tools for all of this, which know its disks and its other databases.
fn require_folder(settings: &Settings) -> Result<(), StartError> {
    match settings.engine() {
        Engine::Sqlite => Ok(()),
        Engine::Postgres => Err(StartError(format!(
            "the data is in PostgreSQL: use its pg_dump and pg_restore with the schema `{}`, and keep \
             OPENORCH_ENCRYPTION_KEY as well",
            settings.schema()
        ))),
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
