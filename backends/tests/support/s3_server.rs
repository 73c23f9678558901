//! A real S3 server for tests: HTTP on a loopback port, signed requests, objects as files in a
//! directory of its own. It runs on its own threads, so a test may block as it likes, and ends
//! when it is dropped.
//!
//! Other crates' tests and `loadtest` use it by `#[path]`; they need `async-trait`, `futures`,
//! `hyper`, `hyper-util`, `s3s`, `s3s-fs`, `tempfile` and `tokio`.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as Connections;
use s3s::auth::SimpleAuth;
use s3s::crypto::{Checksum, Md5};
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{
    HttpError, HttpRequest, HttpResponse, S3, S3Error, S3ErrorCode, S3Request, S3Response,
    S3Result, s3_error,
};
use s3s_fs::FileSystem;
use tokio::sync::oneshot;

/// S3 lists so many objects at once.
const PAGE: usize = 1_000;
/// The wait after a connection that could not be accepted.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Some of the storage classes that there are.
const CLASSES: [&str; 4] = ["STANDARD", "STANDARD_IA", "REDUCED_REDUNDANCY", "GLACIER"];

/// A running server with one empty bucket.
pub(crate) struct S3Server {
    /// Where it listens, such as `http://127.0.0.1:41234`.
    pub(crate) endpoint: String,
    /// The key that it knows.
    pub(crate) access_key: String,
    /// The secret of that key.
    pub(crate) secret_key: String,
    /// The bucket.
    pub(crate) bucket: String,
    /// The directory that holds the bucket's objects, as files under their names.
    pub(crate) bucket_dir: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What stands between the wire and the server, and decides what becomes of a request.
pub(crate) type Gate = Arc<
    dyn Fn(HttpRequest, S3Service) -> BoxFuture<'static, Result<HttpResponse, HttpError>>
        + Send
        + Sync,
>;

/// How the server differs from S3; not at all by default.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    /// The directory that its own is made in; default: the machine's for temporary files.
    pub(crate) inside: Option<PathBuf>,
    /// It refuses `If-None-Match`, as older servers do.
    pub(crate) no_conditional_writes: bool,
    /// It never answers a write of a key that contains this text; each leaves a file
    /// `.stuck-<number>` beside the bucket.
    pub(crate) stuck_writes: Option<&'static str>,
    /// Sees every request first.
    pub(crate) gate: Option<Gate>,
    /// Keys that it knows besides, with the same secret.
    pub(crate) more_keys: Vec<String>,
}

