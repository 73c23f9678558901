//! Reads source files, and tells what a file's own fault is from what is the machine's.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use backends::crash;
use protocol::FailureReason;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Directories that one thread holds open. Files are read in the order of their paths, so that few
/// do; each costs a file descriptor.
const OPEN_DIRECTORIES: usize = 16;

/// Where source files may lie.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    roots: Vec<Root>,
}

#[derive(Clone, Debug)]
struct Root {
    configured: PathBuf,
    resolved: PathBuf,
    /// Device and inode, so that a mount that went away is noticed.
    identity: (u64, u64),
}

/// A source root that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The root cannot be looked at.
    #[error("the source root {} cannot be read: {cause}; is its file system mounted here?", root.display())]
    Unreadable {
        /// The root as it is configured.
        root: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The root is another directory than at start.
    #[error("the source root {} is no longer the directory it was at start; is its file system still mounted?", root.display())]
    Replaced {
        /// The root as it is configured.
        root: PathBuf,
    },
}

impl Sources {
    /// Files may lie below any of `roots`; anywhere when there are none.
    ///
    /// # Errors
    /// When a root is not there.
    pub fn new(roots: &[PathBuf]) -> Result<Self, RootsError> {
        let look = |configured: &PathBuf| {
            let unreadable = |cause| RootsError::Unreadable { root: configured.clone(), cause };
            let resolved = configured.canonicalize().map_err(unreadable)?;
            let metadata = std::fs::metadata(&resolved).map_err(unreadable)?;
            let identity = (metadata.dev(), metadata.ino());
            Ok(Root { configured: configured.clone(), resolved, identity })
        };
        Ok(Self { roots: roots.iter().map(look).collect::<Result<_, RootsError>>()? })
    }

    /// Whether every root is still the directory that it was at start.
    ///
    /// # Errors
    /// When one is not.
    pub fn check(&self) -> Result<(), RootsError> {
        let now =
            Self::new(&self.roots.iter().map(|root| root.configured.clone()).collect::<Vec<_>>())?;
        match self.roots.iter().zip(&now.roots).find(|(then, now)| then.identity != now.identity) {
            Some((root, _)) => Err(RootsError::Replaced { root: root.configured.clone() }),
            None => Ok(()),
        }
    }

    fn allows(&self, resolved: &Path) -> bool {
        self.roots.is_empty() || self.roots.iter().any(|root| resolved.starts_with(&root.resolved))
    }
}

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// The file's own fault: the row fails, the rest of the partition goes on.
    File(FailureReason, String),
    /// The machine's, or the file system's: the whole partition is to be tried again, until its
    /// attempts are used up.
    Machine(String),
    /// This process's: it says nothing about the file, however often it comes.
    Worker(String),
}

/// An opened regular file.
pub(crate) struct OpenFile {
    pub(crate) file: File,
    /// In bytes, when it was looked at.
    pub(crate) size: u64,
    seen: Seen,
}

/// What tells a file from another one, and from itself after a change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, u64),
}

impl Seen {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

/// A directory of source files, held open, so that each of its files costs one short lookup.
struct Directory {
    /// As locations name it.
    name: String,
    handle: OwnedFd,
    /// What it resolves to, where that is outside the roots.
    outside: Option<PathBuf>,
}

/// Opens and reads files for one thread.
pub(crate) struct SourceReader<'a> {
    sources: &'a Sources,
    /// The last opened comes last.
    directories: Vec<Directory>,
}

impl<'a> SourceReader<'a> {
    pub(crate) const fn new(sources: &'a Sources) -> Self {
        Self { sources, directories: Vec::new() }
    }

