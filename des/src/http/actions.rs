//! What may be done from the page, by whoever knows `http.admin_token`: pause, resume, throttle,
//! replay.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use backends::Ledger;
use backends::ledger::{AuditEntry, LiveLimits, Override, Pause, Scope, WindowRecord};
use coordinator::explain::PauseFacts;
use coordinator::operate::{RequestError, request_replays};
use coordinator::pause::{self, PauseError};
use coordinator::throttle::{self, ThrottleError};
use protocol::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::page::PageSource;
use super::{Answers, json, problem};
use crate::cli::{number_or_none, size_or_none, span_or_none};

/// The largest body, in bytes, and how long it may take to arrive.
const BODY: usize = 4 * 1024;
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Characters of a reason.
const REASON: usize = 300;
/// How long a wrong token is thought about, so that guessing takes for ever.
const WRONG_TOKEN: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseRequest {
    reason: String,
    #[serde(default)]
    until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeRequest {
    reason: String,
}

/// Limits as the command takes them: a text each, or a number. Without any, the throttle is taken back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThrottleRequest {
    reason: String,
    #[serde(default)]
    max_files_per_second: Option<Said>,
    #[serde(default)]
    max_bytes_per_second: Option<Said>,
    #[serde(default)]
    not_between: Option<String>,
    #[serde(default)]
    max_replication_lag: Option<Said>,
    #[serde(default)]
    max_active_connections: Option<Said>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    reason: String,
    /// The window that ends then.
    window: Timestamp,
}

#[derive(Serialize)]
struct PauseDone {
    /// For a person.
    done: &'static str,
    #[serde(flatten)]
    pause: PauseFacts,
}

#[derive(Serialize)]
struct ThrottleDone {
    /// For a person.
    done: String,
}

#[derive(Serialize)]
struct ReplayDone {
    /// For a person.
    done: String,
    /// Ends of the windows that are to be replayed.
    windows: Vec<Timestamp>,
}

pub(super) async fn pause(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    answer(act(&answers, request, "pause", async |source, asked: PauseRequest| {
        let who = (source.actor.clone(), reason(asked.reason)?);
        let pause = pause::pause(&*source.ledger, (Scope::Job, asked.until), who).await?;
        Ok(PauseDone::new("Paused: nothing new is begun from within seconds on.", &pause))
    }))
    .await
}

pub(super) async fn resume(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    answer(act(&answers, request, "resume", async |source, asked: ResumeRequest| {
        let who = (source.actor.clone(), Some(reason(asked.reason)?));
        let ended = pause::resume(&*source.ledger, Scope::Job, who).await?;
        Ok(PauseDone::new("Resumed: work goes on within seconds.", &ended))
    }))
    .await
}

pub(super) async fn throttle(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    answer(act(&answers, request, "throttle", async |source, asked: ThrottleRequest| {
        let (actor, why) = (source.actor.clone(), reason(asked.reason)?);
        let limits = LiveLimits {
            files_per_second: said(
                "max_files_per_second",
                asked.max_files_per_second,
                number_or_none,
            )?,
            bytes_per_second: said(
                "max_bytes_per_second",
                asked.max_bytes_per_second,
                size_or_none,
            )?,
            not_between: asked.not_between.map_or(Override::Unsaid, |text| match text.trim() {
                "none" => Override::Off,
                hours => Override::To(hours.to_owned()),
            }),
            query: Override::Unsaid,
            max_replication_lag: said(
                "max_replication_lag",
                asked.max_replication_lag,
                span_or_none,
            )?,
            max_active_connections: said(
                "max_active_connections",
                asked.max_active_connections,
                number_or_none,
            )?,
        };
        if limits.ask_source() {
            throttle::understood(Scope::Job, &limits)?;
            throttle::try_asking(&limits, &*source.catalog).await?;
        }
        // No SQL from a browser: what stands is kept, whether it can be asked or not.
        let limits = LiveLimits { query: standing_query(&*source.ledger).await?, ..limits };
        let done = if limits.is_empty() {
            let ended = throttle::end(&*source.ledger, Scope::Job, (actor, Some(why))).await?;
            format!("Taken back: {}. The configuration counts again.", ended.limits)
        } else {
            let set = throttle::set(&*source.ledger, (Scope::Job, limits), (actor, why)).await?;
            format!("From within seconds on: {}.", set.limits)
        };
        Ok(ThrottleDone { done })
    }))
    .await
}

/// What the job's own throttle says of a query.
async fn standing_query(ledger: &dyn Ledger) -> Result<Override<String>, ThrottleError> {
    let standing = ledger.throttles().await?;
    let own = standing.into_iter().find(|it| it.scope == Scope::Job);
    Ok(own.map_or(Override::Unsaid, |it| it.limits.query))
}

/// A limit as the command reads it.
fn said<T>(
    key: &str,
    said: Option<Said>,
    read: impl FnOnce(&str) -> Result<Override<T>, String>,
) -> Result<Override<T>, Refused> {
    let text = match said {
        None => return Ok(Override::Unsaid),
        Some(Said::Number(limit)) => limit.to_string(),
        Some(Said::Text(text)) => text,
    };
    read(&text).map_err(|why| Refused(StatusCode::BAD_REQUEST, format!("{key}, {text:?}: {why}")))
}

pub(super) async fn replay(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    answer(act(&answers, request, "replay", async |source, asked: ReplayRequest| {
        let after = asked.window.saturating_add_micros(-1);
        let audit = AuditEntry {
            actor: source.actor.clone(),
            action: "replay".to_owned(),
            from: Some(after.to_string()),
            to: Some(asked.window.to_string()),
            reason: Some(reason(asked.reason)?),
        };
        let requested = request_replays(&*source.ledger, Some(after), asked.window, &audit).await?;
        let windows = requested.iter().map(WindowRecord::window_end).collect();
        let done = "Asked for: whoever leads begins with it within seconds.".to_owned();
        Ok(ReplayDone { done, windows })
    }))
    .await
}

