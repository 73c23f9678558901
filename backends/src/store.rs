//! The object store behind one small type of ours, which adds what the archive relies on:
//! durability, timeouts that scale with bytes, and our error meanings.

use std::fmt;
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use protocol::Timestamp;

use self::fault::{io_error, may_be_range, store_error};
use self::flush::Flusher;
use self::parts::Parts;
pub use self::s3::{S3Credentials, S3Settings};
pub use self::staging::staged_name;
pub use self::upload::{AcceptAll, UploadCheck};
use crate::error::{BackendError, Result};
use crate::metrics::timed;
use crate::{crash, sabotage};

mod fault;
mod flush;
mod parts;
mod s3;
mod staging;
mod upload;
mod write;

/// Time that any single request may take, besides the time for its bytes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that a directory may be read without a name that is wanted: it may hold millions of others.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(600);
/// The slowest link that is worth waiting for.
const SLOWEST_BYTES_PER_SECOND: u64 = 128 * 1024;
/// Part size of multipart uploads. S3 allows 10,000 parts, hence objects up to 78 GiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts of one upload in flight.
const PARTS_IN_FLIGHT: usize = 2;

/// The name of the upload that is begun and given up to see whether one may write.
const PROBE: &str = "_des/probe";

/// Whether this process may write the file, or make files in the directory.
pub(crate) fn may_write(path: &FsPath) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let wanted = if path.is_dir() { Access::WRITE_OK | Access::EXEC_OK } else { Access::WRITE_OK };
    accessat(CWD, path, wanted, AtFlags::EACCESS).is_ok()
}

/// An archive's objects. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The directory, where the store is one: what has to be synced.
    directory: Option<Arc<Flusher>>,
    /// Memory for what is uploaded from files.
    parts: Arc<Parts>,
    /// The same directory, written so that bytes are on the disk before their name is.
    synced: Option<Arc<dyn ObjectStore>>,
    /// What every object is written with: the storage class, where one is configured.
    attributes: Attributes,
    description: Arc<str>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Name inside the archive.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock.
    pub modified: Timestamp,
}

