//! The trace of a window: the spans of everything that is done for it, in whichever process, under
//! one trace id.
//!
//! That id, and the id of the window's own span, follow from archive, job, window and revision, so
//! that a coordinator that takes over goes on with the trace of the one before. Messages carry a
//! span's W3C context in their headers. Nothing here sends anything: where the composition root
//! installs no tracer, and for windows that are not sampled, a span is nothing and costs nothing.
//!
//! Spans are for windows, partitions and objects, never for files.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Instant;

use opentelemetry::propagation::{Extractor, Injector};
pub use opentelemetry::trace::SpanKind;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use protocol::{ArchiveIdentity, WindowKey};

/// The name of the span that is a window's whole way. It is begun as a child of
/// [`Span::of_window`], and whoever exports it gives it that span's id, and no parent.
pub const WINDOW: &str = "window";

/// Instrumentation scope of every span.
const SCOPE: &str = "des";

/// A span, or nothing, where nothing is traced. Clones are the same span; it ends when the last of
/// them is dropped.
#[derive(Clone, Debug, Default)]
pub struct Span(Context);

impl Span {
    /// No span. Its children are none either.
    pub fn none() -> Self {
        Self::default()
    }

    /// The window's own span as everybody knows it, to be the parent of others. `ratio`, 0 to 1,
    /// is the part of windows that is traced; which ones follows from the trace id, so that every
    /// coordinator with this ratio picks the same.
    pub fn of_window(identity: &ArchiveIdentity, window: WindowKey, ratio: f64) -> Self {
        if ratio <= 0.0 {
            return Self::none();
        }
        let (trace, span, sample) = ids(identity, window);
        // 53 bits are what a double holds exactly.
        let drawn = (sample >> 11) as f64 / (1_u64 << 53) as f64;
        if drawn >= ratio {
            return Self::none();
        }
        let context =
            SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
        Self(Context::new().with_remote_span_context(context))
    }

    /// The span whose context a message's headers carry.
    pub fn of_headers(headers: &[(String, String)]) -> Self {
        let headers = Headers(headers);
        let extracted = global::get_text_map_propagator(|propagator| {
            propagator.extract_with_context(&Context::new(), &headers)
        });
        Self(extracted)
    }

    /// The span whose context a message's headers carry, where that is of this trace; else this
    /// one. A message can so never lead out of its window's trace, or into one that is not sampled.
    pub fn continued_by(&self, headers: &[(String, String)]) -> Self {
        let later = Self::of_headers(headers);
        let same = |a: &SpanContext, b: &SpanContext| a.trace_id() == b.trace_id();
        let is_later =
            later.is_traced() && same(later.0.span().span_context(), self.0.span().span_context());
        if is_later { later } else { self.clone() }
    }

    /// Begins a child.
    pub fn child(&self, name: &'static str) -> Self {
        self.begin(SpanBuilder::from_name(name))
    }

    /// Begins a child that publishes a message or handles one that others published.
    pub fn child_of_kind(&self, name: &'static str, kind: SpanKind) -> Self {
        self.begin(SpanBuilder::from_name(name).with_kind(kind))
    }

    /// A child that began before.
    pub fn child_since(&self, name: &'static str, began: Instant) -> Self {
        let began = std::time::SystemTime::now().checked_sub(began.elapsed());
        let builder = SpanBuilder::from_name(name);
        self.begin(match began {
            Some(began) => builder.with_start_time(began),
            None => builder,
        })
    }

    fn begin(&self, builder: SpanBuilder) -> Self {
        if !self.is_traced() {
            return Self::none();
        }
        let span = global::tracer(SCOPE).build_with_context(builder, &self.0);
        Self(Context::new().with_span(span))
    }

    /// The span with a text as an attribute.
    #[must_use]
    pub fn with(self, key: &'static str, value: impl Display) -> Self {
        self.note(key, value);
        self
    }

    /// The span with a number as an attribute.
    #[must_use]
    pub fn with_count(self, key: &'static str, value: u64) -> Self {
        self.note_count(key, value);
        self
    }

    /// Notes a text as an attribute.
    pub fn note(&self, key: &'static str, value: impl Display) {
        if self.is_traced() {
            self.0.span().set_attribute(KeyValue::new(key, value.to_string()));
        }
    }