impl PauseDone {
    fn new(done: &'static str, pause: &Pause) -> Self {
        Self { done, pause: pause.into() }
    }
}

/// Why something is not done: a status, and the reason for a person.
struct Refused(StatusCode, String);

impl From<PauseError> for Refused {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::Refused(why) => Self(StatusCode::CONFLICT, why),
            PauseError::Backend(error) => Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

impl From<ThrottleError> for Refused {
    fn from(error: ThrottleError) -> Self {
        match error {
            ThrottleError::Refused(why) => Self(StatusCode::CONFLICT, why),
            ThrottleError::Backend(error) => {
                Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(why) => Self(StatusCode::CONFLICT, why),
            RequestError::Backend(error) => {
                Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}

async fn answer<T: Serialize>(acting: impl Future<Output = Result<T, Refused>>) -> Response {
    match acting.await {
        Ok(done) => json(StatusCode::OK, &done),
        Err(Refused(status, why)) => {
            let mut response = problem(status, &why);
            if status == StatusCode::UNAUTHORIZED {
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

async fn act<A: DeserializeOwned, T>(
    answers: &Answers,
    request: Request,
    what: &'static str,
    deed: impl AsyncFnOnce(&PageSource, A) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let (head, body) = request.into_parts();
    allow(answers, &head.headers).await?;
    let asked = read(body).await?;
    let asked = serde_json::from_slice(&asked).map_err(|error| {
        Refused(StatusCode::BAD_REQUEST, format!("the body is not understood: {error}"))
    })?;
    let of_job = answers.served.asked_for(&head.uri);
    let of_job = of_job.map_err(|why| Refused(StatusCode::NOT_FOUND, why))?;
    let source = of_job.source().ok_or_else(|| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, "this coordinator is starting".to_owned())
    })?;
    let done = deed(source, asked).await?;
    info!(action = what, "done from the page");
    Ok(done)
}

/// Lets whoever knows the token pass, from the page itself or from no page at all. What a browser
/// would send for another site has neither the header nor this content type without having asked
/// first, and that is never allowed.
async fn allow(answers: &Answers, headers: &HeaderMap) -> Result<(), Refused> {
    let Some(token) = &answers.admin_token else {
        let why = "nothing can be done from here: http.admin_token is not configured";
        return Err(Refused(StatusCode::FORBIDDEN, why.to_owned()));
    };
    if !is_own_origin(headers) {
        let why = "this comes from the page of another origin";
        return Err(Refused(StatusCode::FORBIDDEN, why.to_owned()));
    }
    let kind = text(headers, &CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    if !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let why = "the content type must be application/json".to_owned();
        return Err(Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let given = text(headers, &AUTHORIZATION).and_then(|it| it.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match given {
        Some((_, given)) if token.matches(given.trim()) => Ok(()),
        Some(_) => {
            warn!("something was to be done from the page with a wrong token");
            // Few wait at a time, so that they do not keep everybody else from connecting.
            let Ok(_waits) = answers.wrong_tokens.try_acquire() else {
                let why = "too many give a wrong token just now; try again later".to_owned();
                return Err(Refused(StatusCode::TOO_MANY_REQUESTS, why));
            };
            tokio::time::sleep(WRONG_TOKEN).await;
            Err(Refused(StatusCode::UNAUTHORIZED, "this is not the admin token".to_owned()))
        }
        None => {
            let why = "the admin token is missing: Authorization: Bearer TOKEN".to_owned();
            Err(Refused(StatusCode::UNAUTHORIZED, why))
        }
    }
}

/// Whether a browser says that the request is its own page's, or there is no browser.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let same = |site: &str| matches!(site, "same-origin" | "none");
    let fetched = headers.get("sec-fetch-site").map(|site| site.to_str().is_ok_and(same));
    let own = headers.get(ORIGIN).map(|origin| {
        let place = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        place.is_some_and(|(_scheme, place)| text(headers, &HOST) == Some(place))
    });
    fetched != Some(false) && own != Some(false)
}

fn text<'a>(headers: &'a HeaderMap, name: &axum::http::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

async fn read(body: Body) -> Result<bytes::Bytes, Refused> {
    match tokio::time::timeout(BODY_LIMIT, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let why = format!("the body cannot be read, or is over {BODY} bytes: {error}");
            Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, why))
        }
        Err(_elapsed) => {
            let why = format!("the body did not arrive within {BODY_LIMIT:?}");
            Err(Refused(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}

fn reason(text: String) -> Result<String, Refused> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(Refused(StatusCode::BAD_REQUEST, "the reason is empty: say why".to_owned())),
        1..=REASON => Ok(text.to_owned()),
        _ => {
            Err(Refused(StatusCode::BAD_REQUEST, format!("the reason is over {REASON} characters")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_page_or_no_page_at_all() {
        let from = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            is_own_origin(&headers)
        };
        let host = ("host", "127.0.0.1:8080");
        assert!(from(&[host]), "curl");
        assert!(from(&[
            host,
            ("origin", "http://127.0.0.1:8080"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(from(&[("host", "des.example"), ("origin", "https://des.example")]), "behind TLS");
        assert!(!from(&[host, ("origin", "http://127.0.0.1:8081")]));
        assert!(!from(&[host, ("origin", "null")]));
        assert!(!from(&[("origin", "http://127.0.0.1:8080")]), "no host");
        assert!(!from(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(!from(&[host, ("sec-fetch-site", "same-site")]));
    }
}
