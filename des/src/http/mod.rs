//! What services serve over HTTP: `/metrics`, `/healthz`, `/readyz`, and a coordinator its page, with
//! the status behind it. Nothing here changes anything but `actions`, with a token.

mod actions;
mod connections;
mod hosts;
mod metrics;
mod page;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use coordinator::board::Board;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

pub(crate) use self::page::{PageSlot, PageSource};
use crate::config::{AdminToken, HttpConfig};
use crate::output::Failure;

/// Connections at a time that may watch the page's events.
const WATCHERS: usize = 16;
/// Those that may be made to wait since they gave a wrong token.
const WRONG_TOKENS: usize = 4;

/// What a role has to tell.
pub(crate) struct Served {
    /// A coordinator's board; a worker has none.
    board: Option<Board>,
    /// Whether there are slots in which tasks are executed.
    works: bool,
    /// Where there is no board: what the role does, or why it does not do its work.
    ready: watch::Receiver<Result<String, String>>,
    /// What a coordinator's page shows; a worker has no page.
    page: Option<PageSlot>,
}

impl Served {
    /// What a coordinator shows on its board and its page.
    pub(crate) fn of_coordinator(board: &Board, page: &PageSlot) -> Self {
        let (_, ready) = watch::channel(Ok(String::new()));
        Self { board: Some(board.clone()), works: false, ready, page: Some(page.clone()) }
    }

    /// The same of a coordinator whose process executes tasks besides.
    pub(crate) fn of_both(board: &Board, page: &PageSlot) -> Self {
        Self { works: true, ..Self::of_coordinator(board, page) }
    }

    /// What a worker says of itself; at first that it does nothing yet, and why.
    pub(crate) fn of_worker(why_not_yet: &str) -> (watch::Sender<Result<String, String>>, Self) {
        let (sender, ready) = watch::channel(Err(why_not_yet.to_owned()));
        (sender, Self { board: None, works: true, ready, page: None })
    }

    fn is_ready(&self) -> Result<String, String> {
        match &self.board {
            Some(board) => board.ready(),
            None => self.ready.borrow().clone(),
        }
    }
}

/// Everything that requests are answered from.
struct Answers {
    served: Served,
    /// `None` where metrics are turned off.
    counted: Option<PrometheusHandle>,
    /// What whoever acts has to know; `None`: nobody may.
    admin_token: Option<AdminToken>,
    /// Names under which the page is asked for, besides addresses and localhost.
    allowed_hosts: Vec<String>,
    /// Places for those who gave a wrong token.
    wrong_tokens: Semaphore,
    /// Places for those who watch.
    watchers: Arc<Semaphore>,
}

impl Answers {
    fn source(&self) -> Option<&PageSource> {
        self.served.page.as_ref()?.source()
    }
}

/// Serves until what is returned is dropped; `None` where nothing is to be served.
///
/// # Errors
/// When the address that the configuration names is taken or not this machine's.
pub(crate) async fn serve(
    config: &HttpConfig,
    served: Served,
) -> Result<Option<DropGuard>, Failure> {
    let Some(address) = config.listen else { return Ok(None) };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if config.chosen => return Err(Failure::usage(refusal(address, &error))),
        Err(error) => {
            warn!("nothing is served over HTTP: {}", refusal(address, &error));
            return Ok(None);
        }
    };
    let stop = CancellationToken::new();
    let counted = match config.metrics {
        true => Some(metrics::install((served.board.is_some(), served.works), &stop)?),
        false => None,
    };
    // Port 0 is any free one.
    let address = listener.local_addr()?;
    info!(%address, "serving HTTP");
    let answers = Arc::new(Answers {
        served,
        counted,
        admin_token: config.admin_token.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        wrong_tokens: Semaphore::new(WRONG_TOKENS),
        watchers: Arc::new(Semaphore::new(WATCHERS)),
    });
    let routers = (router(Arc::clone(&answers)), reserved(answers));
    tokio::spawn(connections::accept(listener, routers, stop.clone()));
    Ok(Some(stop.drop_guard()))
}

fn refusal(address: SocketAddr, error: &std::io::Error) -> String {
    format!(
        "cannot listen on {address}: {error}. Each process needs an address of its own: set \
         http.listen, or turn it off with `http: {{listen: off}}`"
    )
}

/// What monitoring asks for.
fn probes() -> Router<Arc<Answers>> {
    Router::new()
        .route("/metrics", get(tell_metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(tell_ready))
}

fn router(answers: Arc<Answers>) -> Router {
    let mut router = probes();
    if answers.served.page.is_some() {
        let page = Router::new()
            .route("/", get(page::html))
            .route("/page.css", get(page::style))
            .route("/page.js", get(page::script))
            .route("/icon.svg", get(page::icon))
            .route("/api/status", get(status::once))
            .route("/api/events", get(status::events))
            .route("/api/pause", post(actions::pause))
            .route("/api/resume", post(actions::resume))
            .route("/api/throttle", post(actions::throttle))
            .route("/api/replay", post(actions::replay))
            .route_layer(from_fn_with_state(Arc::clone(&answers), hosts::only_known));
        router = router.merge(page);
    }
    router.layer(map_response(page::secure)).with_state(answers)
}

/// What is answered while everybody else has all connections.
fn reserved(answers: Arc<Answers>) -> Router {
    let crowded = async || {
        let why = "as many are connected as may; try again";
        problem(StatusCode::SERVICE_UNAVAILABLE, why)
    };
    probes().fallback(crowded).layer(map_response(page::secure)).with_state(answers)
}

/// An answer in JSON, which nobody is to keep.
fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    const HEADERS: [(header::HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    match serde_json::to_vec(value) {
        Ok(body) => (status, HEADERS, body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// An answer that says in JSON what is wrong.
fn problem(status: StatusCode, why: &str) -> Response {
    json(status, &serde_json::json!({ "error": why }))
}

async fn tell_metrics(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
    match &answers.counted {
        Some(counted) => {
            let text = metrics::render(counted, answers.served.board.as_ref());
            (StatusCode::OK, [(header::CONTENT_TYPE, TEXT_FORMAT)], text)
        }
        None => {
            let why = "metrics are turned off: metrics.enabled\n".to_owned();
            (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain")], why)
        }
    }
}

async fn tell_ready(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    match answers.served.is_ready() {
        Ok(told) => (StatusCode::OK, told + "\n"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}
