//! Planning: the next window, or a replay, into manifests and the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::ledger::{
    NewPartition, NewWindow, Purpose, Stuck, WindowCommit, WindowRecord, WindowState, WindowTotals,
};
use backends::{BackendError, crash};
use protocol::{Revision, Tally, Timestamp, Window, WindowKey};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tracing::{debug, info, warn};

use super::Leader;
use super::again::plan_again;
use super::ahead::Seen;
use super::waits::What;
use crate::cutting::{Next, next_window};
use crate::findings::Findings;
use crate::flight::OpenWindow;
use crate::held::HeldWindow;
use crate::metrics;
use crate::restore::{ANSWERS_IN_FLIGHT, Restorer};
use crate::service::{Event, Goal};
use crate::split::Split;

/// How long to wait before looking again, when nothing is due.
const PLAN_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How long to wait before a window that could not be planned is tried again.
const STUCK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A plan in the making.
pub(super) type Planning = JoinHandle<Result<Plan, BackendError>>;

/// What a finished plan came to.
pub(super) struct Plan {
    pub(super) window: Window,
    pub(super) revision: Revision,
    pub(super) purpose: Purpose,
    pub(super) replaces: Vec<String>,
    pub(super) partitions: Vec<NewPartition>,
    /// The most rows that they were cut with.
    pub(super) partition_rows: u64,
    /// What the scan saw of a window that was settled before.
    pub(super) scanned: Tally,
    pub(super) findings: Findings,
}

/// A certified window that the watermark cannot pass again, since it cannot be planned.
pub(super) struct StuckAt {
    pub(super) window: Window,
    pub(super) reason: String,
    /// When it is tried again: whoever restores an object from a backup tells nobody.
    again: Instant,
}

