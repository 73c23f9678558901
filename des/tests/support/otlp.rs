//! A receiver of OpenTelemetry's protocol over HTTP, which keeps every span that it is sent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `service.name` and `service.instance.id` of the process that sent it.
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for the root of a trace.
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Seen {
    #[track_caller]
    pub(crate) fn get(&self, key: &str) -> &str {
        self.attributes.get(key).unwrap_or_else(|| panic!("no {key}: {self:#?}"))
    }
}

#[derive(Default)]
struct Kept {
    spans: Vec<Seen>,
    bytes: Vec<u8>,
}

/// The receiver, as long as it lives.
pub(crate) struct Receiver {
    pub(crate) endpoint: String,
    kept: Arc<Mutex<Kept>>,
    _runtime: tokio::runtime::Runtime,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let kept = Arc::<Mutex<Kept>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&kept));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, kept, _runtime: runtime }
    }

    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.kept.lock().expect("nobody panics with it").spans.clone()
    }

    /// Whether any request held this text.
    pub(crate) fn was_told(&self, text: &str) -> bool {
        let kept = self.kept.lock().expect("nobody panics with it");
        kept.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

async fn take(
    State(kept): State<Arc<Mutex<Kept>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let told = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = told(header::CONTENT_TYPE);
    let body = match told(header::CONTENT_ENCODING) {
        Some("gzip") => unzipped(&body),
        _ => body,
    };
    let request = ExportTraceServiceRequest::decode(body.clone());
    let (Some("application/x-protobuf"), Ok(request)) = (kind, request) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    let mut kept = kept.lock().expect("nobody panics with it");
    kept.bytes.extend_from_slice(&body);
    for resource in request.resource_spans {
        let of_process = resource.resource.map(|it| texts(it.attributes)).unwrap_or_default();
        let of_process = |key: &str| of_process.get(key).cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            kept.spans.push(Seen {
                service: of_process("service.name"),
                instance: of_process("service.instance.id"),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                attributes: texts(span.attributes),
            });
        }
    }
    (StatusCode::OK, Vec::new())
}

/// As des never sends it, and collectors do.
fn unzipped(body: &[u8]) -> Bytes {
    let mut gzip = Command::new("gzip");
    gzip.arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut gzip = gzip.spawn().expect("gzip");
    let mut pipe = gzip.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(body).expect("written"));
        gzip.wait_with_output().expect("it ends")
    });
    output.stdout.into()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |it: KeyValue| {
        let value = match it.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (it.key, value)
    };
    attributes.into_iter().map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String");
        text
    })
}
