//! Marks in the catalog itself which files are archived, for those who keep a status per file: a
//! column is brought up to the watermark, pass by pass. The certificates say which files those are;
//! a row that was inserted late is in none of their manifests, however old it is, and is not marked.
//!
//! It decides nothing that anything else relies on, and works without the lease: what is marked
//! twice is marked once.

mod hold;
mod pace;
mod passes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::catalog::ArchivedColumn;
use backends::ledger::{AuditEntry, SyncPosition};
use backends::{BackendError, Catalog, Ledger, Store};
use futures::future::BoxFuture;
use protocol::{Row, Timestamp, WindowKey};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::board::Board;
use crate::operate::initialised;
use crate::throttle::ThrottleSettings;

use hold::{Asked, Hold, hold};
use pace::Pace;
use passes::PassToSync;

/// Passes that are asked for at a time.
const PAGE: u32 = 100;
/// How often a schedule looks whether this process leads by now, and a batch that is not due yet
/// whether what holds it back has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After which a schedule tries again what was kept from going on.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How the column is brought up to the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// Rows of one statement or transaction.
    pub batch_rows: usize,
    /// Rows that are looked at in a second, at most; fewer where a throttle says so.
    pub rows_per_second: u64,
}

/// What one run is to do.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Count, change nothing.
    pub dry_run: bool,
    /// Go through everything, also what was brought up before.
    pub again: bool,
    /// Who, for the audit log.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// Column and value.
    pub target: String,
    /// The watermark that it is brought up to.
    pub archived_until: Timestamp,
    /// Passes that were gone through to their end.
    pub passes: u64,
    /// Archived files that were looked for in the catalog.
    pub rows: u64,
    /// Rows that were set; in a dry run, that would be.
    pub marked: u64,
    /// Files that are not in the archive, and were left alone.
    pub failed: u64,
    /// Why it ended before it was done.
    pub ended: Option<String>,
    /// Whether it only counted.
    pub dry_run: bool,
}

/// Brings the column up to the watermark.
pub struct ArchivedSync {
    /// The ledger.
    pub ledger: Arc<dyn Ledger>,
    /// The store that holds certificates and manifests.
    pub store: Store,
    /// The column.
    pub column: Arc<dyn ArchivedColumn>,
    /// How.
    pub settings: SyncSettings,
    /// What the configuration says of throttling; operators may say otherwise, live.
    pub throttle: ThrottleSettings,
    /// Whose database is asked, where the throttle says so, whether it is to be left alone.
    pub catalog: Arc<dyn Catalog>,
    /// Ends it between two batches.
    pub stop: CancellationToken,
    /// Of the process that it belongs to: it goes on only while that leads or rests. `None`: alone.
    pub board: Option<Board>,
}