impl ListedObject {
    fn new(key: String, size: u64, modified: chrono::DateTime<chrono::Utc>) -> Self {
        // A time that nobody can mean says nothing about age: the object counts as new.
        let modified = Timestamp::from_chrono(modified).unwrap_or(Timestamp::MAX);
        Self { key, size, modified }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.description)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

impl Store {
    /// A local directory, made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made or opened.
    pub fn directory(path: &FsPath) -> Result<Self> {
        let what = format!("the store directory {}", path.display());
        if path.exists() && !path.is_dir() {
            return Err(BackendError::Invalid { what: format!("{what} is a file: name another") });
        }
        std::fs::create_dir_all(path).map_err(|error| io_error(what.clone(), error))?;
        let root = path.canonicalize().map_err(|error| io_error(what.clone(), error))?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| store_error(what.clone(), error))?;
        let synced = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| store_error(what.clone(), error))?
            .with_fsync(true);
        Ok(Self {
            objects: Arc::new(objects),
            directory: Some(Arc::new(Flusher::new(root))),
            parts: Parts::new(),
            synced: Some(Arc::new(synced)),
            attributes: Attributes::new(),
            description: what.into(),
        })
    }

    /// Objects in memory, for tests.
    pub fn memory() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            directory: None,
            parts: Parts::new(),
            synced: None,
            attributes: Attributes::new(),
            description: "the store in memory".into(),
        }
    }

    /// Whether durability is this machine's file system's, so that [`Store::flush`] does work.
    pub const fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Asks whether the store is there, answers and lets us list.
    ///
    /// # Errors
    /// When it does not, with what to check.
    pub async fn check(&self) -> Result<()> {
        // An empty listing is also what a directory that is not there gives.
        if let Some(directory) = &self.directory {
            let there =
                bounded(&self.description, REQUEST_TIMEOUT, tokio::fs::read_dir(directory.root()));
            let _entries =
                there.await?.map_err(|error| io_error(self.description.to_string(), error))?;
        }
        self.list("_des").next().await.map_or(Ok(()), |first| first.map(|_object| ()))
    }

    /// Asks whether objects may be written, and leaves none behind: on S3 an upload in parts is
    /// begun and given up.
    ///
    /// # Errors
    /// When they may not.
    pub async fn check_writable(&self) -> Result<()> {
        if let Some(directory) = &self.directory {
            return Self::check_directory(directory.root());
        }
        let (what, path) = (self.what("write", PROBE), Path::from(PROBE));
        let begin = self.objects.put_multipart(&path);
        let begun = bounded(&what, REQUEST_TIMEOUT, begin).await?;
        let mut upload = begun.map_err(|error| store_error(what.clone(), error))?;
        if let Ok(Err(error)) = bounded(&what, REQUEST_TIMEOUT, upload.abort()).await {
            tracing::warn!("{what}: an upload could not be given up, and is left behind: {error}");
        }
        Ok(())
    }

    /// Asks whether objects may be written in the directory `path`, which need not be there yet.
    /// Makes nothing.
    ///
    /// # Errors
    /// When they may not, or it could not be made.
    pub fn check_directory(path: &FsPath) -> Result<()> {
        let nearest = path.ancestors().find(|it| it.exists()).unwrap_or(FsPath::new("."));
        if may_write(nearest) {
            return Ok(());
        }
        let (path, nearest) = (path.display(), nearest.display());
        Err(BackendError::Denied {
            what: format!("the store directory {path} cannot be written"),
            cause: format!("this user may not write in {nearest}, or it is mounted read-only")
                .into(),
        })
    }

    /// Reads a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there, [`BackendError::Invalid`] when it is larger.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes> {
        timed("get", self.get_untimed(key, limit)).await
    }

    async fn get_untimed(&self, key: &str, limit: u64) -> Result<Bytes> {
        let what = self.what("read", key);
        let path = Path::from(key);
        let failed = |error| store_error(what.clone(), error);
        let got = bounded(&what, REQUEST_TIMEOUT, self.objects.get(&path)).await?;
        let got = got.map_err(failed)?;
        let size = got.meta.size;
        if size > limit {
            return Err(BackendError::Invalid {
                what: format!("{what}: it has {size} bytes, more than the {limit} it may have"),
            });
        }
        bounded(&what, time_for(size), got.bytes()).await?.map_err(failed)
    }

    /// Reads a range of an object; nothing is asked where it is empty.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there, [`BackendError::Invalid`] when the range
    /// does not lie inside it.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        timed("get", self.get_range_untimed(key, range)).await
    }

    async fn get_range_untimed(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let what = self.what("read", key);
        let wanted = range.end - range.start;
        let path = Path::from(key);
        let shorter = || BackendError::Invalid {
            what: format!("{what}: it has less than {} bytes", range.end),
        };
        let read = self.objects.get_range(&path, range.clone());
        match bounded(&what, time_for(wanted), read).await? {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_shorter) => Err(shorter()),
            Err(error) if may_be_range(&error) => match self.size(key).await? {
                Some(size) if size < range.end => Err(shorter()),
                _ => Err(store_error(what, error)),
            },
            Err(error) => Err(store_error(what, error)),
        }
    }

    /// Reads the last `count` bytes of an object, at least one (all of it when it is shorter), and
    /// its size: one request.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there.
    pub async fn get_tail(&self, key: &str, count: u64) -> Result<(u64, Bytes)> {
        let what = self.what("read the end of", key);
        let path = Path::from(key);
        let options = GetOptions { range: Some(GetRange::Suffix(count)), ..GetOptions::default() };
        let got =
            match bounded(&what, REQUEST_TIMEOUT, self.objects.get_opts(&path, options)).await? {
                Ok(got) => got,
                // An empty object has no last byte, and servers differ in what they say then.
                Err(error) if may_be_range(&error) && self.size(key).await? == Some(0) => {
                    return Ok((0, Bytes::new()));
                }
                Err(error) => return Err(store_error(what, error)),
            };
        let size = got.meta.size;
        let bytes = bounded(&what, time_for(count), got.bytes()).await?;
        Ok((size, bytes.map_err(|error| store_error(what, error))?))
    }

    /// The size of an object; `None` when it is not there.
    ///
    /// # Errors
    /// When the store refuses or does not answer in time.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        let what = self.what("look at", key);
        let path = Path::from(key);
        match bounded(&what, REQUEST_TIMEOUT, self.objects.head(&path)).await? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_error(what, error)),
        }
    }

    /// Everything below `folder` (a whole path segment; empty for the archive's root), in no
    /// promised order.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<ListedObject>> {
        let prefix = (!folder.is_empty()).then(|| Path::from(folder));
        self.listing(folder, self.objects.list(prefix.as_ref()))
    }

    /// Everything below `folder` whose whole name sorts after `after`, in no promised order.
    pub fn list_after(
        &self,
        folder: &str,
        after: &str,
    ) -> BoxStream<'static, Result<ListedObject>> {
        let prefix = (!folder.is_empty()).then(|| Path::from(folder));
        let objects = self.objects.list_with_offset(prefix.as_ref(), &Path::from(after));
        self.listing(folder, objects)
    }

    fn listing(
        &self,
        folder: &str,
        objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ListedObject>> {
        let limit = if self.is_directory() { DIRECTORY_TIMEOUT } else { REQUEST_TIMEOUT };
        listed(objects, self.what("list", folder), limit)
    }

    /// Deletes an object; it need not be there.
    ///
    /// # Errors
    /// When the store refuses or does not answer in time.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let what = self.what("delete", key);
        let path = Path::from(key);
        match bounded(&what, REQUEST_TIMEOUT, self.objects.delete(&path)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error(what, error)),
        }
    }

    /// Makes everything written so far durable: one `syncfs` for all who ask at a time where the
    /// store is a directory, nothing on S3, where every successful answer meant durable. It takes as
    /// long as the disk takes: there is no giving up on what was written.
    ///
    /// # Errors
    /// When the file system reports that something could not be written.
    pub async fn flush(&self) -> Result<()> {
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        if sabotage::is("flush_does_nothing") {
            return Ok(());
        }
        crash::point("before_flush");
        let flushed = directory.flush().await;
        flushed.map_err(|error| io_error(format!("sync {}", self.description), error))?;
        crash::point("after_flush");
        Ok(())
    }

    fn what(&self, action: &str, key: &str) -> String {
        format!("cannot {action} {key} in {}", self.description)
    }
}

