//! `des pause` and `des resume`: no new work, until an operator or the clock says otherwise.

use backends::ledger::Scope;
use coordinator::explain::PauseFacts;
use coordinator::pause;
use protocol::Timestamp;
use serde::Serialize;

use crate::cli::{PauseArgs, ResumeArgs};
use crate::config::Config;
use crate::output::{Exit, Failure, Output, table};
use crate::wiring;

#[derive(Serialize)]
struct PauseResult {
    /// Whether the archive is paused now.
    paused: bool,
    since: Timestamp,
    by: String,
    reason: String,
    until: Option<Timestamp>,
    /// Whether it is of all jobs.
    all_jobs: bool,
}

impl PauseResult {
    fn new(paused: bool, pause: &backends::ledger::Pause) -> Self {
        let PauseFacts { since, by, reason, until, all_jobs } = pause.into();
        Self { paused, since, by, reason, until, all_jobs }
    }

    fn rows(&self) -> String {
        let until =
            self.until.map_or_else(|| "`des resume` is said".to_owned(), |time| time.to_string());
        table(&[
            ("since", self.since.to_string()),
            ("until", until),
            ("by", self.by.clone()),
            ("reason", self.reason.clone()),
            ("for", if self.all_jobs { "all jobs" } else { "this job" }.to_owned()),
        ])
    }
}

/// What is meant: this job, or all.
pub(super) fn scope(all_jobs: bool) -> Scope {
    if all_jobs { Scope::AllJobs } else { Scope::Job }
}

pub(super) async fn pause(args: PauseArgs, output: Output) -> Result<Exit, Failure> {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty: say why nothing is to be archived"));
    }
    let config = Config::load(&args.config.config)?;
    let ledger = wiring::ledger(&config, false).await?;
    let pause =
        pause::pause(&*ledger, (scope(args.all_jobs), args.until), (wiring::actor(), args.reason))
            .await?;
    output.result(&PauseResult::new(true, &pause), |it| {
        it.rows()
            + "Paused: whoever leads begins nothing new from within seconds on, also after a \
               restart. What workers hold is finished.\n"
    })?;
    Ok(Exit::Done)
}

pub(super) async fn resume(args: ResumeArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let ledger = wiring::ledger(&config, false).await?;
    let ended =
        pause::resume(&*ledger, scope(args.all_jobs), (wiring::actor(), args.reason)).await?;
    output.result(&PauseResult::new(false, &ended), |it| {
        it.rows()
            + "Resumed: the coordinator that leads goes on within seconds, or the next `des \
               migrate` does.\n"
    })?;
    Ok(Exit::Done)
}