impl ArchivedSync {
    /// Marks what is not marked yet of every committed pass up to the watermark.
    ///
    /// # Errors
    /// When ledger, store or catalog do not answer, or a certificate or manifest is gone or damaged.
    /// What was marked stays, and the next run goes on from there.
    pub fn run<'a>(
        &'a self,
        request: &'a SyncRequest,
    ) -> BoxFuture<'a, Result<SyncReport, BackendError>> {
        Box::pin(async move { self.run_once(request, &mut Asked::default()).await })
    }

    async fn run_once(
        &self,
        request: &SyncRequest,
        asked: &mut Asked,
    ) -> Result<SyncReport, BackendError> {
        let (watermark, archive) = initialised(&*self.ledger).await?;
        let mut run = Run {
            sync: self,
            request,
            asked,
            pace: Pace::new(self.settings.rows_per_second),
            begun: false,
            report: SyncReport {
                target: self.column.target().to_owned(),
                // Where somebody moved the watermark by hand, nothing beyond it is settled.
                archived_until: watermark.archived_until.min(archive.settled_until),
                passes: 0,
                rows: 0,
                marked: 0,
                failed: 0,
                ended: None,
                dry_run: request.dry_run,
            },
        };
        if request.again && !request.dry_run {
            run.begin().await?;
            self.ledger.forget_synced(self.column.target()).await?;
        }
        let done = run.every_pass().await;
        // What was changed is written down, whatever ended it.
        let told = run.end(done.as_ref().err()).await;
        done.and(told).map(|()| run.report)
    }

    /// Whether a batch may be begun now. This is the one place that is asked, before every batch:
    /// whatever else is to hold it back belongs here.
    async fn hold(&self, asked: &mut Asked) -> Result<Hold, BackendError> {
        if self.stop.is_cancelled() {
            return Ok(Hold::Back("it was told to stop".to_owned()));
        }
        if self.board.as_ref().is_some_and(|board| !board.may_show()) {
            return Ok(Hold::Back("this process does not lead any more".to_owned()));
        }
        hold(&*self.ledger, (&self.throttle, &*self.catalog), asked).await
    }

    /// Runs every so often while the board's process leads or rests, until it is told to stop.
    pub fn run_every(self, every: Duration, request: SyncRequest) -> BoxFuture<'static, ()> {
        Box::pin(self.go_on(every, request))
    }

    async fn go_on(self, every: Duration, request: SyncRequest) {
        let (mut next, mut asked) = (Instant::now(), Asked::default());
        while !self.stop.is_cancelled() {
            let leads = self.board.as_ref().is_none_or(Board::may_show);
            if leads && next <= Instant::now() {
                let wait = match self.run_once(&request, &mut asked).await {
                    Ok(SyncReport { ended: None, passes, marked, target, .. }) => {
                        if passes > 0 {
                            info!(passes, marked, "brought {target} up to the watermark");
                        }
                        every
                    }
                    Ok(SyncReport { ended: Some(why), .. }) => {
                        info!("marking archived files waits: {why}");
                        every.min(AGAIN_AFTER)
                    }
                    Err(error) => {
                        warn!("marking archived files failed, and is tried again: {error}");
                        every.min(AGAIN_AFTER)
                    }
                };
                next = Instant::now() + wait;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// One run.
struct Run<'a> {
    sync: &'a ArchivedSync,
    request: &'a SyncRequest,
    asked: &'a mut Asked,
    pace: Pace,
    /// Whether the audit log says that it has begun.
    begun: bool,
    report: SyncReport,
}

impl<'a> Run<'a> {
    /// Under which name the ledger has how far everything is. What would be, if all were gone through
    /// again, is as if nobody had ever marked anything.
    fn recorded(&self) -> &'a str {
        if self.request.dry_run && self.request.again { "" } else { self.sync.column.target() }
    }

    async fn every_pass(&mut self) -> Result<(), BackendError> {
        let (sync, target) = (self.sync, self.recorded());
        let until = self.report.archived_until;
        let mut after = None;
        loop {
            let page = sync.ledger.passes_to_sync(target, after, until, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key());
            for record in page {
                let pass = PassToSync::read(&*sync.ledger, &sync.store, &record).await?;
                if !self.pass(record.key(), pass).await? {
                    return Ok(());
                }
                self.report.passes += 1;
            }
        }
    }

    /// Goes through one pass; false where it was held back on the way.
    async fn pass(&mut self, key: WindowKey, pass: PassToSync) -> Result<bool, BackendError> {
        let (sync, target) = (self.sync, self.recorded());
        let mut position: SyncPosition = sync.ledger.sync_position(target, key).await?;
        let skip = usize::try_from(position.partitions).unwrap_or(usize::MAX);
        for partition in pass.partitions.iter().skip(skip) {
            let read = pass.rows(&sync.store, partition).await?;
            self.report.failed += read.failed;
            for batch in read.archived.chunks(sync.settings.batch_rows.max(1)) {
                let Some(marked) = self.batch(batch).await? else { return Ok(false) };
                position.marked += marked;
            }
            position.partitions += 1;
            if !self.request.dry_run {
                self.begin().await?;
                sync.ledger.note_synced(target, key, position).await?;
            }
        }
        if !self.request.dry_run {
            position.finished = true;
            sync.ledger.note_synced(target, key, position).await?;
        }
        Ok(true)
    }

    /// Marks some rows; `None` where it is held back.
    async fn batch(&mut self, rows: &[Row]) -> Result<Option<u64>, BackendError> {
        let sync = self.sync;
        if let Some(why) = self.wait_until_due().await? {
            self.report.ended = Some(why);
            return Ok(None);
        }
        let marked = match self.request.dry_run {
            true => sync.column.count_unmarked(rows).await?,
            false => {
                self.begin().await?;
                sync.column.mark(rows).await?
            }
        };
        self.pace.took(rows.len() as u64, Instant::now());
        self.report.rows += rows.len() as u64;
        self.report.marked += marked;
        Ok(Some(marked))
    }

    /// Waits until a batch may begin; why none may, where it is held back.
    async fn wait_until_due(&mut self) -> Result<Option<String>, BackendError> {
        let sync = self.sync;
        loop {
            match sync.hold(self.asked).await? {
                Hold::Back(why) => return Ok(Some(why)),
                Hold::Rate(most) => {
                    let own = sync.settings.rows_per_second;
                    self.pace.limit(most.map_or(own, |most| most.min(own)));
                }
            }
            let (due, now) = (self.pace.due(), Instant::now());
            if due <= now {
                return Ok(None);
            }
            tokio::select! {
                () = sync.stop.cancelled() => {}
                () = tokio::time::sleep_until(due.min(now + LOOK_EVERY).into()) => {}
            }
        }
    }

    /// Writes down who marks what, before anything is changed; once.
    async fn begin(&mut self) -> Result<(), BackendError> {
        if !self.begun {
            let entry = self.entry(None, self.goal(), self.request.reason.clone());
            self.sync.ledger.record_audit(&entry).await?;
            self.begun = true;
        }
        Ok(())
    }

    /// Writes down what came of it, where anything was begun.
    async fn end(&self, error: Option<&BackendError>) -> Result<(), BackendError> {
        if !self.begun {
            return Ok(());
        }
        let SyncReport { marked, passes, ended, .. } = &self.report;
        let why = error.map(ToString::to_string).or_else(|| ended.clone());
        let done = format!("{marked} rows marked, {passes} passes done");
        let entry = self.entry(Some(self.goal()), done, why);
        self.sync.ledger.record_audit(&entry).await
    }

    fn goal(&self) -> String {
        format!("{} up to {}", self.report.target, self.report.archived_until)
    }

    fn entry(&self, from: Option<String>, to: String, reason: Option<String>) -> AuditEntry {
        let (actor, action) = (self.request.actor.clone(), "sync-archived".to_owned());
        AuditEntry { actor, action, from, to: Some(to), reason }
    }
}
