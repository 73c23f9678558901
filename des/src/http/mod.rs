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
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use coordinator::board::Board;
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::Job;
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

/// What a process has to tell.
pub(crate) struct Served {
    /// Of each of its jobs; of one at least.
    jobs: Vec<ServedJob>,
    /// Whether there are slots in which tasks are executed.
    works: bool,
}

/// What a process has to tell of one job.
pub(crate) struct ServedJob {
    job: Job,
    tells: Tells,
}

enum Tells {
    /// A coordinator's board and page.
    Coordinator(Board, PageSlot),
    /// What a worker does, or why it does not do its work.
    Worker(watch::Receiver<Result<String, String>>),
}

impl ServedJob {
    /// What a coordinator shows on its board and its page.
    pub(crate) fn of_coordinator(job: &Job, board: &Board, page: &PageSlot) -> Self {
        Self { job: job.clone(), tells: Tells::Coordinator(board.clone(), page.clone()) }
    }

    /// What a worker says of itself; at first that it does nothing yet, and why.
    pub(crate) fn of_worker(
        job: &Job,
        why_not_yet: &str,
    ) -> (watch::Sender<Result<String, String>>, Self) {
        let (sender, ready) = watch::channel(Err(why_not_yet.to_owned()));
        (sender, Self { job: job.clone(), tells: Tells::Worker(ready) })
    }

    fn is_ready(&self) -> Result<String, String> {
        match &self.tells {
            Tells::Coordinator(board, _) => board.ready(),
            Tells::Worker(ready) => ready.borrow().clone(),
        }
    }

    fn board(&self) -> Option<&Board> {
        match &self.tells {
            Tells::Coordinator(board, _) => Some(board),
            Tells::Worker(_) => None,
        }
    }

    fn source(&self) -> Option<&PageSource> {
        match &self.tells {
            Tells::Coordinator(_, page) => page.source(),
            Tells::Worker(_) => None,
        }
    }
}

impl Served {
    /// What coordinators tell, or workers.
    pub(crate) fn of(jobs: Vec<ServedJob>) -> Self {
        let works = !jobs.iter().any(|it| it.board().is_some());
        Self { jobs, works }
    }

    /// What a coordinator tells whose process executes tasks besides.
    pub(crate) fn of_both(job: &Job, board: &Board, page: &PageSlot) -> Self {
        Self { jobs: vec![ServedJob::of_coordinator(job, board, page)], works: true }
    }

    fn coordinates(&self) -> bool {
        self.jobs.iter().any(|it| it.board().is_some())
    }

    /// The job that a line, a metric or a link has to name; `None` where there is only one.
    fn named<'a>(&self, it: &'a ServedJob) -> Option<&'a Job> {
        (self.jobs.len() > 1).then_some(&it.job)
    }

    /// Ready when all jobs are; one line for each where there are several.
    fn is_ready(&self) -> Result<String, String> {
        let mut ready = true;
        let lines: Vec<String> = self
            .jobs
            .iter()
            .map(|it| {
                let told = it.is_ready().unwrap_or_else(|why| {
                    ready = false;
                    why
                });
                self.named(it).map_or(told.clone(), |job| format!("{job}: {told}"))
            })
            .collect();
        let lines = lines.join("\n");
        if ready { Ok(lines) } else { Err(lines) }
    }

    /// The job that is asked for with `?job=`, which may be left out where there is only one.
    fn asked_for(&self, uri: &Uri) -> Result<&ServedJob, String> {
        let mut pairs =
            uri.query().unwrap_or_default().split('&').filter_map(|it| it.split_once('='));
        let asked = pairs.find(|(key, _)| *key == "job").map(|(_, job)| job);
        let names = || self.jobs.iter().map(|it| it.job.as_str()).collect::<Vec<_>>().join(", ");
        match (asked, &*self.jobs) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("say which job with ?job=: {}", names())),
            (Some(asked), jobs) => jobs
                .iter()
                .find(|it| it.job.as_str() == asked)
                .ok_or_else(|| format!("there is no such job here; there are: {}", names())),
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
        true => Some(metrics::install(&served, &stop)?),
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
    if answers.served.coordinates() {
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
            let text = metrics::render(counted, &answers.served);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn served(names: &[&str]) -> Served {
        let job = |name: &&str| name.parse::<Job>().expect("a name");
        let of =
            |name| ServedJob::of_coordinator(&job(name), &Board::default(), &PageSlot::default());
        Served::of(names.iter().map(of).collect())
    }

    fn asked(names: &[&str], uri: &str) -> Result<String, String> {
        let uri = uri.parse().expect("a URI");
        served(names).asked_for(&uri).map(|it| it.job.to_string())
    }

    #[test]
    fn a_job_is_asked_for_by_name_and_the_only_one_without() {
        assert_eq!(asked(&["a"], "/api/status"), Ok("a".to_owned()));
        assert_eq!(asked(&["a", "b"], "/api/status?x=1&job=b"), Ok("b".to_owned()));
        let which = asked(&["a", "b"], "/api/status").expect_err("it may be either");
        assert!(which.contains("?job=: a, b"), "{which}");
        for names in [&["a"][..], &["a", "b"]] {
            let none = asked(names, "/?job=c").expect_err("it is not there");
            assert!(none.contains(&names.join(", ")), "{none}");
        }
    }

    #[test]
    fn a_process_is_ready_when_all_its_jobs_are() {
        let (says_a, a) = ServedJob::of_worker(&"a".parse().expect("a name"), "waiting");
        let (says_b, b) = ServedJob::of_worker(&"b".parse().expect("a name"), "waiting");
        let both = Served::of(vec![a, b]);
        let _told_before = says_a.send_replace(Ok("taking tasks".to_owned()));
        assert_eq!(both.is_ready(), Err("a: taking tasks\nb: waiting".to_owned()));
        let _told_before = says_b.send_replace(Ok("taking tasks".to_owned()));
        assert_eq!(both.is_ready(), Ok("a: taking tasks\nb: taking tasks".to_owned()));
        let (_says, only) = ServedJob::of_worker(&"a".parse().expect("a name"), "waiting");
        assert_eq!(Served::of(vec![only]).is_ready(), Err("waiting".to_owned()));
    }
}