/// What a store lists. Ends after the first error, of which a silence longer than `limit` is one.
fn listed(
    objects: BoxStream<'static, object_store::Result<ObjectMeta>>,
    what: String,
    limit: Duration,
) -> BoxStream<'static, Result<ListedObject>> {
    futures::stream::unfold(Some((objects, what)), move |state| async move {
        let (mut objects, what) = state?;
        match bounded(&what, limit, objects.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(meta))) => {
                let key = meta.location.to_string();
                let object = ListedObject::new(key, meta.size, meta.last_modified);
                Some((Ok(object), Some((objects, what))))
            }
            Ok(Some(Err(error))) => Some((Err(store_error(what, error)), None)),
            Err(silent) => Some((Err(silent), None)),
        }
    })
    .boxed()
}

/// The time that moving `bytes` may take.
const fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(REQUEST_TIMEOUT.as_secs() + bytes / SLOWEST_BYTES_PER_SECOND)
}

async fn bounded<F: Future>(what: &str, limit: Duration, work: F) -> Result<F::Output> {
    tokio::time::timeout(limit, work).await.map_err(|elapsed| BackendError::Unavailable {
        what: format!("{what}: no answer within {} s", limit.as_secs()),
        cause: elapsed.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_falls_silent_ends_a_listing() {
        let mut listing =
            listed(futures::stream::pending().boxed(), "list".to_owned(), Duration::from_millis(1));
        let error = listing.next().await.expect("it speaks up").expect_err("of the silence");
        assert!(error.is_retryable(), "{error}");
        assert!(listing.next().await.is_none(), "and then it is over");
    }
}
