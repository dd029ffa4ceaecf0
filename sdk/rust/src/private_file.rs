//! Small files with secrets: readable by their owner only, replaced atomically, and locked against concurrent changes.
//! The command line stores its tokens in such a file too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// An exclusive lock for reading, changing and writing back a file, acquired by [`lock`]. Released when it is dropped or
/// the process ends.
///
/// ```
/// use openorch_sdk::private_file::{self, Lock};
///
/// fn hold(path: &std::path::Path) -> std::io::Result<Lock> {
///     private_file::lock(path)
/// }
/// ```
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "dropping it releases the lock")] File);

/// Acquires the lock of the file at `path`, waiting for other processes. Creates the parent directory if needed.
///
/// The lock is a separate file (`<name>.lock`), since every write replaces the file itself.
///
/// ```
/// use openorch_sdk::private_file;
///
/// # let directory = tempfile::tempdir()?;
/// # let path = &directory.path().join("count");
/// let held = private_file::lock(path)?;
/// let count: u32 = private_file::read(path)?.and_then(|text| text.parse().ok()).unwrap_or(0);
/// private_file::replace(path, &(count + 1).to_string())?;
/// drop(held);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn lock(path: &Path) -> io::Result<Lock> {
    create_parent_dir(path)?;
    let file = private(OpenOptions::new().write(true).create(true).truncate(false)).open(with_suffix(path, "lock"))?;
    file.lock()?;
    Ok(Lock(file))
}

/// Reads the file; `None` if it does not exist.
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

/// Replaces the contents of the file atomically: readers see the old or the new text, even after a crash.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let path = &directory.path().join("secret");
/// openorch_sdk::private_file::replace(path, "s3cret")?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A file that is itself a mount point (for example mounted into a container) cannot be replaced. It is written in place,
/// and a crash may leave it incomplete. The result says how it was written.
pub fn replace(path: &Path, text: &str) -> io::Result<Replacement> {
    create_parent_dir(path)?;
    // A symbolic link (for example into a synchronized directory) is kept: its target is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let fresh = with_suffix(&path, &format!("{}.tmp", std::process::id()));
    let written = write_new(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
    if written.is_err() {
        // Remove the incomplete temporary file; report the first error.
        let _ = fs::remove_file(&fresh);
    }
    match written {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let mut file = OpenOptions::new().write(true).truncate(true).open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok(Replacement::InPlace)
        }
        Err(error) => Err(error),
        Ok(()) => sync_parent_dir(&path).map(|()| Replacement::Atomic),
    }
}

/// How [`replace`] wrote a file.
///
/// ```
/// use openorch_sdk::private_file::{self, Replacement};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = &directory.path().join("secret");
/// assert_eq!(private_file::replace(path, "s3cret")?, Replacement::Atomic);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    /// By renaming a new file over it: readers see the old or the new text, never a part.
    Atomic,
    /// Written in place, which is not atomic.
    InPlace,
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // A temporary file left by a crash is removed, not reused: it may be readable by others.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
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

fn create_parent_dir(path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.recursive(true).create(directory)
}

/// Makes a rename durable by syncing the parent directory.
#[cfg(unix)]
fn sync_parent_dir(path: &Path) -> io::Result<()> {
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_parent_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/secret");
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
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("count");
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