    /// Opens the regular file at `location`. Directories, FIFOs, sockets and devices are told by
    /// their type and never opened.
    pub(crate) fn open(&mut self, location: &str) -> Result<OpenFile, SourceError> {
        if location.contains('\0') {
            return Err(SourceError::File(
                FailureReason::InvalidLocation,
                "the location holds a NUL byte".to_owned(),
            ));
        }
        let below_roots = !self.sources.roots.is_empty();
        let Some((directory, name)) = split(location) else {
            return self.open_resolved(location);
        };
        let directory = self.directory(directory)?;
        // What a root's files lead to has to be resolved, and then lie below a root itself.
        let (look, open) = match below_roots {
            true => (AtFlags::SYMLINK_NOFOLLOW, OFlags::NOFOLLOW),
            false => (AtFlags::empty(), OFlags::empty()),
        };
        let stat = rustix::fs::statat(&directory.handle, name, look).map_err(classify_errno)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return self.open_resolved(location);
        }
        if let Some(outside) = &directory.outside {
            return Err(outside_roots(&outside.join(name)));
        }
        open_as_seen(&directory.handle, Path::new(name), &stat, open)
    }

    /// Opens what `location` leads to once all of it is resolved.
    fn open_resolved(&self, location: &str) -> Result<OpenFile, SourceError> {
        let path = match self.sources.roots.first() {
            Some(root) => root.resolved.join(location).canonicalize().map_err(classify)?,
            None => PathBuf::from(location),
        };
        if !self.sources.allows(&path) {
            return Err(outside_roots(&path));
        }
        let stat = rustix::fs::statat(CWD, &path, AtFlags::empty()).map_err(classify_errno)?;
        open_as_seen(CWD, &path, &stat, OFlags::empty())
    }

    /// The directory that locations name so, opened where it is not open yet.
    fn directory(&mut self, name: &str) -> Result<&Directory, SourceError> {
        let at = match self.directories.iter().rposition(|known| known.name == name) {
            Some(at) => at,
            None => {
                let directory = self.open_directory(name)?;
                if self.directories.len() >= OPEN_DIRECTORIES {
                    self.directories.remove(0);
                }
                self.directories.push(directory);
                self.directories.len() - 1
            }
        };
        Ok(&self.directories[at])
    }

    fn open_directory(&self, name: &str) -> Result<Directory, SourceError> {
        let mut path = PathBuf::from(name);
        if let Some(root) = self.sources.roots.first() {
            path = root.resolved.join(name).canonicalize().map_err(classify)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&path, flags, Mode::empty()).map_err(classify_errno)?;
        let outside = (!self.sources.allows(&path)).then_some(path);
        Ok(Directory { name: name.to_owned(), handle, outside })
    }
}

/// Directory and name of a location; `None` where its last part is no name.
fn split(location: &str) -> Option<(&str, &str)> {
    let at = location.rfind('/');
    let name = &location[at.map_or(0, |at| at + 1)..];
    let directory = match at {
        None => ".",
        Some(0) => "/",
        Some(at) => &location[..at],
    };
    (!matches!(name, "" | "." | "..")).then_some((directory, name))
}

/// Opens a file that was just looked at.
fn open_as_seen(
    directory: impl AsFd,
    name: &Path,
    stat: &Stat,
    more: OFlags,
) -> Result<OpenFile, SourceError> {
    check_type(stat)?;
    crash::reading(name).map_err(classify)?;
    // Between the look and the open the file may have become a FIFO, which must not hang us, or a
    // terminal, which must not become ours. Whether it is the same file is seen after reading it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | more;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(classify_errno)?;
    let seen = Seen::of(stat);
    Ok(OpenFile { file: file.into(), size: u64::try_from(seen.size).unwrap_or_default(), seen })
}

impl OpenFile {
    /// Reads the whole file to the beginning of `buffer`, which grows where it has to, and returns
    /// the file's bytes.
    pub(crate) fn read_into<'b>(
        &mut self,
        buffer: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], SourceError> {
        // One byte more than expected shows growth without reading on for ever.
        let expected = usize::try_from(self.size).unwrap_or(usize::MAX).saturating_add(1);
        if buffer.len() < expected {
            buffer.resize(expected, 0);
        }
        let mut read = 0;
        loop {
            let count = match self.file.read(&mut buffer[read..expected]) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(classify(error)),
            };
            read += count;
            // At its size the file ends, which the look after it confirms.
            if count == 0 || read as u64 >= self.size {
                break;
            }
        }
        self.check_unchanged(read as u64)?;
        Ok(&buffer[..read])
    }

    /// Whether the file is still what it was when it was looked at, `read` bytes of it having been
    /// read to its end.
    pub(crate) fn check_unchanged(&self, read: u64) -> Result<(), SourceError> {
        let now = rustix::fs::fstat(&self.file).map_err(classify_errno)?;
        if read == self.size && Seen::of(&now) == self.seen {
            return Ok(());
        }
        Err(SourceError::File(
            FailureReason::Changed,
            format!("it had {} bytes when it was opened, and changed while it was read", self.size),
        ))
    }
}

