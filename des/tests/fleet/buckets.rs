//! Buckets that treat some requests badly while a test says so.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper::body::Body as _;
use hyper::{Method, Response, StatusCode};
use s3s::service::S3Service;
use s3s::stream::{ByteStream, DynByteStream};
use s3s::{Body, HttpError, HttpRequest, HttpResponse, StdError};
use tokio::sync::watch;

use crate::s3_server::{Gate, S3Server, Setup};

/// How requests are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are refused, with this status and code.
    Refused(u16, &'static str),
    /// They are carried out, and the connection breaks before anybody hears of it.
    AnswerLost,
    /// The answer breaks off in the middle of its body, and the connection with it.
    BodyCut,
    /// They are carried out so much later.
    Slow(Duration),
    /// They are carried out when the fault is over, and not heard of before.
    Hang,
    /// The same, for the first of them alone.
    FirstHangs,
}

/// Requests of a method for keys that contain one of these texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests(&'static str, &'static [&'static str]);

impl Requests {
    /// What nobody but workers writes.
    pub(crate) const WRITES_OF_WORKERS: Self = Self::writes(&[".des", "/_des/receipts/"]);
    pub(crate) const WRITES_OF_SHARDS: Self = Self::writes(&[".des"]);
    pub(crate) const WRITES_OF_CERTIFICATES: Self = Self::writes(&["/_des/certificates/"]);
    pub(crate) const READS_OF_CERTIFICATES: Self = Self::reads(&["/_des/certificates/"]);
    pub(crate) const READS_OF_MANIFESTS: Self = Self::reads(&["/_des/manifests/"]);
    pub(crate) const READS_OF_MANIFESTS_AND_RECEIPTS: Self =
        Self::reads(&["/_des/manifests/", "/_des/receipts/"]);

    /// Writes of objects whose keys contain one of these texts.
    pub(crate) const fn writes(of: &'static [&'static str]) -> Self {
        Self("PUT", of)
    }

    /// The same of reads.
    pub(crate) const fn reads(of: &'static [&'static str]) -> Self {
        Self("GET", of)
    }

    fn contain(self, request: &HttpRequest) -> bool {
        let Self(method, parts) = self;
        // Uploads in parts are begun and ended with a POST.
        let writes = method == "PUT" && request.method() == Method::POST;
        (writes || request.method() == method)
            && parts.iter().any(|part| request.uri().path().contains(part))
    }
}

/// What is wrong with a bucket, if anything is. It ends with a test's hold on it.
pub(crate) struct Trouble {
    fault: watch::Sender<Option<Fault>>,
    /// Requests that the fault has met since it began.
    met: Arc<AtomicUsize>,
}

impl Trouble {
    /// A bucket, and what may trouble these requests to it.
    pub(crate) fn with(requests: Requests) -> (S3Server, Self) {
        let fault = watch::Sender::new(None);
        let met = Arc::new(AtomicUsize::new(0));
        let gate: Gate = Arc::new({
            let (fault, met) = (fault.subscribe(), Arc::clone(&met));
            move |request, service| {
                let (fault, met) = (fault.clone(), Arc::clone(&met));
                Box::pin(async move {
                    let now = *fault.borrow();
                    match now.filter(|_| requests.contain(&request)) {
                        Some(ill) => {
                            let number = met.fetch_add(1, Ordering::Relaxed);
                            treat((ill, number), fault, request, service).await
                        }
                        None => service.call(request).await,
                    }
                })
            }
        });
        let server = S3Server::start(Setup { gate: Some(gate), ..Setup::default() });
        (server.expect("a server"), Self { fault, met })
    }

    pub(crate) fn begin(&self, fault: Fault) {
        self.met.store(0, Ordering::Relaxed);
        self.fault.send_replace(Some(fault));
    }

    pub(crate) fn end(&self) {
        self.fault.send_replace(None);
    }

    /// How many requests it has met since it began.
    pub(crate) fn met(&self) -> usize {
        self.met.load(Ordering::Relaxed)
    }
}

async fn treat(
    (fault, number): (Fault, usize),
    mut now: watch::Receiver<Option<Fault>>,
    request: HttpRequest,
    service: S3Service,
) -> Result<HttpResponse, HttpError> {
    match fault {
        Fault::Refused(status, code) => return Ok(refusal(status, code)),
        Fault::AnswerLost => {
            let _lost = service.call(request).await;
            return Err(HttpError::new("nobody hears of it".into()));
        }
        Fault::BodyCut => return service.call(request).await.map(cut),
        Fault::FirstHangs if number > 0 => {}
        Fault::Slow(by) => tokio::time::sleep(by).await,
        Fault::Hang | Fault::FirstHangs => {
            let _bucket_is_gone = now.wait_for(Option::is_none).await;
        }
    }
    service.call(request).await
}

fn refusal(status: u16, code: &str) -> HttpResponse {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
         <Message>It is so while a test says so.</Message></Error>"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

/// The answer, which still promises its whole length.
fn cut(response: HttpResponse) -> HttpResponse {
    response.map(|body| {
        let half: DynByteStream = Box::pin(Half { body: Box::pin(body), is_over: false });
        Body::from(half)
    })
}

/// Half of a body's first piece, and then an error.
struct Half {
    body: Pin<Box<Body>>,
    is_over: bool,
}

impl Stream for Half {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(Some(Err("it breaks off".into())));
        }
        let frame = ready!(self.body.as_mut().poll_frame(context));
        self.is_over = true;
        Poll::Ready(frame.map(|frame| {
            let bytes = frame?.into_data().unwrap_or_default();
            Ok(bytes.slice(..bytes.len() / 2))
        }))
    }
}

impl ByteStream for Half {}
