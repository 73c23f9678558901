//! The fault-injecting layer at the S3 server. Keeps the journal of what was written.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use hyper::body::Body as _;
use hyper::{Method, Response, StatusCode};
use s3s::service::S3Service;
use s3s::stream::{ByteStream, DynByteStream};
use s3s::{Body, HttpError, HttpRequest, HttpResponse, StdError};
use tokio::sync::{Mutex, watch};

use super::journal::Journal;
use super::kind::Ill;
use super::s3_server::Gate;

/// Of the requests while a fault lasts one in so many passes unharmed.
const PASSES_ONE_IN: u64 = 4;
/// How much longer a fault lasts that has met nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SLOW_BY: Duration = Duration::from_millis(700);

/// What the gate does to requests, and what it has seen.
pub(crate) struct StoreGate {
    ill: watch::Sender<Option<Ill>>,
    requests: AtomicU64,
    hit: AtomicU64,
    /// One fault at a time.
    turn: Mutex<()>,
    journal: OnceLock<Arc<Journal>>,
    bucket: OnceLock<String>,
}

impl StoreGate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ill: watch::Sender::new(None),
            requests: AtomicU64::new(0),
            hit: AtomicU64::new(0),
            turn: Mutex::new(()),
            journal: OnceLock::new(),
            bucket: OnceLock::new(),
        })
    }

    /// Where to note what is written into `bucket`; once.
    pub(crate) fn note_in(&self, bucket: &str, journal: Arc<Journal>) {
        let _set_before = (self.bucket.set(bucket.to_owned()), self.journal.set(journal));
    }

    /// The gate as the server takes it.
    pub(crate) fn gate(self: &Arc<Self>) -> Gate {
        let it = Arc::clone(self);
        Arc::new(move |request, service| {
            let it = Arc::clone(&it);
            Box::pin(async move { it.answer(request, service).await })
        })
    }

    /// Treats requests so for a while; how many it hit.
    pub(crate) async fn harm(&self, ill: Ill, lasts: Duration) -> u64 {
        let _turn = self.turn.lock().await;
        let before = self.hit.load(Ordering::Relaxed);
        let well_again = WellAgain(self);
        self.ill.send_replace(Some(ill));
        tokio::time::sleep(lasts).await;
        let longest = tokio::time::Instant::now() + LONGEST_WAIT;
        while self.hit.load(Ordering::Relaxed) == before && tokio::time::Instant::now() < longest {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        drop(well_again);
        self.hit.load(Ordering::Relaxed) - before
    }

    async fn answer(
        &self,
        request: HttpRequest,
        service: S3Service,
    ) -> Result<HttpResponse, HttpError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let now = *self.ill.borrow();
        let ill = now.filter(|_| !number.is_multiple_of(PASSES_ONE_IN));
        let reads = request.method() == Method::GET;
        let deletes = request.uri().query().is_some_and(|query| query.starts_with("delete"));
        let writes = match *request.method() {
            Method::PUT => true,
            Method::POST => !deletes,
            _ => false,
        };
        // A fault of answers' bodies meets reads only, and one of lost answers writes. A store
        // without space is read and cleared as ever.
        let ill = ill.filter(|ill| match ill {
            Ill::Truncated => reads,
            Ill::LostResponse => !reads,
            Ill::Full => writes,
            _ => true,
        });
        if ill.is_some() {
            self.hit.fetch_add(1, Ordering::Relaxed);
        }
        match ill {
            None => self.serve(request, service).await,
            Some(Ill::InternalError) => {
                Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
            }
            Some(Ill::SlowDown) => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Some(Ill::Forbidden) => Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied")),
            Some(Ill::Full) => Ok(refusal(StatusCode::INSUFFICIENT_STORAGE, "XMinioStorageFull")),
            Some(Ill::LostResponse) => {
                let _lost = self.serve(request, service).await;
                Err(HttpError::new("the response is lost".into()))
            }
            Some(Ill::Truncated) => self.serve(request, service).await.map(truncated),
            Some(Ill::Slow) => {
                tokio::time::sleep(SLOW_BY).await;
                self.serve(request, service).await
            }
            Some(Ill::Hang) => {
                let mut ill = self.ill.subscribe();
                let _gone = ill.wait_for(|ill| *ill != Some(Ill::Hang)).await;
                Err(HttpError::new("nobody answered".into()))
            }
        }
    }

    /// Serves a request to its end, also where its connection is cut meanwhile: what is written is
    /// noted, whether or not anybody is there to hear of it.
    async fn serve(
        &self,
        request: HttpRequest,
        service: S3Service,
    ) -> Result<HttpResponse, HttpError> {
        let effect = self.effect_of(&request);
        let journal = self.journal.get().map(Arc::clone);
        let serving = tokio::spawn(async move {
            let response = service.call(request).await?;
            if let (Some((key, deletes)), Some(journal)) = (effect, journal)
                && response.status().is_success()
            {
                if deletes { journal.deleted(&key) } else { journal.wrote(&key) }
            }
            Ok(response)
        });
        serving.await.map_err(|panicked| HttpError::new(panicked.into()))?
    }

    /// The object that a request writes or deletes, and whether it deletes it.
    fn effect_of(&self, request: &HttpRequest) -> Option<(String, bool)> {
        let uri = request.uri();
        let (bucket, key) = uri.path().trim_start_matches('/').split_once('/')?;
        if Some(bucket) != self.bucket.get().map(String::as_str) {
            return None;
        }
        // Names of objects in an archive need no percent-encoding.
        let of_parts = uri.query().is_some_and(|query| query.contains("uploadId="));
        match *request.method() {
            Method::PUT if !of_parts => Some((key.to_owned(), false)),
            Method::POST if of_parts => Some((key.to_owned(), false)),
            Method::DELETE if !of_parts => Some((key.to_owned(), true)),
            _ => None,
        }
    }
}

struct WellAgain<'a>(&'a StoreGate);

impl Drop for WellAgain<'_> {
    fn drop(&mut self) {
        self.0.ill.send_replace(None);
    }
}

fn refusal(status: StatusCode, code: &str) -> HttpResponse {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>chaos</Message></Error>"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

/// The answer, whose body breaks off after its first piece's first half.
fn truncated(response: HttpResponse) -> HttpResponse {
    response.map(|body| {
        let cut: DynByteStream = Box::pin(Half { body: Box::pin(body), left: true });
        Body::from(cut)
    })
}

struct Half {
    body: Pin<Box<Body>>,
    left: bool,
}

impl Stream for Half {
    type Item = Result<bytes::Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.left {
            return Poll::Ready(Some(Err("the body breaks off".into())));
        }
        let frame = std::task::ready!(self.body.as_mut().poll_frame(context));
        let Some(frame) = frame else { return Poll::Ready(None) };
        let half = frame.map(|frame| {
            let bytes = frame.into_data().unwrap_or_default();
            bytes.slice(..bytes.len() / 2)
        });
        self.left = false;
        Poll::Ready(Some(half))
    }
}

impl ByteStream for Half {}
