//! Traces, sent to an OTLP receiver over HTTP, in the background.
//!
//! Nothing waits for the receiver but the end of the process, and that not for long. What it does
//! not take is dropped and counted, which is said once, and once more when it takes spans again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use backends::trace::WINDOW;
use metrics::{Unit, counter, describe_counter};
use opentelemetry::trace::{SpanContext, SpanId};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData,
    SpanExporter, SpanProcessor,
};
use tracing::{info, warn};

use crate::config::Config;
use crate::output::Failure;
use crate::wiring;

/// Spans that wait for the receiver at most; about 1 KB each.
const MOST_WAITING: usize = 8_192;
/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others to be sent with.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// Time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long the end of the process may take for what was not sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// Spans, which are the process's, whatever job they are of.
pub(crate) const SPANS: &str = "des_trace_spans_total";

/// Describes what is counted here, so that it is there before anything happens.
pub(crate) fn describe() {
    describe_counter!(SPANS, Unit::Count, "Spans of traces, by what became of them");
    for result in ["sent", "dropped"] {
        counter!(SPANS, "result" => result).absolute(0);
    }
}

fn count(result: &'static str, spans: usize) {
    counter!(SPANS, "result" => result).increment(spans as u64);
}

/// Sends this process's spans as long as it lives; dropping it sends what is left, within a limit.
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Begins to send spans where the configuration says so. `role` names the process.
    ///
    /// # Errors
    /// When no exporter can be made for the configured endpoint.
    pub(crate) fn start(config: &Config, role: &str) -> Result<Self, Failure> {
        let Some(tracing) = &config.tracing else { return Ok(Self(None)) };
        let endpoint = format!("{}/v1/traces", tracing.endpoint);
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.as_str())
            .with_timeout(REQUEST_LIMIT)
            .build()
            .context("tracing.otlp_endpoint")?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter =
            Telling { exporter, endpoint, waiting: Arc::clone(&waiting), fails: false.into() };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MOST_WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new(
                "service.instance.id",
                wiring::process_name(role).to_string(),
            ));
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(format!("des-{role}"));
        }
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded { batches, waiting })
            // Who is first to deal with a window decides, in `backends::trace`; everybody follows.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .with_resource(resource.build())
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        global::set_tracer_provider(provider.clone());
        Ok(Self(Some(provider)))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let Some(provider) = self.0.take() else { return };
        if let Err(error) = provider.shutdown_with_timeout(FLUSH_LIMIT) {
            tracing::debug!("the last spans were not sent: {error}");
        }
    }
}

/// Takes spans as long as there is room, without ever waiting.
#[derive(Debug)]
struct Bounded {
    /// Its queue is as long as [`MOST_WAITING`], so that it never drops anything unseen.
    batches: BatchSpanProcessor,
    /// Spans that were taken and not given to the exporter yet.
    waiting: Arc<AtomicUsize>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            count("dropped", 1);
            return;
        }
        self.batches.on_end(if span.name == WINDOW { as_known(span) } else { span });
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// A window's own span, with the id by which all others know it. The SDK gives every span an id of
/// its own.
fn as_known(span: SpanData) -> SpanData {
    let given = &span.span_context;
    let state = given.trace_state().clone();
    let (trace, flags) = (given.trace_id(), given.trace_flags());
    SpanData {
        span_context: SpanContext::new(trace, span.parent_span_id, flags, false, state),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        ..span
    }
}

/// Counts what was sent and what was not, and says when that changes.
#[derive(Debug)]
struct Telling {
    exporter: opentelemetry_otlp::SpanExporter,
    endpoint: String,
    waiting: Arc<AtomicUsize>,
    fails: AtomicBool,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let sent = self.exporter.export(batch).await;
        count(if sent.is_ok() { "sent" } else { "dropped" }, spans);
        let failed_before = self.fails.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !failed_before => {
                warn!(endpoint = self.endpoint, "traces are dropped until they are taken: {error}");
            }
            Ok(()) if failed_before => info!(endpoint = self.endpoint, "traces are taken again"),
            Err(_) | Ok(()) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
