//! An S3 server that counts what it is asked, and answers late where it is told to; and a line to it
//! on which every connection carries so many bytes a second.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::{Method, Response, StatusCode, header};
use s3s::{Body, HttpRequest, HttpResponse};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::chaos::s3_server::{Gate, S3Server, Setup};

const PIECE_BYTES: usize = 16 * 1024;

/// Requests by what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Requests {
    pub(crate) get: u64,
    pub(crate) head: u64,
    pub(crate) list: u64,
    pub(crate) put: u64,
    pub(crate) delete: u64,
}

impl Requests {
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            get: self.get - before.get,
            head: self.head - before.head,
            list: self.list - before.list,
            put: self.put - before.put,
            delete: self.delete - before.delete,
        }
    }

    pub(crate) fn text(self) -> String {
        let Self { get, head, list, put, delete } = self;
        format!("{put} PUT, {get} GET, {head} HEAD, {list} LIST, {delete} DELETE")
    }
}

#[derive(Default)]
struct Counters {
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
}

/// The server, what it was asked, and the line to it.
pub(crate) struct CountingS3 {
    pub(crate) server: S3Server,
    counters: Arc<Counters>,
}

impl CountingS3 {
    /// Every answer begins so much later.
    pub(crate) fn start(latency: Duration) -> anyhow::Result<Self> {
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let root = Arc::new(OnceLock::new());
        let objects: Arc<OnceLock<PathBuf>> = Arc::clone(&root);
        let gate: Gate = Arc::new(move |request, service| {
            counted.count(request.method(), request.uri().query().unwrap_or_default());
            let objects = objects.get().cloned().unwrap_or_default();
            Box::pin(async move {
                if !latency.is_zero() {
                    tokio::time::sleep(latency).await;
                }
                match part_of_object(&request, &objects) {
                    Some(answer) => Ok(answer),
                    None => service.call(request).await,
                }
            })
        });
        let setup = Setup { gate: Some(gate), ..Setup::default() };
        let server = S3Server::start(setup).context("the S3 server does not start")?;
        let root_dir = server.bucket_dir.parent().map(Path::to_owned).unwrap_or_default();
        let _set_once = root.set(root_dir);
        Ok(Self { server, counters })
    }

    pub(crate) fn requests(&self) -> Requests {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Requests {
            get: of(&self.counters.get),
            head: of(&self.counters.head),
            list: of(&self.counters.list),
            put: of(&self.counters.put),
            delete: of(&self.counters.delete),
        }
    }

    /// What `des` needs in its environment.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), self.server.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.server.secret_key.clone()),
        ]
    }
}

impl Counters {
    fn count(&self, method: &Method, query: &str) {
        let counter = match *method {
            Method::GET if query.contains("list-type") => &self.list,
            Method::GET => &self.get,
            Method::HEAD => &self.head,
            Method::DELETE => &self.delete,
            // POST begins and ends an upload in parts, and costs the same.
            _ => &self.put,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers a GET of a range of an object that is there. The file server behind would hash the whole
/// object for each, and that would be what is measured. Keys in an archive need no percent-encoding.
fn part_of_object(request: &HttpRequest, objects: &Path) -> Option<HttpResponse> {
    if *request.method() != Method::GET || request.uri().query().is_some_and(|it| !it.is_empty()) {
        return None;
    }
    let asked = request.headers().get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    let file = File::open(objects.join(request.uri().path().trim_start_matches('/'))).ok()?;
    let size = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    let range = range_of(asked, size)?;
    let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
    file.read_exact_at(&mut bytes, range.start).ok()?;
    let shown = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    let answer = Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(header::CONTENT_RANGE, shown)
        .header(header::CONTENT_LENGTH, bytes.len())
        .header(header::ETAG, format!("\"{size}\""))
        .header(header::LAST_MODIFIED, "Sat, 01 Jun 2024 00:00:00 GMT");
    answer.body(Body::from(Bytes::from(bytes))).ok()
}

/// `0-99`, `100-` or `-100` of so many bytes; `None` where there is nothing of it.
fn range_of(asked: &str, size: u64) -> Option<Range<u64>> {
    let (from, to) = asked.split_once('-')?;
    let range = match (from, to) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (from, "") => from.parse().ok()?..size,
        (from, to) => from.parse().ok()?..to.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(range)
}

/// A line to a server; it ends when this is dropped.
pub(crate) struct NarrowLine {
    pub(crate) port: u16,
    accepting: JoinHandle<()>,
}

impl NarrowLine {
    /// Each connection carries so many bytes a second in each direction.
    pub(crate) async fn start(target: SocketAddr, bytes_per_second: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _peer)) = listener.accept().await {
                tokio::spawn(carry(client, target, bytes_per_second));
            }
        });
        Ok(Self { port, accepting })
    }
}

impl Drop for NarrowLine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, bytes_per_second: u64) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _slower_without = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::join!(
        pump(&mut from_client, &mut to_server, bytes_per_second),
        pump(&mut from_server, &mut to_client, bytes_per_second)
    );
}

/// Hands bytes on, no faster than allowed: a piece waits until those before it have had their time.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    bytes_per_second: u64,
) {
    let mut piece = vec![0; PIECE_BYTES];
    let mut free_at = Instant::now();
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let takes = Duration::from_micros(count as u64 * 1_000_000 / bytes_per_second.max(1));
        free_at = free_at.max(Instant::now()) + takes;
        tokio::time::sleep_until(free_at).await;
        let Some(bytes) = piece.get(..count) else { break };
        if to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _gone_already = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_that_were_asked_for() {
        assert_eq!(range_of("0-9", 100), Some(0..10));
        assert_eq!(range_of("90-", 100), Some(90..100));
        assert_eq!(range_of("-5", 100), Some(95..100));
        assert_eq!(range_of("-500", 100), Some(0..100));
        assert_eq!(range_of("95-500", 100), Some(95..100));
        assert_eq!(range_of("100-", 100), None);
        assert_eq!(range_of("x", 100), None);
    }

    #[tokio::test]
    async fn a_narrow_line_carries_everything_and_takes_its_time() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.expect("bytes");
            socket.write_all(&all).await.expect("they go back");
        });
        let line = NarrowLine::start(address, 1_000_000).await.expect("a line");
        let began = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", line.port)).await.expect("connected");
        let sent = vec![7; 100_000];
        stream.write_all(&sent).await.expect("sent");
        stream.shutdown().await.expect("ended");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.expect("an answer");
        assert_eq!(back, sent);
        assert!(began.elapsed() >= Duration::from_millis(200), "a tenth of a second each way");
    }
}
