//! `GET /api/status` and `GET /api/events`: the status once, and again whenever it changes.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER};
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use coordinator::status::Status;
use futures::stream;
use protocol::Timestamp;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{Answers, ServedJob, json, problem};

/// How often whoever watches is told, at most.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often a stream gives a sign when nothing changes.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// What may be done with a token.
const ACTIONS: [&str; 4] = ["pause", "resume", "throttle", "replay"];

/// A status as it is told.
#[derive(Serialize)]
struct Told<'a> {
    /// When it was read, by this process's clock.
    at: Timestamp,
    /// What may be done with a token; empty where none is configured.
    actions: &'a [&'a str],
    #[serde(flatten)]
    status: &'a Status,
}

/// What the process does while there is nothing to show yet of a job.
fn starting(it: &ServedJob) -> String {
    format!("This coordinator is starting: {}", it.is_ready().unwrap_or_else(|why| why))
}

impl Answers {
    fn actions(&self) -> &'static [&'static str] {
        if self.admin_token.is_some() { &ACTIONS } else { &[] }
    }
}

pub(super) async fn once(State(answers): State<Arc<Answers>>, uri: Uri) -> Response {
    let asked = match answers.served.asked_for(&uri) {
        Ok(asked) => asked,
        Err(why) => return problem(StatusCode::NOT_FOUND, &why),
    };
    let Some(source) = asked.source() else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, &starting(asked));
    };
    let (at, status) = source.status.read().await;
    let told = Told { at, actions: answers.actions(), status: &status };
    json(StatusCode::OK, &told)
}

/// One who watches.
struct Watching {
    answers: Arc<Answers>,
    /// What was asked for, and was there.
    uri: Uri,
    told: Option<Arc<Status>>,
    starting: Option<String>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn events(State(answers): State<Arc<Answers>>, uri: Uri) -> Response {
    if let Err(why) = answers.served.asked_for(&uri) {
        return problem(StatusCode::NOT_FOUND, &why);
    }
    let Ok(place) = Arc::clone(&answers.watchers).try_acquire_owned() else {
        let why = "as many watch as may; try again, or ask /api/status";
        let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, why);
        response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static("5"));
        return response;
    };
    let watching = Watching { answers, uri, told: None, starting: None, _place: place };
    let alive =
        KeepAlive::new().interval(ALIVE_EVERY).event(Event::default().event("alive").data("-"));
    let events = Sse::new(stream::unfold(watching, Watching::next)).keep_alive(alive);
    ([(CACHE_CONTROL, "no-store")], events).into_response()
}

impl Watching {
    /// The next event; waits until something has changed.
    async fn next(mut self) -> Option<(Result<Event, serde_json::Error>, Self)> {
        loop {
            if self.told.is_some() || self.starting.is_some() {
                tokio::time::sleep(TELL_EVERY).await;
            }
            let asked = self.answers.served.asked_for(&self.uri).ok()?;
            let Some(source) = asked.source() else {
                let starting = Some(starting(asked));
                if self.starting != starting {
                    let event = Event::default().event("starting");
                    let event = event
                        .data(starting.as_deref().unwrap_or_default().replace(['\r', '\n'], " "));
                    self.starting = starting;
                    return Some((Ok(event), self));
                }
                continue;
            };
            let (at, status) = source.status.read().await;
            if self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &status)) {
                continue;
            }
            let told = Told { at, actions: self.answers.actions(), status: &status };
            let data = serde_json::to_string(&told);
            self.told = Some(status);
            return Some((data.map(|data| Event::default().event("status").data(data)), self));
        }
    }
}
