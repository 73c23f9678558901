//! The page: its three files, which are part of the binary, and the headers that keep it from loading
//! or running anything else.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::response::{Html, IntoResponse, Response};
use backends::{Catalog, Ledger};
use coordinator::status::StatusReader;
use protocol::Job;

use super::Answers;

const HTML: &str = include_str!("page/index.html");
const JOBS: &str = include_str!("page/jobs.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");

/// Nothing from elsewhere, nothing inline, no frame around it, no form that is sent by the browser,
/// and no markup made from text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

/// What the page shows and acts on.
pub(crate) struct PageSource {
    pub(crate) status: StatusReader,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) catalog: Arc<dyn Catalog>,
    /// Who acts from the page, for the audit log.
    pub(crate) actor: String,
}

/// Where a [`PageSource`] is put once everything is connected; until then the page says that the
/// process is starting.
#[derive(Clone, Default)]
pub(crate) struct PageSlot(Arc<OnceLock<PageSource>>);

impl PageSlot {
    /// Fills the slot, once.
    pub(crate) fn fill(&self, source: PageSource) {
        let _filled_before = self.0.set(source);
    }

    pub(super) fn source(&self) -> Option<&PageSource> {
        self.0.get()
    }
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    // Asked for anew with each visit: after an upgrade no old script meets a new status.
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text).into_response()
}

/// A job's page; a list of them where there are several and none is asked for.
pub(super) async fn html(State(answers): State<Arc<Answers>>, uri: Uri) -> Response {
    if uri.query().is_none() && answers.served.jobs.len() > 1 {
        let jobs = answers.served.jobs.iter().map(|it| &it.job);
        return Html(list_of(jobs)).into_response();
    }
    asset("text/html; charset=utf-8", HTML)
}

/// Links to the pages of jobs, whose names hold nothing but letters, digits, `-`, `_` and `.`.
fn list_of<'a>(jobs: impl Iterator<Item = &'a Job>) -> String {
    let link = |job| format!("      <li><a href=\"/?job={job}\">{job}</a></li>\n");
    let links: String = jobs.map(link).collect();
    JOBS.replace("<!-- jobs -->", links.trim())
}

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn icon() -> Response {
    asset("image/svg+xml", ICON)
}

/// Headers of every answer, also of those that are no page: a browser may be shown any of them.
pub(super) async fn secure(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 6] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
