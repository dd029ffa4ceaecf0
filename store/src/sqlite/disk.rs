//! The disk of the data directory: whether its file system is suitable, and a reserve of disk space for a start and a
//! shutdown on a full disk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{data_dir::open_private, errors::from_io};
use crate::{Result, StoreError};

/// The size of the reserve, and how much of it is released at a time, in bytes. A start needs about 32 KiB, a shutdown
/// a few pages.
const RESERVE_BYTES: u64 = 1024 * 1024;
const RELEASE_BYTES: u64 = 128 * 1024;
/// The free space required to create the reserve, and the interval of the check.
const MIN_FREE_BYTES: u64 = 8 * RESERVE_BYTES;
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The suitability of a file system.
#[derive(Debug, PartialEq, Eq)]
enum FileSystemKind {
    Local,
    /// Locks or shared memory may or may not work, depending on the server.
    Uncertain(&'static str),
    /// Locks are not visible to other machines, and memory is not shared with them.
    Network(&'static str),
}

/// Classifies the magic number of `statfs` (linux/magic.h and the manual page of statfs(2)).
fn classify(number: u32) -> FileSystemKind {
    match number {
        0x6969 => FileSystemKind::Network("NFS"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => FileSystemKind::Network("SMB (CIFS)"),
        0x0102_1997 => FileSystemKind::Network("9p"),
        0x5346_414F | 0x6B41_4653 => FileSystemKind::Network("AFS"),
        0x7375_7245 => FileSystemKind::Network("Coda"),
        0x564C => FileSystemKind::Network("NCP"),
        0x6573_5546 => FileSystemKind::Uncertain("FUSE or virtiofs (sshfs, a cloud drive, a directory of the host)"),
        0x00C3_6400 => FileSystemKind::Uncertain("Ceph"),
        0x0BD0_0BD0 => FileSystemKind::Uncertain("Lustre"),
        0x0116_1970 => FileSystemKind::Uncertain("GFS2"),
        0x7461_636F => FileSystemKind::Uncertain("OCFS2"),
        _ => FileSystemKind::Local,
    }
}

/// Refuses a directory on a network file system, unless that is allowed, and warns if the file system may be one.
pub(super) fn check_file_system(data_dir: &Path, allow_network: bool) -> Result<()> {
    let place = data_dir.display();
    match number_of(data_dir)?.map_or(FileSystemKind::Local, classify) {
        FileSystemKind::Local => {}
        FileSystemKind::Network(name) if !allow_network => {
            return Err(StoreError::Unavailable(format!(
                "the data directory `{place}` is on {name}, where two machines can open the same database and damage \
                 it; choose a directory on a local disk, or PostgreSQL (OPENORCH_DB); if this is the only machine that \
                 ever uses it, allow it with OPENORCH_NETWORK_FILE_SYSTEM=allow"
            )));
        }
        FileSystemKind::Network(name) => {
            tracing::warn!(
                "the data directory `{place}` is on {name}: a second daemon on another machine is not detected"
            );
        }
        FileSystemKind::Uncertain(name) => tracing::warn!(
            "the data directory `{place}` is on {name}: make sure that only one mount uses it, since another daemon \
             may not be detected, and acknowledged writes may not survive a power failure; prefer a local disk"
        ),
    }
    Ok(())
}

#[cfg(target_os = "linux")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers have 32 bits")]
fn number_of(folder: &Path) -> Result<Option<u32>> {
    let found = rustix::fs::statfs(folder).map_err(|error| from_io(&error.into(), "inspecting", folder))?;
    Ok(Some(found.f_type as u32))
}

#[cfg(not(target_os = "linux"))]
fn number_of(_: &Path) -> Result<Option<u32>> {
    Ok(None)
}

/// A file that reserves disk space, so that on a full disk the database can still be opened for reading and shut down
/// cleanly. Not for writes, which would use it up.
pub(super) struct Reserve {
    path: PathBuf,
    /// `None` before the first check.
    checked_at: Option<Instant>,
}

impl Reserve {
    pub(super) fn new(folder: &Path) -> Self {
        Self { path: folder.join("openorch.reserve"), checked_at: None }
    }

    /// Releases a part of the reserve. Returns whether any was left.
    pub(super) fn release(&self) -> bool {
        let release = || {
            let file = open_private(&self.path).map_err(std::io::Error::other)?;
            let length = file.metadata()?.len();
            file.set_len(length.saturating_sub(RELEASE_BYTES))?;
            Ok::<_, std::io::Error>(length)
        };
        let released = release().is_ok_and(|length| length > 0);
        if released {
            tracing::warn!("the disk of `{}` is full: a part of this reserve was released", self.path.display());
        }
        released
    }

    /// Recreates the reserve once there is space. Best effort: without it, a start on a full disk is refused.
    pub(super) fn refill(&mut self) {
        if self.checked_at.is_some_and(|at| at.elapsed() < CHECK_INTERVAL) {
            return;
        }
        self.checked_at = Some(Instant::now());
        let length = fs::metadata(&self.path).map_or(0, |found| found.len());
        if length < RESERVE_BYTES && self.has_room() && self.fill().is_err() {
            let _ = fs::remove_file(&self.path);
        }
    }

    #[cfg(unix)]
    fn has_room(&self) -> bool {
        let folder = self.path.parent().unwrap_or(&self.path);
        rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= MIN_FREE_BYTES)
    }

    #[cfg(not(unix))]
    fn has_room(&self) -> bool {
        false
    }

    fn fill(&self) -> Result<()> {
        let file = open_private(&self.path)?;
        let fill = || {
            #[cfg(target_os = "linux")]
            if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES).is_ok() {
                return Ok(());
            }
            file.set_len(0)?;
            std::io::Write::write_all(&mut &file, &vec![0xA5; RESERVE_BYTES as usize])
        };
        fill().map_err(|error| from_io(&error, "writing", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_other_machines_are_refused_and_doubtful_ones_are_named() {
        for (number, name) in [(0x6969, "NFS"), (0xFF53_4D42, "SMB"), (0xFE53_4D42, "SMB"), (0x0102_1997, "9p")] {
            assert!(matches!(classify(number), FileSystemKind::Network(told) if told.contains(name)), "{name}");
        }
        for (number, name) in [(0x6573_5546, "FUSE"), (0x6573_5546, "virtiofs"), (0x00C3_6400, "Ceph")] {
            assert!(matches!(classify(number), FileSystemKind::Uncertain(told) if told.contains(name)), "{name}");
        }
        // ext4, XFS, Btrfs, ZFS, tmpfs, overlayfs.
        for number in [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0x0102_1994, 0x794C_7630] {
            assert_eq!(classify(number), FileSystemKind::Local);
        }
    }

    #[test]
    fn the_reserve_is_released_bit_by_bit_and_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(temp.path());
        assert!(!reserve.release());
        reserve.refill();
        let mut times = 0;
        while reserve.release() {
            times += 1;
        }
        assert_eq!(times, RESERVE_BYTES / RELEASE_BYTES);
        reserve.refill();
        assert_eq!(fs::metadata(&reserve.path).unwrap().len(), 0, "the check interval has not passed");
        reserve.checked_at = None;
        reserve.refill();
        assert_eq!(fs::metadata(&reserve.path).unwrap().len(), RESERVE_BYTES);
    }
}
