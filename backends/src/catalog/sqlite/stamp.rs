//! Whether a file may have changed since it was read, seen without reading it.
//!
//! SQLite counts changes, too, but tells them only to a connection that stays open; and reading
//! the count from the file would, by closing the file again, give up the locks that this process
//! has on it: <https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_>.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Clocks of file systems move in steps, of two seconds at most: a change within the step of the
/// one before would show in no time. Younger files are not told by their times.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// Which file it is, and when it was changed last. Of two equal ones the content is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    bytes: u64,
    /// Seconds and nanoseconds, of the content and of the file's record, which nobody can set.
    changed: [(i64, i64); 2],
}

impl Stamp {
    /// `None` when a change could go without a sign: the last one is too recent, or what is
    /// written goes into a write-ahead log beside the file.
    pub(super) fn of(path: &Path, now: SystemTime) -> Option<Self> {
        // The log is beside the file itself, not beside a link to it.
        let path = path.canonicalize().ok()?;
        let file = path.metadata().ok()?;
        let log = beside(&path, "-wal").metadata();
        (log.is_err() && is_settled(&file, now)).then(|| Self {
            file: (file.dev(), file.ino()),
            bytes: file.len(),
            changed: [(file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec())],
        })
    }
}

fn is_settled(file: &Metadata, now: SystemTime) -> bool {
    let changed = file.mtime().max(file.ctime());
    let changed = u64::try_from(changed).ok().map(|seconds| Duration::from_secs(seconds + 1));
    let now = now.duration_since(UNIX_EPOCH).ok();
    changed.zip(now).is_some_and(|(changed, now)| changed + SETTLED_AFTER <= now)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_a_changed_file_from_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("files.db");
        std::fs::write(&path, "one").expect("a file");
        let now = SystemTime::now();
        let later = now + 2 * SETTLED_AFTER;
        assert_eq!(Stamp::of(&path, now), None, "it has only just been written");
        let stamp = Stamp::of(&path, later);
        assert!(stamp.is_some() && Stamp::of(&path, later) == stamp);

        let file = std::fs::File::options().write(true).open(&path).expect("the file");
        file.set_modified(now - Duration::from_secs(60)).expect("a time");
        let touched = Stamp::of(&path, later);
        assert!(touched.is_some() && touched != stamp, "the same bytes, written again");
        std::fs::write(&path, "more").expect("a file");
        assert_ne!(Stamp::of(&path, later), touched, "other bytes");
        let other = directory.path().join("other.db");
        std::fs::write(&other, "more").expect("a file");
        let before = Stamp::of(&path, later);
        std::fs::rename(&other, &path).expect("another file of this name");
        assert_ne!(Stamp::of(&path, later), before, "another file");

        std::fs::write(beside(&path, "-wal"), "").expect("a log");
        assert_eq!(Stamp::of(&path, later), None, "changes may be in the log");
        assert_eq!(Stamp::of(&directory.path().join("absent"), later), None);
    }
}
