//! What earlier runs made, out of the way of the next.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const PREFIX: &str = "aside-";

/// A place for what is to be removed when the last run is over.
///
/// Not before: whoever creates files on ext4 has to pass by every inode that was freed within the last
/// minute (`recently_deleted` in Linux's `fs/ext4/ialloc.c`). A run after thousands of files were removed
/// would take up to twice as long, for what the run before it left. The first runs of the next size come
/// after this is removed; they warm up, and are not counted.
pub(super) struct Aside {
    dir: PathBuf,
    kept: RefCell<Vec<TempDir>>,
}

impl Aside {
    /// Below a directory on the file system of what is put here.
    ///
    /// # Errors
    /// When what a killed bench left there cannot be removed.
    pub(super) fn below(dir: &Path) -> anyhow::Result<Self> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { dir: dir.to_owned(), kept: RefCell::default() })
    }

    /// Puts files and directories here, of these names those that are there.
    pub(super) fn put(&self, names: &[&str]) -> anyhow::Result<()> {
        let place = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&self.dir)?;
        for name in names {
            let path = self.dir.join(name);
            if path.exists() {
                std::fs::rename(&path, place.path().join(name))?;
            }
        }
        self.kept.borrow_mut().push(place);
        Ok(())
    }
}
