//! Reads source files, and tells what a file's own fault is from what is the machine's.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use backends::crash;
use protocol::FailureReason;
use rustix::io::Errno;

/// Directories whose resolved form is remembered, so that resolving costs one system call per
/// directory and not per file. The memory is cleared when it is full.
const REMEMBERED_DIRECTORIES: usize = 4_096;

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
    pub(crate) size: u64,
    modified: (i64, i64),
}

/// Opens and reads files for one thread.
pub(crate) struct SourceReader<'a> {
    sources: &'a Sources,
    /// Directories as locations name them, and what they resolve to.
    directories: HashMap<PathBuf, PathBuf>,
}

impl<'a> SourceReader<'a> {
    pub(crate) fn new(sources: &'a Sources) -> Self {
        Self { sources, directories: HashMap::new() }
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
        let path = self.resolve(Path::new(location))?;
        check_type(&std::fs::metadata(&path).map_err(classify)?)?;
        crash::reading(&path).map_err(classify)?;
        // Between the look and the open the file may have become a FIFO, which must not hang us,
        // or a terminal, which must not become ours.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&path)
            .map_err(classify)?;
        let metadata = file.metadata().map_err(classify)?;
        check_type(&metadata)?;
        Ok(OpenFile { file, size: metadata.len(), modified: modified(&metadata) })
    }

    /// The path to open: as it stands where every file may be read, else with every symbolic link
    /// and `..` resolved, below one of the roots.
    fn resolve(&mut self, location: &Path) -> Result<PathBuf, SourceError> {
        let Some(first_root) = self.sources.roots.first() else {
            return Ok(location.to_owned());
        };
        let absolute = first_root.resolved.join(location);
        let plain = absolute.components().all(|part| part != Component::ParentDir);
        let resolved = match (absolute.parent(), absolute.file_name()) {
            (Some(directory), Some(name)) if plain => {
                let candidate = self.resolve_directory(directory)?.join(name);
                let metadata = std::fs::symlink_metadata(&candidate).map_err(classify)?;
                if metadata.is_symlink() {
                    candidate.canonicalize().map_err(classify)?
                } else {
                    candidate
                }
            }
            _ => absolute.canonicalize().map_err(classify)?,
        };
        if self.sources.allows(&resolved) {
            return Ok(resolved);
        }
        Err(SourceError::File(
            FailureReason::OutsideRoots,
            format!("it resolves to {}, outside source.roots", resolved.display()),
        ))
    }

    fn resolve_directory(&mut self, directory: &Path) -> Result<PathBuf, SourceError> {
        if let Some(known) = self.directories.get(directory) {
            return Ok(known.clone());
        }
        let resolved = directory.canonicalize().map_err(classify)?;
        if self.directories.len() >= REMEMBERED_DIRECTORIES {
            self.directories.clear();
        }
        self.directories.insert(directory.to_owned(), resolved.clone());
        Ok(resolved)
    }
}

impl OpenFile {
    /// Reads the whole file into `buffer`, after clearing it.
    pub(crate) fn read_into(&mut self, buffer: &mut Vec<u8>) -> Result<(), SourceError> {
        buffer.clear();
        let expected = usize::try_from(self.size).unwrap_or(usize::MAX);
        buffer.reserve_exact(expected.saturating_add(1));
        // One byte more than expected shows growth without reading on for ever.
        let mut limited = (&mut self.file).take(self.size + 1);
        limited.read_to_end(buffer).map_err(classify)?;
        self.check_unchanged(buffer.len() as u64)
    }

    /// Whether the file is still what it was when it was opened, `read` bytes of it having been
    /// read to its end.
    pub(crate) fn check_unchanged(&self, read: u64) -> Result<(), SourceError> {
        let now = self.file.metadata().map_err(classify)?;
        if read == self.size && now.len() == self.size && modified(&now) == self.modified {
            return Ok(());
        }
        Err(SourceError::File(
            FailureReason::Changed,
            format!("it had {} bytes when it was opened, and changed while it was read", self.size),
        ))
    }
}

fn modified(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

fn check_type(metadata: &Metadata) -> Result<(), SourceError> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        return Err(SourceError::File(FailureReason::IsDirectory, "it is a directory".to_owned()));
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(SourceError::File(FailureReason::NotRegular, format!("it is {what} and was not opened")))
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
