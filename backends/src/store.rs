//! The object store behind one small type of ours, which adds what the archive relies on:
//! durability, timeouts that scale with bytes, and our error meanings.

use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, RetryConfig, WriteMultipart,
};
use tokio::io::AsyncReadExt;

use crate::error::{BackendError, Result};

/// Time that any single request may take, besides the time for its bytes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest link that is worth waiting for.
const SLOWEST_BYTES_PER_SECOND: u64 = 128 * 1024;
/// A connection that is silent for this long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Part size of multipart uploads. S3 allows 10,000 parts, hence objects up to 78 GiB.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts of one upload in flight; with [`PART_BYTES`] this bounds an upload's memory.
const PARTS_IN_FLIGHT: usize = 2;

/// Where an S3 archive lies. Credentials come from `AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`), or from the machine's role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// Prefix inside the bucket, without slashes at its ends; empty for none.
    pub prefix: String,
    /// The server, such as `http://127.0.0.1:3900`; `None` for AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// `http://host/bucket/key` rather than `http://bucket.host/key`.
    pub path_style: bool,
    /// Storage class for new objects, such as `STANDARD_IA`.
    pub storage_class: Option<String>,
    /// Server-side encryption: `AES256`, or `aws:kms` with `sse_kms_key_id`.
    pub server_side_encryption: Option<String>,
    /// Key for `aws:kms`.
    pub sse_kms_key_id: Option<String>,
}

