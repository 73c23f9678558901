//! `des workers` and `des top`: what the coordinator that leads knows of its fleet at this moment, by
//! its `/api/status`. Neither asks database, broker or store.

mod frame;
mod screen;
mod view;
mod workers;

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;

use crate::cli::{FleetArgs, TopArgs};
use crate::config::Config;
use crate::output::{Exit, Failure, Output};

use view::View;

/// How long an answer may take. The coordinator itself waits up to 5 s for each that it asks.
const LIMIT: Duration = Duration::from_secs(30);
/// How long it may take where it is only one of several that are asked.
const SHORT_LIMIT: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

pub(super) async fn workers(args: FleetArgs, output: Output) -> Result<Exit, Failure> {
    let coordinator = Coordinator::of(&args)?;
    let view: View = coordinator.ask().await?;
    let result = workers::result(&coordinator.url, &view)?;
    output.result(&result, workers::human)?;
    Ok(Exit::Done)
}

pub(super) async fn top(args: TopArgs, output: Output) -> Result<Exit, Failure> {
    if !output.is_human() {
        return Err(Failure::usage(
            "`des top` is for people: a program asks `des workers --output json`, or the \
             coordinator's /api/status",
        ));
    }
    let coordinator = Coordinator::of(&args.fleet)?;
    // Whatever is wrong from the beginning is said as any error is, not in a screen of its own.
    let first: View = coordinator.ask().await?;
    if args.once {
        let lines = frame::frame(&first, None);
        output.raw((lines.join("\n") + "\n").as_bytes())?;
        return Ok(Exit::Done);
    }
    screen::run(&coordinator, first, output).await
}

/// What the coordinator at `http.listen` of the configuration says, if it says anything soon.
pub(super) async fn told_nearby<T: DeserializeOwned>(config: &Config) -> Option<T> {
    let (url, status) = nearby(config)?;
    Coordinator::at(url, status, SHORT_LIMIT).ok()?.ask().await.ok()
}

/// Where a process of this configuration serves, and its job's status.
fn nearby(config: &Config) -> Option<(String, String)> {
    let address = config.http.listen.filter(|address| address.port() != 0)?;
    let url = format!("http://{}", super::ready::near(address));
    // It may coordinate other jobs besides.
    let status = status_of(&format!("{url}/?job={}", config.job));
    Some((url, status))
}

/// The coordinator that is asked.
struct Coordinator {
    client: reqwest::Client,
    /// `http://127.0.0.1:8080`
    url: String,
    /// Where its status is.
    status: String,
}

/// Where the status is of the page at `url`.
fn status_of(url: &str) -> String {
    let (page, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    format!("{}/api/status{query}", page.trim_end_matches('/'))
}

impl Coordinator {
    fn of(args: &FleetArgs) -> Result<Self, Failure> {
        let (url, status) = match (&args.url, &args.config) {
            (Some(url), _) => (url.trim_end_matches('/').to_owned(), status_of(url)),
            (None, Some(path)) => {
                let config = Config::load(path)?;
                nearby(&config).ok_or_else(|| {
                    Failure::usage(format!(
                        "{}: `http.listen` names no address that a coordinator could be asked at: \
                         say where it is with --url",
                        path.display()
                    ))
                })?
            }
            (None, None) => return Err(Failure::usage("say --config or --url")),
        };
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(Failure::usage(format!("`{url}` is no URL: use http://host:port")));
        }
        Ok(Self::at(url, status, LIMIT)?)
    }

    fn at(url: String, status: String, limit: Duration) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(limit)
            // A coordinator is near; what the environment has for the world outside is not for it.
            .no_proxy()
            .user_agent(concat!("des/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("no HTTP here")?;
        Ok(Self { client, url, status })
    }

    async fn ask<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let url = &self.url;
        let answer = self.client.get(&self.status).send().await;
        let mut answer = answer.with_context(|| {
            format!(
                "no coordinator answers at {url}: is one running there? Start it, or name the one \
                 that leads with --url (its http.listen)"
            )
        })?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.with_context(|| format!("asking {url}"))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(anyhow!("{url} answers with more than a status"));
            }
        }
        if !status.is_success() {
            let told = serde_json::from_slice::<view::Told>(&body).map(|it| it.error);
            return Err(match (status, told) {
                (reqwest::StatusCode::NOT_FOUND, Ok(which)) => {
                    anyhow!("{url} answers: {which}. Name the job with --config or --url URL?job=")
                }
                (reqwest::StatusCode::NOT_FOUND, Err(_not_ours)) => anyhow!(
                    "{url} has no /api/status: it is no coordinator (a worker has none); name the \
                     coordinator that leads with --url"
                ),
                (_, told) => {
                    let told = told.unwrap_or_else(|_not_ours| status.to_string());
                    anyhow!("{url} answers: {told}. Try again when it has started")
                }
            });
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("what {url} answers is no status of a coordinator"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_that_of_the_page_and_its_job() {
        for (page, status) in [
            ("http://a:8080", "http://a:8080/api/status"),
            ("http://a:8080/", "http://a:8080/api/status"),
            ("https://a/des/?job=b", "https://a/des/api/status?job=b"),
            ("http://a:8080?job=b", "http://a:8080/api/status?job=b"),
        ] {
            assert_eq!(status_of(page), status);
        }
    }
}
