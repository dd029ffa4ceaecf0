//! Small files that hold secrets: readable by their owner alone, replaced whole or not at all, changed by one program
//! at a time. The command line keeps its tokens in one too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Held while a file is read, changed and written back. Let go when dropped, by a crash too. [`lock`] makes one.
///
/// ```
/// use openorch_sdk::private_file::{self, Lock};
///
/// fn hold(path: &std::path::Path) -> std::io::Result<Lock> {
///     private_file::lock(path)
/// }
/// ```
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

/// Waits until no other program changes the file at `path`; makes its folder if needed.
///
/// The lock is a file beside it (`<name>.lock`), since the file itself is replaced by every write.
///
/// ```
/// use openorch_sdk::private_file;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = &folder.path().join("count");
/// let held = private_file::lock(path)?;
/// let count: u32 = private_file::read(path)?.and_then(|text| text.parse().ok()).unwrap_or(0);
/// private_file::replace(path, &(count + 1).to_string())?;
/// drop(held);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn lock(path: &Path) -> io::Result<Lock> {
    make_folder_of(path)?;
    let file = private(OpenOptions::new().write(true).create(true).truncate(false)).open(beside(path, "lock"))?;
    file.lock()?;
    Ok(Lock(file))
}

/// The text of the file, or `None` if there is no such file.
///
/// ```
/// assert_eq!(openorch_sdk::private_file::read("/no/such/file".as_ref())?, None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts `text` in place of the file's content. Readers see the old text or the new one, also after a crash.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = &folder.path().join("secret");
/// openorch_sdk::private_file::replace(path, "s3cret")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A file that is a mount of its own (as of one file into a container) cannot be replaced: it is written in place, and a
/// crash meanwhile may leave it incomplete. The answer is how it was written.
pub fn replace(path: &Path, text: &str) -> io::Result<Replaced> {
    make_folder_of(path)?;
    // A file that is a link (to a synchronised folder, say) stays one: what it points to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let fresh = beside(&path, &format!("{}.tmp", std::process::id()));
    let written = write_new(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
    if written.is_err() {
        // Half a file is of use to nobody; the first error is the one to tell.
        let _ = fs::remove_file(&fresh);
    }
    match written {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let mut file = OpenOptions::new().write(true).truncate(true).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok(Replaced::InPlace)
        }
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(&path).map(|()| Replaced::Whole),
    }
}

/// How [`replace`] wrote a file.
///
/// ```
/// use openorch_sdk::private_file::{self, Replaced};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = &folder.path().join("secret");
/// assert_eq!(private_file::replace(path, "s3cret")?, Replaced::Whole);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// By another file in its place: whoever reads it sees the text from before or the new one, never a part.
    Whole,
    /// In place.
    InPlace,
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // What a crash left under this name is removed, not reused: it may be readable by others.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

fn make_folder_of(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.recursive(true).create(folder)
}

/// A rename is on the disk once its folder is.
#[cfg(unix)]
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_folder_of(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/secret");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn two_writers_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("count");
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..20 {
                        let _held = lock(&path).unwrap();
                        let count: u32 = read(&path).unwrap().map_or(0, |text| text.parse().unwrap());
                        replace(&path, &(count + 1).to_string()).unwrap();
                    }
                });
            }
        });
        assert_eq!(read(&path).unwrap().as_deref(), Some("80"));
    }
}
