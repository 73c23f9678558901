//! `des migrate`: coordinator and local workers in one process.

use std::sync::Arc;
use std::time::Instant;

use coordinator::board::Board;
use coordinator::explain::PauseFacts;
use coordinator::{Event, Goal, RunReport};
use protocol::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::{MigrateArgs, Mode};
use crate::config::Config;
use crate::http::{self, PageSlot, Served};
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure, Output, bytes, grouped, table};
use crate::progress::FileBar;
use crate::telemetry::Traces;
use crate::wiring::{self, Fleet, Permissions};

/// Failed files that a run names.
const NAMED_FAILURES: u32 = 10;

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MigrateResult {
    pub(crate) windows: u64,
    pub(crate) files_archived: u64,
    pub(crate) files_failed: u64,
    pub(crate) shards: u64,
    pub(crate) bytes_raw: u64,
    pub(crate) bytes_stored: u64,
    pub(crate) archived_until: Option<Timestamp>,
    pub(crate) seconds: f64,
    /// Windows that wait for an operator, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) held: Vec<HeldWindow>,
    /// The pause that ended the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<PauseFacts>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct HeldWindow {
    pub(crate) end: Timestamp,
    pub(crate) reason: String,
}

impl MigrateResult {
    fn new(report: RunReport, seconds: f64) -> Self {
        let totals = report.totals;
        let held =
            |(window, reason): (protocol::Window, String)| HeldWindow { end: window.end(), reason };
        Self {
            windows: report.windows,
            files_archived: totals.files_archived,
            files_failed: totals.files_failed,
            shards: totals.shards,
            bytes_raw: totals.bytes_raw,
            bytes_stored: totals.bytes_stored,
            archived_until: report.archived_until,
            seconds: (seconds * 1000.0).round() / 1000.0,
            held: report.held.into_iter().map(held).collect(),
            paused: report.paused.as_ref().map(PauseFacts::from),
        }
    }

    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let until =
            self.archived_until.map_or_else(|| "nothing yet".to_owned(), |it| it.to_string());
        vec![
            ("windows", grouped(self.windows)),
            ("files archived", grouped(self.files_archived)),
            ("files failed", grouped(self.files_failed)),
            ("shards", grouped(self.shards)),
            ("raw bytes", bytes(self.bytes_raw)),
            ("stored bytes", bytes(self.bytes_stored)),
            ("archived until", until),
            ("seconds", format!("{:.1}", self.seconds)),
        ]
    }

    fn human(&self) -> String {
        let mut text = table(&self.rows());
        for HeldWindow { end, reason } in &self.held {
            text.push_str(&format!("held: the window that ends at {end}: {reason}\n"));
        }
        text + &self.told_of_pause()
    }

    /// Why it ended before it was done, where it did.
    pub(crate) fn told_of_pause(&self) -> String {
        self.paused.as_ref().map_or_else(String::new, |it| {
            format!(
                "paused since {} by {}: {}. Nothing new was begun; `des resume` lets work go on, \
                 then run this again.\n",
                it.since, it.by, it.reason
            )
        })
    }

    /// 1 where an operator has to act before there can be more.
    pub(crate) fn exit(&self) -> Exit {
        let good = self.held.is_empty() && self.paused.is_none();
        if good { Exit::Done } else { Exit::Failed }
    }
}

