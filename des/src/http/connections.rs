//! Connections: how many there are at a time, and how long whoever has one may do nothing with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections at a time that may ask for everything.
const CONNECTIONS: usize = 64;
/// Further ones, which may ask only for what monitoring asks for; still further ones wait to be
/// accepted.
const RESERVED: usize = 16;
/// How long a request's head may take, and how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// The same of a reserved one, which answers one request.
const RESERVED_HEAD_LIMIT: Duration = Duration::from_secs(3);
/// How long whoever asked may take nothing of the answer.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// The wait after a connection could not be accepted, for want of file descriptors perhaps.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Answers from `everything`, and where that has many connections already, from `reserved`.
pub(super) async fn accept(
    listener: TcpListener,
    (everything, reserved): (Router, Router),
    stop: CancellationToken,
) {
    let places = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(RESERVED)));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("a connection was not accepted: {error}");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let (place, crowded) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            place = Arc::clone(&places.0).acquire_owned() => (place, false),
            place = Arc::clone(&places.1).acquire_owned() => (place, true),
        };
        let Ok(place) = place else { return };
        let router = if crowded { reserved.clone() } else { everything.clone() };
        tokio::spawn(answer(stream, (router, crowded), place, stop.clone()));
    }
}

/// Answers a connection's requests. Whoever sends no head in time, or takes no answer, is let go.
async fn answer(
    stream: TcpStream,
    (router, crowded): (Router, bool),
    _place: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let limit = if crowded { RESERVED_HEAD_LIMIT } else { HEAD_LIMIT };
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(limit).keep_alive(!crowded);
    let service = TowerToHyperService::new(router);
    let stream = TokioIo::new(WriteLimited::new(stream, WRITE_LIMIT));
    tokio::select! {
        () = stop.cancelled() => {}
        served = server.serve_connection(stream, service) => {
            if let Err(error) = served {
                debug!("a connection ended: {error}");
            }
        }
    }
}

/// A connection that fails when nothing can be written to it for long.
struct WriteLimited<S> {
    stream: S,
    limit: Duration,
    /// Since something was to be written and could not be.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteLimited<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, stalled: None }
    }

    fn limited<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteLimited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteLimited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn whoever_takes_no_answer_is_let_go() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = WriteLimited::new(ours, Duration::from_millis(50));
        ours.write_all(b"12345678").await.expect("there is room");
        let error = ours.write_all(b"9").await.expect_err("nobody takes it");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        theirs.read_exact(&mut [0; 8]).await.expect("it was written");
        ours.write_all(b"9").await.expect("there is room again");
    }

    #[tokio::test]
    async fn monitoring_is_answered_whoever_else_keeps_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let everything = Router::new().route("/", get(async || "page"));
        let reserved = Router::new()
            .route("/healthz", get(async || "alive"))
            .fallback(async || StatusCode::SERVICE_UNAVAILABLE);
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        tokio::spawn(accept(listener, (everything, reserved), stop));
        let asked = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("asked");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("answered");
            answer.split(' ').nth(1).map(str::to_owned)
        };
        assert_eq!(asked("/").await.as_deref(), Some("200"));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.expect("connected"));
        }
        assert_eq!(asked("/healthz").await.as_deref(), Some("200"));
        assert_eq!(asked("/").await.as_deref(), Some("503"));
        drop(idle);
    }
}