/// An archive's objects. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The directory, where the store is one: what has to be synced.
    directory: Option<Arc<PathBuf>>,
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
        std::fs::create_dir_all(path).map_err(|error| io_error(what.clone(), error))?;
        let root = path.canonicalize().map_err(|error| io_error(what.clone(), error))?;
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| store_error(what.clone(), error))?;
        Ok(Self {
            objects: Arc::new(objects),
            directory: Some(Arc::new(root)),
            attributes: Attributes::new(),
            description: what.into(),
        })
    }

    /// A bucket on S3 or a compatible server.
    ///
    /// # Errors
    /// When the settings contradict each other. Nothing is connected yet; see [`Store::check`].
    pub fn s3(settings: &S3Settings) -> Result<Self> {
        let place = settings.endpoint.as_deref().unwrap_or("AWS");
        let slash = if settings.prefix.is_empty() { "" } else { "/" };
        let what =
            format!("the bucket s3://{}{slash}{} at {place}", settings.bucket, settings.prefix);
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(READ_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(place.starts_with("http://"));
        // A short retry here hides blips; whatever lasts longer is the caller's to wait out, with
        // its reason visible.
        let retry = RetryConfig {
            max_retries: 3,
            retry_timeout: Duration::from_secs(30),
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_client_options(client)
            .with_retry(retry);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(encryption) = &settings.server_side_encryption {
            let key = "aws_server_side_encryption"
                .parse()
                .map_err(|error| store_error(what.clone(), error))?;
            builder = builder.with_config(key, encryption);
        }
        if let Some(key) = &settings.sse_kms_key_id {
            builder = builder.with_sse_kms_encryption(key);
        }
        let bucket = builder.build().map_err(|error| store_error(what.clone(), error))?;
        let mut attributes = Attributes::new();
        if let Some(class) = &settings.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        let objects: Arc<dyn ObjectStore> = if settings.prefix.is_empty() {
            Arc::new(bucket)
        } else {
            Arc::new(PrefixStore::new(bucket, settings.prefix.as_str()))
        };
        Ok(Self { objects, directory: None, attributes, description: what.into() })
    }

    /// Objects in memory, for tests.
    pub fn memory() -> Self {
        Self {
            objects: Arc::new(InMemory::new()),
            directory: None,
            attributes: Attributes::new(),
            description: "the store in memory".into(),
        }
    }

    /// Whether durability is this machine's file system's, so that [`Store::flush`] does work.
    pub const fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// Asks whether the store answers and lets us list.
    ///
    /// # Errors
    /// When it does not, with what to check.
    pub async fn check(&self) -> Result<()> {
        let mut listing = self.list("_des");
        match bounded(&self.description, REQUEST_TIMEOUT, listing.next()).await? {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Writes a whole object. On S3 it is durable when this returns; in a directory after the
    /// next [`Store::flush`]. Never half-visible.
    ///
    /// # Errors
    /// When the store refuses or does not answer in time.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let limit = time_for(bytes.len() as u64);
        let what = self.what("write", key);
        let path = Path::from(key);
        let options = PutOptions { attributes: self.attributes.clone(), ..PutOptions::default() };
        let put = self.objects.put_opts(&path, bytes.into(), options);
        bounded(&what, limit, put).await?.map_err(|error| store_error(what, error))?;
        Ok(())
    }

    /// Writes an object that must not exist yet; false when it does.
    ///
    /// # Errors
    /// When the store refuses or does not answer in time.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<bool> {
        let what = self.what("create", key);
        let path = Path::from(key);
        let options = PutOptions::from(PutMode::Create);
        let put = self.objects.put_opts(&path, bytes.into(), options);
        match bounded(&what, REQUEST_TIMEOUT, put).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(store_error(what, error)),
        }
    }

    /// Uploads `size` bytes of an open file from its current position, in parts, with bounded
    /// memory. `accept` sees every byte before it is sent, and is asked at the end whether the
    /// object may come into being.
    ///
    /// # Errors
    /// When the file cannot be read, the store refuses, or `accept` does; nothing is visible then.
    pub async fn put_file(
        &self,
        key: &str,
        file: std::fs::File,
        size: u64,
        accept: &mut (dyn UploadCheck + Send),
    ) -> Result<()> {
        let what = self.what("upload", key);
        bounded(&what, time_for(size), self.upload(key, file, size, accept, &what)).await?
    }

    async fn upload(
        &self,
        key: &str,
        file: std::fs::File,
        size: u64,
        accept: &mut (dyn UploadCheck + Send),
        what: &str,
    ) -> Result<()> {
        let path = Path::from(key);
        let failed = |error| store_error(what.to_owned(), error);
        let options = PutMultipartOptions {
            attributes: self.attributes.clone(),
            ..PutMultipartOptions::default()
        };
        let upload = self.objects.put_multipart_opts(&path, options).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        match self.send_parts(&mut upload, file, size, accept, what).await {
            Ok(()) => upload.finish().await.map(|_| ()).map_err(failed),
            Err(error) => {
                // The error that matters is the first; leftover parts are the bucket's
                // lifecycle rule's to sweep.
                let _abort = upload.abort().await;
                Err(error)
            }
        }
    }

    async fn send_parts(
        &self,
        upload: &mut WriteMultipart,
        file: std::fs::File,
        size: u64,
        accept: &mut (dyn UploadCheck + Send),
        what: &str,
    ) -> Result<()> {
        let mut file = tokio::fs::File::from_std(file);
        let mut remaining = size;
        while remaining > 0 {
            let want = usize::try_from(remaining).map_or(PART_BYTES, |left| left.min(PART_BYTES));
            let mut part = vec![0; want];
            file.read_exact(&mut part).await.map_err(|error| io_error(what.to_owned(), error))?;
            accept.see(&part);
            let flow = upload.wait_for_capacity(PARTS_IN_FLIGHT).await;
            flow.map_err(|error| store_error(what.to_owned(), error))?;
            upload.put(part.into());
            remaining -= want as u64;
        }
        accept.verdict().map_err(|why| BackendError::Invalid { what: format!("{what}: {why}") })
    }

    /// Reads a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there, [`BackendError::Invalid`] when it is larger.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes> {
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

    /// Reads a range of an object.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there, others when the range lies outside it.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let what = self.what("read", key);
        let wanted = range.end.saturating_sub(range.start);
        let path = Path::from(key);
        let got = bounded(&what, time_for(wanted), self.objects.get_range(&path, range)).await?;
        let bytes = got.map_err(|error| store_error(what.clone(), error))?;
        if bytes.len() as u64 == wanted {
            Ok(bytes)
        } else {
            Err(BackendError::Invalid { what: format!("{what}: it is shorter than it should be") })
        }
    }

    /// Reads the last `count` bytes of an object (all of it when it is shorter), and its size:
    /// one request.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there.
    pub async fn get_tail(&self, key: &str, count: u64) -> Result<(u64, Bytes)> {
        let what = self.what("read the end of", key);
        let path = Path::from(key);
        let failed = |error| store_error(what.clone(), error);
        let options = GetOptions { range: Some(GetRange::Suffix(count)), ..GetOptions::default() };
        let got = bounded(&what, REQUEST_TIMEOUT, self.objects.get_opts(&path, options)).await?;
        let got = got.map_err(failed)?;
        let size = got.meta.size;
        let bytes = bounded(&what, time_for(count), got.bytes()).await?.map_err(failed)?;
        Ok((size, bytes))
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
        objects: BoxStream<'static, object_store::Result<object_store::ObjectMeta>>,
    ) -> BoxStream<'static, Result<ListedObject>> {
        let what = self.what("list", folder);
        objects
            .map_ok(|meta| ListedObject { key: meta.location.to_string(), size: meta.size })
            .map_err(move |error| store_error(what.clone(), error))
            .boxed()
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

    /// Makes everything written so far durable: one `syncfs` where the store is a directory,
    /// nothing on S3, where every successful answer meant durable.
    ///
    /// # Errors
    /// When the file system reports that something could not be written.
    pub async fn flush(&self) -> Result<()> {
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        let what = format!("sync {}", self.description);
        let sync = tokio::task::spawn_blocking(move || {
            let root = std::fs::File::open(directory.as_path())?;
            rustix::fs::syncfs(&root).map_err(std::io::Error::from)
        });
        match sync.await {
            Ok(done) => done.map_err(|error| io_error(what, error)),
            Err(panicked) => Err(BackendError::Failed { what, cause: panicked.into() }),
        }
    }

    fn what(&self, action: &str, key: &str) -> String {
        format!("cannot {action} {key} in {}", self.description)
    }
}