impl S3Server {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// When there is no directory, port or thread for it.
    pub(crate) fn start(setup: Setup) -> io::Result<Self> {
        let (access_key, secret_key, bucket) = ("TESTACCESSKEY", "test/secret+key", "archive");
        let root = match &setup.inside {
            Some(directory) => tempfile::tempdir_in(directory)?,
            None => tempfile::tempdir()?,
        };
        let bucket_dir = root.path().join(bucket);
        std::fs::create_dir(&bucket_dir)?;
        let files =
            FileSystem::new(root.path()).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut service = S3ServiceBuilder::new(Objects {
            files,
            root: root.path().to_owned(),
            no_conditional_writes: setup.no_conditional_writes,
            stuck_writes: setup.stuck_writes,
            writes: AtomicU64::new(0),
        });
        let mut keys = SimpleAuth::from_single(access_key, secret_key);
        for key in setup.more_keys {
            keys.register(key, secret_key.into());
        }
        service.set_auth(keys);
        let service = service.build();

        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, service, setup.gate) => {}
                    _stop = stopped => {}
                }
            });
            // Its files go after everything that uses them.
            drop(runtime);
            drop(root);
        });
        Ok(Self {
            endpoint: format!("http://{address}"),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            bucket: bucket.to_owned(),
            bucket_dir,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ended_by_itself = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service, gate: Option<Gate>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((socket, _peer)) = listener.accept().await else {
            // Out of file descriptors, say: others may close theirs.
            tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            continue;
        };
        let _slower_without = socket.set_nodelay(true);
        let (service, gate) = (service.clone(), gate.clone());
        tokio::spawn(async move {
            let connections = Connections::new(TokioExecutor::new());
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let (request, service) = (request.map(s3s::Body::from), service.clone());
                let gate = gate.clone();
                async move {
                    match gate {
                        Some(gate) => gate(request, service).await,
                        None => service.call(request).await,
                    }
                }
            });
            // Clients hang up when they like.
            let _hung_up = connections.serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

/// `s3s-fs`, and what S3 does that it does not, or not fast enough for many thousands of objects.
struct Objects {
    files: FileSystem,
    root: PathBuf,
    no_conditional_writes: bool,
    stuck_writes: Option<&'static str>,
    writes: AtomicU64,
}

impl Objects {
    /// The file server makes a missing bucket.
    fn bucket_is_there(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// The file server takes a folder for an object.
    fn size(&self, bucket: &str, key: &str) -> S3Result<u64> {
        match std::fs::metadata(self.root.join(bucket).join(key)) {
            Ok(there) if there.is_file() => Ok(there.len()),
            _ => Err(s3_error!(NoSuchKey)),
        }
    }

    /// The file server fails on a suffix that is longer than the object.
    fn plain_range(&self, input: &GetObjectInput) -> S3Result<Option<Range>> {
        let size = self.size(&input.bucket, &input.key)?;
        match input.range {
            Some(Range::Suffix { length }) if size == 0 || length == 0 => {
                Err(s3_error!(InvalidRange))
            }
            Some(Range::Suffix { length }) => {
                Ok(Some(Range::Int { first: size.saturating_sub(length), last: None }))
            }
            other => Ok(other),
        }
    }

    /// Writes a whole object at once: one file, where the file server makes three.
    async fn write(&self, input: PutObjectInput) -> S3Result<ETag> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        if self.stuck_writes.is_some_and(|text| input.key.contains(text)) {
            let stuck = self.root.join(format!(".stuck-{number}"));
            std::fs::write(stuck, &input.key).map_err(S3Error::internal_error)?;
            return std::future::pending().await;
        }
        let broken = |error| S3Error::with_source(S3ErrorCode::IncompleteBody, error);
        let mut body = input.body.ok_or_else(|| s3_error!(IncompleteBody))?;
        let mut bytes = Vec::new();
        while let Some(more) = body.next().await {
            bytes.extend_from_slice(&more.map_err(broken)?);
        }
        let digest = Md5::checksum(&bytes);
        let staging = self.root.join(format!(".write-{number}"));
        let object = self.root.join(&input.bucket).join(&input.key);
        let must_be_new = input.if_none_match.is_some();
        let write = move || {
            std::fs::create_dir_all(object.parent().unwrap_or(&object))?;
            std::fs::write(&staging, bytes)?;
            let there = match must_be_new {
                true => std::fs::hard_link(&staging, &object),
                false => std::fs::rename(&staging, &object),
            };
            if there.is_err() || must_be_new {
                std::fs::remove_file(&staging)?;
            }
            there
        };
        match tokio::task::spawn_blocking(write).await.map_err(S3Error::internal_error)? {
            Ok(()) => Ok(ETag::Strong(digest.iter().map(|byte| format!("{byte:02x}")).collect())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(s3_error!(PreconditionFailed))
            }
            Err(error) => Err(S3Error::internal_error(error)),
        }
    }
}

/// The objects of a bucket that begin with `prefix` and sort after `after`, in order: at most
/// `limit`, and whether there are more.
fn list(bucket: &Path, prefix: &str, after: &str, limit: usize) -> io::Result<(Vec<Object>, bool)> {
    let mut keys = Vec::new();
    let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(bucket.join(&folder)) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                continue;
            }
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let key = format!("{folder}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                folders.push(key + "/");
            } else if key.starts_with(prefix) && key.as_str() > after {
                keys.push(key);
            }
        }
    }
    keys.sort_unstable();
    let more = keys.len() > limit;
    keys.truncate(limit);
    let objects = keys.into_iter().filter_map(|key| {
        // It may have been deleted since.
        let there = std::fs::metadata(bucket.join(&key)).ok()?;
        Some(Object {
            key: Some(key),
            size: i64::try_from(there.len()).ok(),
            last_modified: there.modified().ok().map(Timestamp::from),
            ..Default::default()
        })
    });
    Ok((objects.collect(), more))
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        if self.no_conditional_writes && input.if_none_match.is_some() {
            return Err(s3_error!(NotImplemented, "no conditional writes here"));
        }
        if input.storage_class.as_ref().is_some_and(|class| !CLASSES.contains(&class.as_str())) {
            return Err(s3_error!(InvalidStorageClass));
        }
        let e_tag = Some(self.write(input).await?);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(
        &self,
        mut request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        request.input.range = self.plain_range(&request.input)?;
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.size(&request.input.bucket, &request.input.key)?;
        self.files.head_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.bucket_is_there(&input.bucket)?;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "no folders here"));
        }
        let bucket = self.root.join(&input.bucket);
        let prefix = input.prefix.clone().unwrap_or_default();
        // A page begins where the one before ended, the first where it was asked to.
        let after = input.continuation_token.clone().or(input.start_after).unwrap_or_default();
        let limit = input.max_keys.and_then(|most| usize::try_from(most).ok());
        let limit = limit.unwrap_or(PAGE).min(PAGE);
        let listing = tokio::task::spawn_blocking(move || list(&bucket, &prefix, &after, limit));
        let listing = listing.await.map_err(S3Error::internal_error)?;
        let (contents, more) = listing.map_err(S3Error::internal_error)?;
        let last = contents.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: i32::try_from(contents.len()).ok(),
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_key| more),
            continuation_token: input.continuation_token,
            contents: Some(contents),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        self.files.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        // It says of an upload that it does not know, or no more, that access to it is denied.
        let ended = self.files.complete_multipart_upload(request).await;
        ended.map_err(|error| match error.code() {
            S3ErrorCode::AccessDenied => s3_error!(NoSuchUpload),
            _ => error,
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.files.abort_multipart_upload(request).await
    }
}