pub(crate) async fn run(args: MigrateArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let workers = workers(&config, args.workers)?;
    let permissions =
        Permissions { migrate: !args.no_migrate, accept_below: args.accept_below, reason: None };
    let _traces = Traces::start(&config, "migrate")?;
    let fleet = wiring::connect(&config, permissions).await?;
    let shutdown = shutdown_on_signals()?;
    let continuous = args.mode == Mode::Continuous;
    let board = Board::default();
    let options =
        |goal| RunOptions { goal, workers, bar: "archiving", continuous, board: board.clone() };
    if args.mode == Mode::Single {
        let result = run_embedded(&config, &fleet, options(Goal::UpToCutoff), &shutdown).await?;
        let failed = failed_files(&fleet, &result).await?;
        output.result(&result, |result| result.human() + &failed)?;
        // A run that was told to stop has done what it was told.
        return Ok(result.exit());
    }
    let page = PageSlot::default();
    page.fill(fleet.page_source(&config, &board));
    let _http = http::serve(&config.http, Served::of_both(&config.job, &board, &page)).await?;
    fleet.watch(&config, &board, &shutdown);
    fleet.sync_archived(&config, &board, &shutdown).await?;
    let pause = args.interval;
    while !shutdown.is_cancelled() {
        match run_embedded(&config, &fleet, options(Goal::UpToCutoff), &shutdown).await {
            Ok(result) => {
                info!(
                    windows = result.windows,
                    files = result.files_archived,
                    failed = result.files_failed,
                    seconds = result.seconds,
                    "cycle done"
                );
                output.result(&result, MigrateResult::human)?;
            }
            // A service goes on; what is wrong is said in every cycle.
            Err(Failure::Failed(error)) => warn!("cycle failed: {error:#}"),
            Err(usage) => return Err(usage),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(Exit::Done)
}

/// The first of the files that are recorded as failed, for a person, when the run met any.
async fn failed_files(fleet: &Fleet, result: &MigrateResult) -> Result<String, Failure> {
    if result.files_failed == 0 {
        return Ok(String::new());
    }
    let mut text = "recorded as failed in des_migration_errors, the first of them:\n".to_owned();
    for row in fleet.ledger.errors(NAMED_FAILURES).await? {
        let failed = row.failed;
        let location = failed.location.as_deref().unwrap_or("no location");
        let uid: String = failed.uid.chars().take(80).collect();
        text.push_str(&format!("  {} {uid} {location}: {}\n", failed.created_at, failed.reason));
    }
    Ok(text)
}

/// How many local workers there are to be: with a broker the fleet's workers do the work, unless
/// more are asked for.
pub(super) fn workers(config: &Config, asked: Option<u16>) -> Result<u16, Failure> {
    match (&config.broker, asked) {
        (None, Some(0)) => {
            Err(Failure::usage("without a broker somebody has to work: --workers 1 or more"))
        }
        (_, Some(workers)) => Ok(workers),
        (Some(_), None) => Ok(0),
        (None, None) => Ok(config.worker.slots.unwrap_or_else(wiring::cores)),
    }
}

/// What to run, and with how many workers.
pub(crate) struct RunOptions {
    pub(crate) goal: Goal,
    pub(crate) workers: u16,
    /// Label of the progress bar.
    pub(crate) bar: &'static str,
    /// Whether the run is one of many: windows that were committed lately are looked at again, and a
    /// pause is waited out.
    pub(crate) continuous: bool,
    /// Where the run shows how it goes.
    pub(crate) board: Board,
}

/// Runs a coordinator and local workers until the goal is reached.
pub(crate) async fn run_embedded(
    config: &Config,
    fleet: &Fleet,
    options: RunOptions,
    shutdown: &CancellationToken,
) -> Result<MigrateResult, Failure> {
    let began = Instant::now();
    let RunOptions { goal, workers, bar, continuous, board } = options;
    let pending = match goal {
        // Counting is a scan of its own, which only a bar that somebody sees is worth.
        Goal::UpToCutoff if FileBar::is_shown() => {
            let span = config.coordinator.window_span_micros;
            coordinator::operate::pending(&*fleet.ledger, &*fleet.catalog, span).await?
        }
        Goal::UpToCutoff | Goal::Forever | Goal::Replays(_) => 0,
    };
    let (events, shown) = mpsc::unbounded_channel();
    let coordinator = fleet.coordinator(config, continuous, (events, board));
    let stop_workers = CancellationToken::new();
    let _stopped_whatever_happens = stop_workers.clone().drop_guard();
    let mut working = match workers {
        0 => None,
        slots => {
            let (identity, store) = (fleet.archive.identity.clone(), fleet.store.clone());
            let worker = wiring::worker(config, identity, store, Arc::clone(&fleet.queue), slots)?;
            Some(tokio::spawn(worker.run(stop_workers.clone())))
        }
    };
    let showing = tokio::spawn(show(bar, pending, shown));
    let report = tokio::select! {
        report = coordinator.run(goal, shutdown.clone()) => report,
        // Workers end when they are told to; one that ends before has failed, and nobody works.
        ended = async { match &mut working { Some(worker) => worker.await, None => std::future::pending().await } } => {
            ended??;
            return Err(Failure::Failed(anyhow::anyhow!("the local worker ended by itself")));
        }
    };
    drop(coordinator);
    stop_workers.cancel();
    if let Some(working) = working {
        working.await??;
    }
    let _bar_only = showing.await;
    Ok(MigrateResult::new(report?, began.elapsed().as_secs_f64()))
}

async fn show(label: &'static str, files: u64, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut bar = FileBar::new(label, files);
    while let Some(event) = events.recv().await {
        bar.show(&event);
    }
    bar.finish();
}
