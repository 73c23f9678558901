//! What killed writers leave in a directory.
//!
//! The library writes an object to `<name>#<number>` first and renames it. It lists no such file,
//! so that they have to be looked for here.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

use super::fault::io_error;
use super::{ListedObject, REQUEST_TIMEOUT, Store, bounded};
use crate::error::{BackendError, Result};

/// Files found that wait to be looked at.
const FOUND_IN_FLIGHT: usize = 64;

/// The name of the object that a staging file was to become; `None` for any other file.
pub fn staged_name(key: &str) -> Option<&str> {
    let file = key.rfind('/').map_or(0, |slash| slash + 1);
    let hash = file + key[file..].find('#')?;
    let number = &key[hash + 1..];
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (is_number && hash > file).then_some(&key[..hash])
}

impl Store {
    /// The staging files of a directory, those of writers at work included, in no promised order;
    /// nothing for other stores. Links are not followed.
    pub fn staging_files(&self) -> BoxStream<'static, Result<ListedObject>> {
        let Some(root) = self.directory.clone() else { return stream::empty().boxed() };
        let what = self.what("look for staging files", "");
        let (found, to_look_at) = mpsc::channel(FOUND_IN_FLIGHT);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = walk(root.root(), &found) {
                // Whoever asked may have gone away, and then has nothing to be told.
                let _nobody_listens = found.blocking_send(Err(io_error(what, error)));
            }
        });
        stream::unfold(to_look_at, |mut receiver| async move {
            receiver.recv().await.map(|file| (file, receiver))
        })
        .boxed()
    }

    /// Removes a staging file that [`Store::staging_files`] gave; it need not be there. A writer
    /// that still has it open fails and tries again.
    ///
    /// # Errors
    /// When the name is not that of a staging file, or the file cannot be removed.
    pub async fn remove_staging_file(&self, key: &str) -> Result<()> {
        let what = self.what("remove", key);
        let Some(root) = self.directory.as_ref().filter(|_| staged_name(key).is_some()) else {
            return Err(BackendError::Invalid { what: format!("{what}: it is no staging file") });
        };
        let path = root.root().join(key);
        match bounded(&what, REQUEST_TIMEOUT, tokio::fs::remove_file(path)).await? {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error(what, error))
            }
            _ => Ok(()),
        }
    }
}

/// Visits every file below `root`, until nobody listens.
fn walk(root: &Path, found: &mpsc::Sender<Result<ListedObject>>) -> std::io::Result<()> {
    let mut left = vec![PathBuf::from(root)];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
                continue;
            }
            let path = entry.path();
            let key = path.strip_prefix(root).ok().and_then(Path::to_str);
            let Some(key) = key.filter(|key| kind.is_file() && staged_name(key).is_some()) else {
                continue;
            };
            // A writer may have finished meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            let modified = DateTime::<Utc>::from(meta.modified()?);
            let file = ListedObject::new(key.to_owned(), meta.len(), modified);
            if found.blocking_send(Ok(file)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staging_file_is_told_by_its_number() {
        assert_eq!(staged_name("_des/a.json#1"), Some("_des/a.json"));
        assert_eq!(staged_name("a.des#12"), Some("a.des"));
        for other in ["a.des", "a#b", "a#", "#1", "x/#1", "a#1/b", "a#1x", "a#1#2"] {
            assert_eq!(staged_name(other), None, "{other}");
        }
    }
}
