//! The disk of the data directory: whether its file system is suitable, and a reserve of disk space for a start and a
//! shutdown on a full disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::errors::from_io;
use super::folder::open_private;
use crate::{Result, StoreError};

/// The size of the reserve, and how much of it is released at a time, in bytes. A start needs about 32 KiB, a shutdown
/// a few pages.
const RESERVE: u64 = 1024 * 1024;
const RELEASED: u64 = 128 * 1024;
/// The free space required to create the reserve, and the interval of the check.
const ROOM: u64 = 8 * RESERVE;
const PAUSE: Duration = Duration::from_secs(60);

/// The suitability of a file system.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Local,
    /// Locks or shared memory may or may not work, depending on the server.
    Doubtful(&'static str),
    /// Locks are not visible to other machines, and memory is not shared with them.
    Network(&'static str),
}

/// Classifies the magic number of `statfs` (linux/magic.h and the manual page of statfs(2)).
fn verdict(number: u32) -> Verdict {
    match number {
        0x6969 => Verdict::Network("NFS"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => Verdict::Network("SMB (CIFS)"),
        0x0102_1997 => Verdict::Network("9p"),
        0x5346_414F | 0x6B41_4653 => Verdict::Network("AFS"),
        0x7375_7245 => Verdict::Network("Coda"),
        0x564C => Verdict::Network("NCP"),
        0x6573_5546 => Verdict::Doubtful("FUSE or virtiofs (sshfs, a cloud drive, a directory of the host)"),
        0x00C3_6400 => Verdict::Doubtful("Ceph"),
        0x0BD0_0BD0 => Verdict::Doubtful("Lustre"),
        0x0116_1970 => Verdict::Doubtful("GFS2"),
        0x7461_636F => Verdict::Doubtful("OCFS2"),
        _ => Verdict::Local,
    }
}

/// Refuses a directory on a network file system, unless that is allowed, and warns if the file system may be one.
pub(super) fn check_file_system(folder: &Path, allow_network: bool) -> Result<()> {
    let place = folder.display();
    match number_of(folder)?.map_or(Verdict::Local, verdict) {
        Verdict::Local => {}
        Verdict::Network(name) if !allow_network => {
            return Err(StoreError::Unavailable(format!(
                "the data directory `{place}` is on {name}, where two machines can open the same database and damage \
                 it; choose a directory on a local disk, or PostgreSQL (OPENORCH_DB); if this is the only machine that \
                 ever uses it, allow it with OPENORCH_NETWORK_FILE_SYSTEM=allow"
            )));
        }
        Verdict::Network(name) => {
            tracing::warn!(
                "the data directory `{place}` is on {name}: a second daemon on another machine is not detected"
            );
        }
        Verdict::Doubtful(name) => tracing::warn!(
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
    tended_at: Option<Instant>,
}

impl Reserve {
    pub(super) fn of(folder: &Path) -> Self {
        Self { path: folder.join("openorch.reserve"), tended_at: None }
    }

    /// Releases a part of the reserve. Returns whether any was left.
    pub(super) fn release(&self) -> bool {
        let release = || {
            let file = open_private(&self.path).map_err(std::io::Error::other)?;
            let length = file.metadata()?.len();
            file.set_len(length.saturating_sub(RELEASED))?;
            Ok::<_, std::io::Error>(length)
        };
        let released = release().is_ok_and(|length| length > 0);
        if released {
            tracing::warn!("the disk of `{}` is full: a part of this reserve was released", self.path.display());
        }
        released
    }

    /// Recreates the reserve once there is space. Best effort: without it, a start on a full disk is refused.
    pub(super) fn tend(&mut self) {
        if self.tended_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        self.tended_at = Some(Instant::now());
        let length = fs::metadata(&self.path).map_or(0, |found| found.len());
        if length < RESERVE && self.has_room() && self.fill().is_err() {
            let _ = fs::remove_file(&self.path);
        }
    }

    #[cfg(unix)]
    fn has_room(&self) -> bool {
        let folder = self.path.parent().unwrap_or(&self.path);
        rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= ROOM)
    }

    #[cfg(not(unix))]
    fn has_room(&self) -> bool {
        false
    }

    fn fill(&self) -> Result<()> {
        let file = open_private(&self.path)?;
        let fill = || {
            #[cfg(target_os = "linux")]
            if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE).is_ok() {
                return Ok(());
            }
            file.set_len(0)?;
            std::io::Write::write_all(&mut &file, &vec![0xA5; RESERVE as usize])
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
            assert!(matches!(verdict(number), Verdict::Network(told) if told.contains(name)), "{name}");
        }
        for (number, name) in [(0x6573_5546, "FUSE"), (0x6573_5546, "virtiofs"), (0x00C3_6400, "Ceph")] {
            assert!(matches!(verdict(number), Verdict::Doubtful(told) if told.contains(name)), "{name}");
        }
        // ext4, XFS, Btrfs, ZFS, tmpfs, overlayfs.
        for number in [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0x0102_1994, 0x794C_7630] {
            assert_eq!(verdict(number), Verdict::Local);
        }
    }

    #[test]
    fn the_reserve_is_released_bit_by_bit_and_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::of(temp.path());
        assert!(!reserve.release());
        reserve.tend();
        let mut times = 0;
        while reserve.release() {
            times += 1;
        }
        assert_eq!(times, RESERVE / RELEASED);
        reserve.tend();
        assert_eq!(fs::metadata(&reserve.path).unwrap().len(), 0, "the check interval has not passed");
        reserve.tended_at = None;
        reserve.tend();
        assert_eq!(fs::metadata(&reserve.path).unwrap().len(), RESERVE);
    }
}