    /// Notes a number as an attribute.
    pub fn note_count(&self, key: &'static str, value: u64) {
        if self.is_traced() {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            self.0.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Marks what the span is about as failed. `why` is a class, never a text from elsewhere: what
    /// exactly was wrong stands in the log.
    pub fn fail(&self, why: &'static str) {
        if self.is_traced() {
            self.0.span().set_status(Status::error(why));
        }
    }

    /// Headers that carry the span's context to whoever handles the message; none where nothing is
    /// traced.
    pub fn headers(&self) -> Vec<(String, String)> {
        if !self.is_traced() {
            return Vec::new();
        }
        let mut headers = HashMap::new();
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&self.0, &mut Inject(&mut headers));
        });
        headers.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The trace id, 32 hexadecimal digits, for log lines; `None` where nothing is traced.
    pub fn trace_id(&self) -> Option<String> {
        self.is_traced().then(|| self.0.span().span_context().trace_id().to_string())
    }

    fn is_traced(&self) -> bool {
        let span = self.0.span();
        span.span_context().is_valid() && span.span_context().is_sampled()
    }
}

/// Trace id, span id and the number that decides whether the window is sampled.
fn ids(identity: &ArchiveIdentity, window: WindowKey) -> (TraceId, SpanId, u64) {
    let named =
        format!("{}\n{}\n{}\n{}", identity.archive, identity.job, window.end, window.revision);
    let mut bytes = [0; 32];
    let mut hash = blake3::Hasher::new_derive_key("des 2026 trace of a window");
    hash.update(named.as_bytes()).finalize_xof().fill(&mut bytes);
    let [a, b, c, d] = [0, 8, 16, 24].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_be_bytes(word)
    });
    // Zeroes alone are no id.
    let trace = (u128::from(a) << 64 | u128::from(b)).max(1);
    (TraceId::from(trace), SpanId::from(c.max(1)), d)
}

struct Headers<'a>(&'a [(String, String)]);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

struct Inject<'a>(&'a mut HashMap<String, String>);

impl Injector for Inject<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(job: &str) -> ArchiveIdentity {
        let at = "2024-12-01".parse().expect("a date");
        ArchiveIdentity {
            version: ArchiveIdentity::VERSION,
            archive: "a-1".parse().expect("an id"),
            job: job.parse().expect("a job"),
            n_bits: protocol::NBits::DEFAULT,
            origin: at,
            shard_version: 1,
            created_at: at,
        }
    }

    fn window(day: u32, revision: u16) -> WindowKey {
        let at = |text: String| text.parse().expect("a date");
        let window = protocol::Window::new(
            at(format!("2024-12-{day:02}")),
            at(format!("2024-12-{:02}", day + 1)),
        );
        WindowKey::new(window.expect("a window"), revision)
    }

    fn id(job: &str, day: u32, revision: u16) -> String {
        Span::of_window(&identity(job), window(day, revision), 1.0).trace_id().expect("traced")
    }

    #[test]
    fn a_window_has_the_same_trace_wherever_it_is_derived() {
        // A stored text: processes of two releases meet in one trace.
        assert_eq!(id("files", 1, 0), "58c22fbf9ec597de0b9e7ffec6039b42");
        assert_eq!(id("files", 1, 0), id("files", 1, 0));
        for other in [id("other", 1, 0), id("files", 2, 0), id("files", 1, 1)] {
            assert_ne!(other, id("files", 1, 0));
        }
    }

    #[test]
    fn the_ratio_is_of_windows_and_picks_the_same_everywhere() {
        let traced = |ratio: f64| {
            let windows = (1..30).flat_map(|day| (0..40).map(move |at| window(day, at)));
            let traced = |window| Span::of_window(&identity("files"), window, ratio).trace_id();
            windows.map(traced).collect::<Vec<_>>()
        };
        let count = |ids: &[Option<String>]| ids.iter().flatten().count();
        let (all, half) = (traced(1.0), traced(0.5));
        assert_eq!((count(&all), count(&traced(0.0))), (all.len(), 0));
        assert!((all.len() * 4 / 10..all.len() * 6 / 10).contains(&count(&half)));
        assert_eq!(half, traced(0.5));
    }

    #[test]
    fn without_a_tracer_there_are_no_spans_and_no_headers() {
        let span = Span::none().child("task").with("job", "files").with_count("rows", 7);
        assert_eq!((span.headers(), span.trace_id()), (Vec::new(), None));
        let window = Span::of_window(&identity("files"), window(1, 0), 1.0);
        // Nothing is installed in this process, so no header says what the window's span would be.
        assert_eq!(window.headers(), Vec::new());
        let foreign = ("traceparent".to_owned(), format!("00-{:032x}-{:016x}-01", 7, 8));
        assert_eq!(Span::of_headers(&[foreign]).trace_id(), None);
    }
}