fn check_type(stat: &Stat) -> Result<(), SourceError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => {
            let what = "it is a directory".to_owned();
            return Err(SourceError::File(FailureReason::IsDirectory, what));
        }
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(SourceError::File(FailureReason::NotRegular, format!("it is {what} and was not opened")))
}

fn outside_roots(resolved: &Path) -> SourceError {
    let what = format!("it resolves to {}, outside source.roots", resolved.display());
    SourceError::File(FailureReason::OutsideRoots, what)
}

fn classify_errno(error: Errno) -> SourceError {
    classify(error.into())
}

/// Sorts errors of the operating system into the file's fault and the machine's.
pub(crate) fn classify(error: std::io::Error) -> SourceError {
    let reason = match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR) => FailureReason::Missing,
        Some(Errno::ACCESS | Errno::PERM) => FailureReason::NoPermission,
        Some(Errno::ISDIR) => FailureReason::IsDirectory,
        Some(Errno::NXIO | Errno::NODEV) => FailureReason::NotRegular,
        Some(Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL) => FailureReason::InvalidLocation,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => {
            return SourceError::Worker(error.to_string());
        }
        _ => return SourceError::Machine(error.to_string()),
    };
    SourceError::File(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn reason(sources: &Sources, location: &Path) -> Option<FailureReason> {
        match SourceReader::new(sources).open(location.to_str().expect("UTF-8")) {
            Ok(_) => None,
            Err(SourceError::File(reason, _)) => Some(reason),
            Err(SourceError::Machine(why) | SourceError::Worker(why)) => panic!("{why}"),
        }
    }

    #[test]
    fn only_regular_files_below_a_root_are_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("sub")).expect("made");
        std::fs::create_dir_all(&outside).expect("made");
        for file in [root.join("sub/a"), outside.join("b")] {
            std::fs::write(file, b"x").expect("written");
        }
        symlink(outside.join("b"), root.join("link")).expect("linked");
        symlink(&outside, root.join("linked-dir")).expect("linked");
        symlink(root.join("sub/a"), root.join("inner")).expect("linked");
        symlink(root.join("loop"), root.join("loop")).expect("linked");
        let fifo = root.join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a FIFO");

        let sources = Sources::new(std::slice::from_ref(&root)).expect("roots");
        let cases = [
            (root.join("sub/a"), None),
            (root.join("inner"), None),
            (PathBuf::from("sub/a"), None),
            (root.join("sub/../sub/a"), None),
            (root.join("sub/../../outside/b"), Some(FailureReason::OutsideRoots)),
            (root.join("link"), Some(FailureReason::OutsideRoots)),
            (root.join("linked-dir/b"), Some(FailureReason::OutsideRoots)),
            (outside.join("b"), Some(FailureReason::OutsideRoots)),
            (PathBuf::from("/dev/null"), Some(FailureReason::OutsideRoots)),
            (root.join("sub"), Some(FailureReason::IsDirectory)),
            (root.join("nothing"), Some(FailureReason::Missing)),
            (root.join("sub/"), Some(FailureReason::IsDirectory)),
            (root.join("sub/."), Some(FailureReason::IsDirectory)),
            (root.join("sub/.."), Some(FailureReason::IsDirectory)),
            (root.join("sub/a/"), Some(FailureReason::Missing)),
            (root.join("sub/a/below"), Some(FailureReason::Missing)),
            (root.join("loop"), Some(FailureReason::InvalidLocation)),
            (root.join("n".repeat(300)), Some(FailureReason::InvalidLocation)),
            (fifo.clone(), Some(FailureReason::NotRegular)),
        ];
        for (location, expected) in cases {
            assert_eq!(reason(&sources, &location), expected, "{}", location.display());
        }
        let anywhere = Sources::default();
        assert_eq!(reason(&anywhere, &outside.join("b")), None);
        assert_eq!(reason(&anywhere, Path::new("/dev/null")), Some(FailureReason::NotRegular));
        assert_eq!(reason(&anywhere, &fifo), Some(FailureReason::NotRegular));
        assert_eq!(reason(&anywhere, Path::new("a\0b")), Some(FailureReason::InvalidLocation));
    }

    #[test]
    fn a_root_that_went_away_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("mount");
        std::fs::create_dir(&root).expect("made");
        let sources = Sources::new(std::slice::from_ref(&root)).expect("roots");
        sources.check().expect("still there");
        std::fs::rename(&root, dir.path().join("gone")).expect("renamed");
        assert!(matches!(sources.check(), Err(RootsError::Unreadable { .. })));
        std::fs::create_dir(&root).expect("made");
        assert!(matches!(sources.check(), Err(RootsError::Replaced { .. })));
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, b"12345").expect("written");
        let sources = Sources::default();
        let mut open = SourceReader::new(&sources)
            .open(path.to_str().expect("UTF-8"))
            .unwrap_or_else(|_| panic!("opens"));
        std::fs::write(&path, b"1234567").expect("written");
        let mut buffer = Vec::new();
        assert!(matches!(
            open.read_into(&mut buffer),
            Err(SourceError::File(FailureReason::Changed, _))
        ));
    }

    #[test]
    fn a_file_that_is_put_in_anothers_place_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::write(&one, b"12345").expect("written");
        std::fs::write(&other, b"67890").expect("written");
        let stat = rustix::fs::stat(&one).expect("it is there");
        let modified = std::fs::metadata(&one).and_then(|it| it.modified()).expect("a time");
        let replacement = File::options().write(true).open(&other).expect("opens");
        replacement.set_modified(modified).expect("set");
        std::fs::rename(&other, &one).expect("renamed");
        let mut open =
            open_as_seen(CWD, &one, &stat, OFlags::empty()).unwrap_or_else(|_| panic!("opens"));
        let mut buffer = Vec::new();
        assert!(matches!(
            open.read_into(&mut buffer),
            Err(SourceError::File(FailureReason::Changed, _))
        ));
    }

    #[test]
    fn what_was_read_before_does_not_show_in_a_smaller_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let sources = Sources::default();
        let (mut reader, mut buffer) = (SourceReader::new(&sources), Vec::new());
        for content in ["a longer one", "short", "", "again longer"] {
            let path = dir.path().join("file");
            std::fs::write(&path, content).expect("written");
            let mut open =
                reader.open(path.to_str().expect("UTF-8")).unwrap_or_else(|_| panic!("opens"));
            let read = open.read_into(&mut buffer).unwrap_or_else(|_| panic!("reads"));
            assert_eq!(read, content.as_bytes());
        }
    }

    #[test]
    fn a_file_that_claims_to_be_empty_and_is_not_has_changed() {
        let mut open = SourceReader::new(&Sources::default())
            .open("/proc/self/stat")
            .unwrap_or_else(|_| panic!("opens"));
        assert_eq!(open.size, 0);
        let mut buffer = Vec::new();
        assert!(matches!(
            open.read_into(&mut buffer),
            Err(SourceError::File(FailureReason::Changed, _))
        ));
    }

    #[test]
    fn what_is_the_files_the_machines_and_the_workers_is_told_apart() {
        let classified = |errno: Errno| classify(errno.into());
        assert!(matches!(classified(Errno::NOENT), SourceError::File(FailureReason::Missing, _)));
        for errno in [Errno::IO, Errno::STALE, Errno::TIMEDOUT] {
            assert!(matches!(classified(errno), SourceError::Machine(_)), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(matches!(classified(errno), SourceError::Worker(_)), "{errno}");
        }
    }
}