/// Looks at the bytes of an upload as they pass.
pub trait UploadCheck {
    /// Sees the next bytes.
    fn see(&mut self, bytes: &[u8]);

    /// Whether the object may come into being.
    ///
    /// # Errors
    /// The reason why not.
    fn verdict(&mut self) -> std::result::Result<(), String>;
}

/// Accepts every upload.
pub struct AcceptAll;

impl UploadCheck for AcceptAll {
    fn see(&mut self, _bytes: &[u8]) {}
    fn verdict(&mut self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// The time that moving `bytes` may take.
fn time_for(bytes: u64) -> Duration {
    REQUEST_TIMEOUT + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

async fn bounded<F: Future>(what: &str, limit: Duration, work: F) -> Result<F::Output> {
    tokio::time::timeout(limit, work).await.map_err(|elapsed| BackendError::Unavailable {
        what: format!("{what}: no answer within {} s", limit.as_secs()),
        cause: elapsed.into(),
    })
}

fn io_error(what: String, error: std::io::Error) -> BackendError {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => BackendError::Denied { what, cause: error.into() },
        _ => BackendError::Unavailable { what, cause: error.into() },
    }
}

fn store_error(what: String, error: object_store::Error) -> BackendError {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => BackendError::NotFound { what: format!("{what}: it is not there") },
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            BackendError::Denied { what, cause: error.into() }
        }
        E::AlreadyExists { .. } | E::Precondition { .. } => {
            BackendError::Conflict { what: format!("{what}: {error}") }
        }
        E::Generic { .. } | E::JoinError { .. } => {
            BackendError::Unavailable { what, cause: error.into() }
        }
        other => BackendError::Failed { what, cause: other.into() },
    }
}