impl Leader<'_> {
    /// Begins to plan the next window, where there is room and one is due. True while windows
    /// remain to be planned.
    pub(super) async fn plan_next(&mut self, goal: &Goal) -> Result<bool, BackendError> {
        if self.planning.is_some() || self.looking_ahead.is_some() {
            return Ok(true);
        }
        let now = Instant::now();
        let nothing_new = !self.may_begin();
        let may_begin = |key| !self.waits.is_waiting(What::Pass(key), now);
        let lost = self.flight.to_be_planned_anew().find(|it| may_begin(it.key()));
        if let Some((window, revision, purpose)) =
            lost.map(|it| (it.window, it.revision, it.purpose))
        {
            if nothing_new {
                return Ok(true);
            }
            self.begin_plan(window, revision, purpose);
            return Ok(true);
        }
        // A window above the watermark, which was moved back over it, is met when it is its turn.
        let watermark = self.watermark;
        let wanted = |key: WindowKey| {
            key.end <= watermark
                && may_begin(key)
                && !self.left.contains(&key)
                && match goal {
                    Goal::Replays(keys) => keys.contains(&key),
                    Goal::Forever | Goal::UpToCutoff => true,
                }
        };
        if let Some(at) = self.requested.iter().position(|record| wanted(record.key())) {
            if nothing_new {
                return Ok(true);
            }
            let requested = self.requested.swap_remove(at);
            self.begin_plan(requested.window, requested.revision, requested.purpose);
            return Ok(true);
        }
        let some_wait = self.waits.has(|it| matches!(it, What::Pass(_)));
        if matches!(goal, Goal::Replays(_)) {
            return Ok(some_wait);
        }
        Ok(self.plan_ahead(goal, now).await? || some_wait)
    }

    /// Begins to plan the next window, or to look where it lies. True while windows remain.
    async fn plan_ahead(&mut self, goal: &Goal, now: Instant) -> Result<bool, BackendError> {
        // Replays below the watermark neither take room nor stand in the way.
        let ahead = |end: Timestamp| end > self.watermark;
        let in_flight = self.flight.windows.keys().filter(|key| ahead(key.end)).count();
        let room = in_flight < self.it.settings.windows_in_flight;
        if self.blocked().iter().any(|(window, _)| ahead(window.end())) {
            return Ok(false);
        }
        let waits = [What::Ahead, What::Next].iter().any(|it| self.waits.is_waiting(*it, now));
        if !room || now < self.plan_not_before || waits {
            return Ok(true);
        }
        let frontier = self.flight.frontier(self.watermark);
        if self.until.is_some_and(|until| frontier >= until) {
            return Ok(false);
        }
        // Not even the catalog's clock is asked.
        if !self.may_begin() {
            return Ok(true);
        }
        let Some(seen) = self.seen.take().filter(|seen| seen.frontier == frontier) else {
            self.look_ahead(frontier);
            return Ok(true);
        };
        let Seen { cutoff, ahead, .. } = seen;
        if frontier >= cutoff {
            if *goal == Goal::Forever {
                self.plan_not_before = now + PLAN_AGAIN_AFTER;
            }
            return Ok(false);
        }
        match next_window(frontier, cutoff, self.it.settings.window_span_micros, ahead) {
            Next::Nothing => Ok(false),
            Next::Fresh(window) => {
                self.begin_plan(window, 0, Purpose::Scan);
                Ok(true)
            }
            // Whether there is anything to do for it is known only once it is planned, and if not
            // it moves the watermark at once: it has to be its turn.
            Next::Again(_) if frontier != self.watermark => Ok(true),
            Next::Again(window) if self.is_stuck_at(window) => Ok(false),
            Next::Again(window) => {
                let revision = self.next_revision(window).await?;
                self.begin_plan(window, revision, Purpose::Replay);
                Ok(true)
            }
        }
    }

    async fn next_revision(&self, window: Window) -> Result<Revision, BackendError> {
        let of_end = self.revisions_of(window).await?;
        Ok(of_end.iter().map(|record| record.revision + 1).max().unwrap_or(0))
    }

    async fn revisions_of(&self, window: Window) -> Result<Vec<WindowRecord>, BackendError> {
        let just_before = window.end().saturating_add_micros(-1);
        let ledger = &self.it.ledger;
        ledger.committed_windows(Some(just_before), Some(window.end()), u32::MAX).await
    }

    fn begin_plan(&mut self, window: Window, revision: Revision, purpose: Purpose) {
        self.planning_began = Instant::now();
        let key = WindowKey::new(window, revision);
        let plan = self.it.trace(key).child("plan").with("job", &self.it.identity.job);
        plan.note("window", window.end());
        plan.note_count("revision", revision.into());
        let mut splitter = self.it.splitter();
        splitter.trace = plan.clone();
        let partition_rows = self.size_for(key);
        splitter.limits.rows = partition_rows;
        let (answer, answers) = mpsc::channel(ANSWERS_IN_FLIGHT);
        let restorer = Restorer {
            store: self.it.store.clone(),
            queue: Arc::clone(&self.it.queue),
            identity: self.it.identity.clone(),
            silence: self.it.settings.silence,
            attempts: self.it.settings.attempts.attempts,
            window: window.end(),
            trace: plan.clone(),
            answers,
        };
        let ledger = Arc::clone(&self.it.ledger);
        let planning = tokio::spawn(async move {
            let _ends_with_the_plan = plan;
            if purpose == Purpose::Scan {
                let Split { partitions, .. } = splitter.split(window, revision, None).await?;
                let scanned = partitions.iter().map(|partition| partition.rows).sum();
                let (replaces, findings) = (Vec::new(), Findings::default());
                return Ok(Plan {
                    window,
                    revision,
                    purpose,
                    replaces,
                    partitions,
                    partition_rows,
                    scanned,
                    findings,
                });
            }
            let just_before = window.end().saturating_add_micros(-1);
            let revisions =
                ledger.committed_windows(Some(just_before), Some(window.end()), u32::MAX).await?;
            plan_again(restorer, splitter, &revisions, (window, revision, purpose)).await
        });
        debug!(window = %window.end(), revision, purpose = purpose.as_str(), partition_rows, "planning");
        self.restoring = Some(answer);
        self.planning = Some((window, revision, planning));
    }

    pub(super) async fn take_plan(
        &mut self,
        planned: Result<Result<Plan, BackendError>, JoinError>,
    ) -> Result<(), BackendError> {
        let planned =
            self.planning.take().map(|(window, revision, _)| (window, revision)).zip(Some(planned));
        let Some(((window, revision), planned)) = planned else { return Ok(()) };
        let key = WindowKey::new(window, revision);
        self.restoring = None;
        let planned = planned.unwrap_or_else(|panicked| {
            let what = "planning a window".to_owned();
            Err(BackendError::Failed { what, cause: panicked.into() })
        });
        let is_next = key.end > self.watermark && !self.flight.windows.contains_key(&key);
        let what = if is_next { What::Next } else { What::Pass(key) };
        let plan = match planned {
            Ok(plan) => plan,
            // Only what is gone or damaged will not be otherwise.
            Err(error) if revision > 0 && error.is_lost_or_damaged() => {
                self.waits.over(what);
                self.drop_request(key, error.to_string()).await?;
                if key.end > self.watermark {
                    self.stick(key, window, &error).await?;
                }
                return Ok(());
            }
            // The pass stays asked for; this run has other things to do than to wait for it.
            Err(error)
                if !(self.may_pass(&error)
                    || is_next
                    || self.flight.windows.contains_key(&key)) =>
            {
                self.note_waiting(window.end(), &error).await;
                let reason = format!("its pass waits for another run: {error}");
                warn!(window = %key.end, "{reason}");
                self.tell(Event::Held { window, reason: reason.clone() });
                self.left.insert(key);
                self.unplannable.push((window, reason));
                return Ok(());
            }
            Err(error) => return self.wait_out(what, window.end(), error).await,
        };
        self.waits.over(what);
        self.pull_free(key, window).await?;
        let rows: Tally = plan.partitions.iter().map(|partition| partition.rows).sum();
        self.last_was_empty = rows.rows == 0;
        if plan.revision > 0 && rows.rows == 0 && plan.replaces.is_empty() {
            return self.finish_without_work(plan).await;
        }
        let partition_rows = Some(plan.partition_rows);
        let Plan { window, revision, purpose, replaces, partitions, scanned, findings, .. } = plan;
        let key = WindowKey::new(window, revision);
        let findings = if revision > 0 { findings.encode() } else { None };
        let new = NewWindow {
            window,
            revision,
            purpose,
            scanned,
            findings,
            replaces,
            partitions,
            partition_rows,
            planned_in: self.planning_began.elapsed(),
        };
        crash::point("after_manifest");
        let record = self.it.trace(key).child("ledger");
        record.note_count("partitions", new.partitions.len() as u64);
        match self.flight.windows.contains_key(&key) {
            true => self.it.ledger.plan_again(&self.lease, &new).await?,
            false => self.it.ledger.add_window(&self.lease, &new).await?,
        }
        drop(record);
        crash::point("after_ledger");
        info!(window = %window.end(), revision, trace_id = self.trace_id(key), from = %window.start(),
            rows = rows.rows, partitions = new.partitions.len(), "planned");
        metrics::planned(rows.rows);
        self.tell(Event::Planned { window, rows: rows.rows, partitions: new.partitions.len() });
        let records = self.it.ledger.partitions(key).await?;
        let record = WindowRecord {
            window,
            revision,
            purpose,
            state: WindowState::Open,
            rows,
            replaces: new.replaces,
            totals: WindowTotals::default(),
            certificate: None,
            findings: new.findings,
            released: None,
            splits_before: 0,
            state_since: None,
            partition_rows,
        };
        let settings = self.it.settings.pack;
        let began = Some(self.planning_began);
        let window = OpenWindow { began, ..OpenWindow::new(record, settings, records) };
        self.flight.windows.insert(key, window);
        Ok(())
    }

    fn is_stuck_at(&self, window: Window) -> bool {
        let stuck = self.stuck.as_ref();
        stuck.is_some_and(|it| it.window == window && Instant::now() < it.again)
    }

    /// Notes that the watermark cannot pass a certified window again. Everything else goes on.
    async fn stick(
        &mut self,
        key: WindowKey,
        window: Window,
        error: &BackendError,
    ) -> Result<(), BackendError> {
        let (end, reason) = (window.end(), HeldWindow::why_stuck(window, error));
        let stuck = Stuck { end, reason: reason.clone() };
        self.it.ledger.note_stuck(&self.lease, Some(&stuck)).await?;
        if self.stuck.as_ref().is_none_or(|known| known.reason != reason) {
            warn!(window = %end, trace_id = self.trace_id(key), "stuck: {reason}");
            self.tell(Event::Held { window, reason: reason.clone() });
        }
        self.stuck = Some(StuckAt { window, reason, again: Instant::now() + STUCK_AGAIN_AFTER });
        Ok(())
    }

    /// Forgets that a window could not be planned, now that it could.
    async fn pull_free(&mut self, key: WindowKey, window: Window) -> Result<(), BackendError> {
        let known = self.it.ledger.stuck().await?;
        if known.is_some_and(|stuck| stuck.end == window.end()) {
            info!(window = %window.end(), trace_id = self.trace_id(key), "it can be planned again");
            self.it.ledger.note_stuck(&self.lease, None).await?;
        }
        if window.end() > self.watermark {
            self.stuck = None;
        }
        Ok(())
    }

    /// Drops a pass that cannot be planned, so that it does not come again with every leader. That is
    /// written down, and told until a later pass over the window is over; whether the catalog has
    /// other rows is looked at again, as after a commit.
    async fn drop_request(&mut self, key: WindowKey, reason: String) -> Result<(), BackendError> {
        let open = self.it.ledger.open_windows().await?;
        if let Some(record) = open.iter().find(|record| record.key() == key) {
            warn!(window = %key.end, trace_id = self.trace_id(key), "the pass is dropped: {reason}");
            let commit = WindowCommit {
                window: record.window,
                revision: record.revision,
                certificate: None,
                scanned: None,
                findings: Findings { dropped: Some(reason.clone()), ..Findings::default() }
                    .encode(),
                totals: WindowTotals::default(),
                failures: Vec::new(),
                advance_from: None,
            };
            self.it.ledger.commit_window(&self.lease, &commit).await?;
            self.end_trace(key, &commit, self.planning_began);
            self.flight.windows.remove(&key);
            if key.end <= self.watermark {
                self.tell(Event::Held { window: record.window, reason: reason.clone() });
                self.unplannable.retain(|(window, _)| *window != record.window);
                self.unplannable.push((record.window, reason));
            }
        }
        Ok(())
    }

    /// A pass that packs nothing needs no certificate; the ones that are there prove it.
    async fn finish_without_work(&mut self, plan: Plan) -> Result<(), BackendError> {
        let Plan { window, revision, purpose, scanned, findings, .. } = plan;
        let commit = WindowCommit {
            window,
            revision,
            certificate: None,
            scanned: Some(scanned),
            findings: findings.encode(),
            totals: WindowTotals::default(),
            failures: Vec::new(),
            advance_from: self.advance_from(window)?,
        };
        let key = WindowKey::new(window, revision);
        let trace = self.it.trace(key);
        let committing = trace.child("commit");
        self.it.ledger.commit_window(&self.lease, &commit).await?;
        drop(committing);
        self.flight.windows.remove(&key);
        self.end_trace(key, &commit, self.planning_began);
        self.watermark = self.watermark.max(window.end());
        let trace_id = trace.trace_id();
        match (purpose, findings.files_beyond_help) {
            (Purpose::Replay, 0) => {
                info!(window = %window.end(), trace_id, restored = findings.objects_restored,
                    "verified: every row is settled, every shard is sound");
            }
            (_, 0) => info!(window = %window.end(), trace_id, "nothing remains to be packed"),
            (_, files) => warn!(window = %window.end(), trace_id, files, "files are beyond help"),
        }
        self.tell(Event::Verified { window });
        Ok(())
    }
}
