//! Leading: one loop that plans, publishes, collects and commits, driven by what happens.
//!
//! Whatever the loop knows besides the ledger is hints. An error of a database, broker or store
//! that may pass ends the loop; the service takes it up again from the ledger.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use backends::BackendError;
use backends::ledger::{Lease, NewPartition, NewWindow, WindowRecord, WindowState, WindowTotals};
use backends::queue::{Delivery, Lane, OutgoingMessage};
use futures::{StreamExt, stream};
use protocol::message::{Outcome, PartitionAddress, Progress, Task, TaskResult};
use protocol::{PartitionId, Tally, Timestamp, Window, WindowKey, names};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::certify::{Certified, Certifier, MAX_RECEIPT_BYTES};
use crate::cutting::{Ahead, Next, cutoff, next_window};
use crate::decide::{
    Expected, accepted, check_receipt, deserves_second_look, setback, setback_for_second_look,
    setback_of_receipt,
};
use crate::flight::{Flight, OpenWindow};
use crate::service::{Coordinator, Event, Goal, RunReport};
use crate::survey::survey;

/// How often the loop looks around when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// How often the ledger is asked for requests, and the watermark looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Tasks published at a time.
const PUBLISHES_IN_FLIGHT: usize = 64;
/// Error of planning that may pass: how long to wait before planning again.
const PLAN_AGAIN_AFTER: Duration = Duration::from_secs(2);
const DEAD_LETTER_BYTES: usize = 64 * 1024;

/// Why leading ended without an error.
pub(crate) enum Ended {
    GoalReached,
    Stopped,
}

/// What a finished plan came to.
struct Plan {
    window: Window,
    revision: u16,
    replaces: Vec<String>,
    partitions: Vec<NewPartition>,
}

pub(crate) struct Leader<'a> {
    it: &'a Coordinator,
    lease: Lease,
    report: &'a mut RunReport,
    flight: Flight,
    planning: Option<(WindowKey, JoinHandle<Result<Plan, BackendError>>)>,
    plan_not_before: Instant,
    /// Whether the last planned window had no rows, so that it is worth asking how far the
    /// emptiness reaches.
    last_was_empty: bool,
    /// Where [`Goal::UpToCutoff`] ends.
    until: Option<Timestamp>,
    watermark: Timestamp,
    next_look: Instant,
    publish_from: Instant,
    held_told: HashMap<WindowKey, String>,
    /// Replays that operators asked for, as of the last look.
    requested: Vec<WindowRecord>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if let Some((_, planning)) = &self.planning {
            planning.abort();
        }
    }
}

impl<'a> Leader<'a> {
    pub(crate) fn new(it: &'a Coordinator, lease: Lease, report: &'a mut RunReport) -> Self {
        let now = Instant::now();
        Self {
            it,
            lease,
            report,
            flight: Flight::default(),
            planning: None,
            plan_not_before: now,
            last_was_empty: true,
            until: None,
            watermark: Timestamp::MIN,
            next_look: now,
            publish_from: now,
            held_told: HashMap::new(),
            requested: Vec::new(),
        }
    }

    pub(crate) async fn lead(
        mut self,
        goal: &Goal,
        stop: &CancellationToken,
    ) -> Result<Ended, BackendError> {
        let mut outcomes = self.it.consume(Lane::Outcomes).await?;
        let mut progress = self.it.consume(Lane::Progress).await?;
        // What waits in the queue was put there by whoever led before, and is published again.
        self.it.queue.purge(Lane::Tasks).await?;
        self.look(goal).await?;
        if !self.flight.windows.is_empty() {
            self.publish_from = Instant::now() + self.it.settings.takeover_wait;
        }
        if *goal == Goal::UpToCutoff {
            self.until = Some(self.cutoff().await?);
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(ended) = self.advance(goal).await? {
                return Ok(ended);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                delivery = outcomes.next() => self.take_outcome(delivery).await?,
                delivery = progress.next() => self.take_progress(delivery).await,
                planned = async {
                    match &mut self.planning {
                        Some((_, planning)) => planning.await,
                        None => std::future::pending().await,
                    }
                } => self.take_plan(planned).await?,
                _ = tick.tick() => self.republish_silent().await?,
            }
        }
    }

    /// Does whatever can be done now; tells when there is nothing left to do.
    async fn advance(&mut self, goal: &Goal) -> Result<Option<Ended>, BackendError> {
        if Instant::now() >= self.next_look {
            self.look(goal).await?;
        }
        self.publish_due().await?;
        self.commit_complete().await?;
        let more = self.plan_next(goal).await?;
        self.publish_due().await?;
        self.report.archived_until = Some(self.watermark);

        let blocked = self.blocked();
        self.report.held = blocked.clone();
        for (window, reason) in &blocked {
            let key = WindowKey::new(*window, 0);
            if self.held_told.insert(key, reason.clone()).as_ref() != Some(reason) {
                warn!(window = %window.end(), "held: {reason}");
                self.tell(Event::Held { window: *window, reason: reason.clone() });
            }
        }
        let idle = self.planning.is_none()
            && !more
            && self.flight.windows.values().all(|window| {
                window.is_blocked(self.it.settings.attempts)
                    || (window.is_complete() && !blocked.is_empty())
            });
        Ok((idle && *goal != Goal::Forever).then_some(Ended::GoalReached))
    }

    fn blocked(&self) -> Vec<(Window, String)> {
        let limits = self.it.settings.attempts;
        let reason = |window: &OpenWindow| {
            if let Some(stuck) = window.stuck(limits) {
                let (class, detail) = stuck.trouble.clone().unwrap_or_default();
                let attempts = stuck.attempts.max(stuck.interruptions);
                let at = stuck.partition;
                return Some(format!("partition {at} failed {attempts} times; {class}: {detail}"));
            }
            (window.record.state == WindowState::Held).then(|| {
                format!(
                    "{} of {} files failed, more than max_failed_files and max_failed_ratio allow; \
                     see des_partitions and the receipts for the reasons",
                    window.files_failed(),
                    window.record.rows.rows
                )
            })
        };
        let windows = self.flight.windows.values();
        windows.filter_map(|window| Some((window.record.window, reason(window)?))).collect()
    }

    /// Reads the ledger: windows that others asked for, and whether the watermark is where we
    /// left it.
    async fn look(&mut self, goal: &Goal) -> Result<(), BackendError> {
        self.next_look = Instant::now() + LOOK_EVERY;
        let (watermark, archive) =
            (self.it.ledger.watermark().await?, self.it.ledger.archive().await?);
        let (Some(watermark), Some(archive)) = (watermark, archive) else {
            return Err(BackendError::NotFound {
                what: "the ledger has no watermark for this job any more: run `des init`"
                    .to_owned(),
            });
        };
        if watermark.archived_until != archive.settled_until {
            let what = format!(
                "the watermark stands at {}, and des left it at {}: somebody moved it by hand. \
                 Nothing proceeds until it is moved back, or moved with `des adjust`",
                watermark.archived_until, archive.settled_until
            );
            if *goal == Goal::Forever {
                // Waiting is all that is right; whoever moved it may still move it back.
                return Err(BackendError::Unavailable { what, cause: "see `des stats`".into() });
            }
            return Err(BackendError::Invalid { what });
        }
        self.watermark = watermark.archived_until;
        let records = self.it.ledger.open_windows().await?;
        self.flight.windows.retain(|key, _| records.iter().any(|record| record.key() == *key));
        let (requested, open): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.state == WindowState::Requested);
        self.requested = requested;
        for mut record in open {
            if let Some(open) = self.flight.windows.get_mut(&record.key()) {
                open.record = record;
                continue;
            }
            // Whether it is to be held is decided anew: the limits may have changed since.
            record.state = WindowState::Open;
            let partitions = self.it.ledger.partitions(record.key()).await?;
            self.flight.windows.insert(record.key(), OpenWindow::new(record, partitions));
        }
        Ok(())
    }

    async fn cutoff(&self) -> Result<Timestamp, BackendError> {
        let ledger = &self.it.ledger;
        let lag_days = ledger.watermark().await?.map_or(0, |row| row.lag_days);
        let clocks = (self.it.catalog.now().await?, ledger.now().await?);
        let oldest = if lag_days < 1 { self.it.catalog.oldest_transaction().await? } else { None };
        Ok(cutoff(clocks.0, clocks.1, lag_days, oldest, self.it.settings.window_span_micros))
    }

    /// Begins to plan the next window, where there is room and one is due. True while windows
    /// remain to be planned.
    async fn plan_next(&mut self, goal: &Goal) -> Result<bool, BackendError> {
        if self.planning.is_some() {
            return Ok(true);
        }
        let wanted = |key: WindowKey| match goal {
            Goal::Replays(keys) => keys.contains(&key),
            Goal::Forever | Goal::UpToCutoff => true,
        };
        if let Some(at) = self.requested.iter().position(|record| wanted(record.key())) {
            let requested = self.requested.swap_remove(at);
            self.begin_plan(requested.window, requested.revision, true);
            return Ok(true);
        }
        if matches!(goal, Goal::Replays(_)) {
            return Ok(false);
        }
        let room = self.flight.windows.len() < self.it.settings.windows_in_flight;
        if !self.blocked().is_empty() {
            return Ok(false);
        }
        if !room || Instant::now() < self.plan_not_before {
            return Ok(true);
        }
        let frontier = self.flight.frontier(self.watermark);
        let cutoff = match self.until {
            Some(until) => until,
            None => self.cutoff().await?,
        };
        if frontier >= cutoff {
            if *goal == Goal::Forever {
                self.plan_not_before = Instant::now() + PLAN_AGAIN_AFTER;
            }
            return Ok(false);
        }
        let ledger = &self.it.ledger;
        let certified = ledger.committed_windows(Some(frontier), None, 1).await?;
        let oldest_row = if self.last_was_empty {
            Some(self.it.catalog.oldest_after(Some(frontier)).await?)
        } else {
            None
        };
        let ahead = Ahead { certified: certified.first().map(|record| record.window), oldest_row };
        match next_window(frontier, cutoff, self.it.settings.window_span_micros, ahead) {
            Next::Nothing => Ok(false),
            Next::Fresh(window) => {
                self.begin_plan(window, 0, false);
                Ok(true)
            }
            Next::Again(window) => {
                let revision = self.next_revision(window).await?;
                self.begin_plan(window, revision, true);
                Ok(true)
            }
        }
    }

    async fn next_revision(&self, window: Window) -> Result<u16, BackendError> {
        let of_end = self.revisions_of(window).await?;
        Ok(of_end.iter().map(|record| record.revision + 1).max().unwrap_or(0))
    }

    async fn revisions_of(&self, window: Window) -> Result<Vec<WindowRecord>, BackendError> {
        let just_before = window.end().saturating_add_micros(-1);
        let ledger = &self.it.ledger;
        ledger.committed_windows(Some(just_before), Some(window.end()), u32::MAX).await
    }

    fn begin_plan(&mut self, window: Window, revision: u16, again: bool) {
        let splitter = self.it.splitter();
        let (ledger, store) = (std::sync::Arc::clone(&self.it.ledger), self.it.store.clone());
        let planning = tokio::spawn(async move {
            let settled = if again {
                let just_before = window.end().saturating_add_micros(-1);
                let revisions = ledger
                    .committed_windows(Some(just_before), Some(window.end()), u32::MAX)
                    .await?;
                Some(survey(&store, &revisions).await?)
            } else {
                None
            };
            let replaces = settled.as_ref().map(|settled| settled.damaged()).unwrap_or_default();
            let partitions = splitter.split(window, revision, settled).await?;
            Ok(Plan { window, revision, replaces, partitions })
        });
        debug!(window = %window, revision, "planning");
        self.planning = Some((WindowKey::new(window, revision), planning));
    }

    async fn take_plan(
        &mut self,
        planned: Result<Result<Plan, BackendError>, tokio::task::JoinError>,
    ) -> Result<(), BackendError> {
        self.planning = None;
        let plan = planned.map_err(|panicked| BackendError::Failed {
            what: "planning a window".to_owned(),
            cause: panicked.into(),
        })??;
        let Plan { window, revision, replaces, partitions } = plan;
        let rows: Tally = partitions.iter().map(|partition| partition.rows).sum();
        self.last_was_empty = rows.rows == 0;
        let key = WindowKey::new(window, revision);
        if revision > 0 && rows.rows == 0 && replaces.is_empty() {
            return self.finish_without_work(window, revision).await;
        }
        let new = NewWindow { window, revision, replaces, partitions };
        self.it.ledger.add_window(&self.lease, &new).await?;
        info!(window = %window, revision, rows = rows.rows, partitions = new.partitions.len(), "planned");
        self.tell(Event::Planned { window, rows: rows.rows, partitions: new.partitions.len() });
        let records = self.it.ledger.partitions(key).await?;
        let record = WindowRecord {
            window,
            revision,
            state: WindowState::Open,
            rows,
            replaces: new.replaces,
            totals: WindowTotals::default(),
            certificate: None,
        };
        self.flight.windows.insert(key, OpenWindow::new(record, records));
        Ok(())
    }

    /// A replay of which every row is settled and every shard sound needs no certificate; the
    /// ones that are there prove it.
    async fn finish_without_work(
        &mut self,
        window: Window,
        revision: u16,
    ) -> Result<(), BackendError> {
        let commit = backends::ledger::WindowCommit {
            window,
            revision,
            certificate: None,
            totals: WindowTotals::default(),
            failures: Vec::new(),
            advance_from: (self.watermark < window.end()).then_some(self.watermark),
        };
        self.it.ledger.commit_window(&self.lease, &commit).await?;
        self.watermark = self.watermark.max(window.end());
        info!(window = %window, "verified: every row is settled, every shard is sound");
        self.tell(Event::Verified { window });
        Ok(())
    }

    async fn publish_due(&mut self) -> Result<(), BackendError> {
        if Instant::now() < self.publish_from {
            return Ok(());
        }
        let limits = self.it.settings.attempts;
        if self.flight.due(Timestamp::MAX, limits).is_empty() {
            return Ok(());
        }
        let now = self.it.ledger.now().await?;
        let due = self.flight.due(now, limits);
        let tasks: Vec<_> = due.iter().filter_map(|&at| Some((at, self.task(at)?))).collect();
        let queue = &self.it.queue;
        let published: Vec<_> = stream::iter(tasks)
            .map(|(at, task)| async move {
                let message = OutgoingMessage {
                    kind: Task::KIND.to_owned(),
                    body: task.encode(),
                    headers: vec![
                        ("archive".to_owned(), task.address.archive.to_string()),
                        ("job".to_owned(), task.address.job.to_string()),
                    ],
                };
                (at, queue.publish(Lane::Tasks, message).await)
            })
            .buffer_unordered(PUBLISHES_IN_FLIGHT)
            .collect()
            .await;
        for ((window, partition), result) in published {
            match result {
                Ok(()) => {
                    if let Some(open) = self.flight.partition_mut(window, partition) {
                        open.last_sign = Some(Instant::now());
                        open.reported = (0, 0);
                    }
                }
                Err(error) => {
                    warn!("a task was not published, and will be again: {error}");
                    self.tell(Event::Waiting { reason: error.to_string() });
                    self.publish_from = Instant::now() + TICK;
                }
            }
        }
        Ok(())
    }

    fn task(&self, (window, partition): (WindowKey, PartitionId)) -> Option<Task> {
        let open = self.flight.windows.get(&window)?;
        let found = open.partitions.iter().find(|open| open.record.partition == partition)?;
        Some(Task {
            version: Task::VERSION,
            address: PartitionAddress {
                archive: self.it.identity.archive.clone(),
                job: self.it.identity.job.clone(),
                window: open.record.window,
                revision: open.record.revision,
                partition,
                manifest_hash: names::content_hash(&found.record.manifest)?,
            },
            attempt: found.record.attempts + 1,
            manifest: found.record.manifest.clone(),
            rows: found.record.rows.rows,
            settings: self.it.settings.pack,
        })
    }

    /// Publishes again what was published, gives no sign of life, and is not waiting in the queue.
    async fn republish_silent(&mut self) -> Result<(), BackendError> {
        let silent = self.flight.silent(self.it.settings.silence, self.it.settings.attempts);
        if silent.is_empty() {
            return Ok(());
        }
        match self.it.queue.depth(Lane::Tasks).await {
            Ok(depth) if depth.ready == 0 => {}
            // Waiting is no trouble; and of a broker that does not answer nothing is known.
            Ok(_) | Err(_) => return Ok(()),
        }
        for (window, partition) in silent {
            info!(window = %window.end, partition, "no sign of life: publishing again");
            if let Some(open) = self.flight.partition_mut(window, partition) {
                open.last_sign = None;
            }
        }
        Ok(())
    }

    async fn take_progress(&mut self, delivery: Delivery) {
        if let Ok(progress) = Progress::decode(&delivery.body)
            && self.is_ours(&progress.address)
        {
            let key = WindowKey::new(progress.address.window, progress.address.revision);
            let mut read = None;
            if let Some(open) = self.flight.partition_mut(key, progress.address.partition) {
                open.last_sign = Some(Instant::now());
                let rows = progress.rows.saturating_sub(open.reported.0);
                let bytes = progress.bytes.saturating_sub(open.reported.1);
                open.reported = (progress.rows, progress.bytes);
                read = Some(Event::Read { rows, bytes });
            }
            if let Some(read) = read {
                self.tell(read);
            }
        }
        delivery.settle.ack().await;
    }

    fn is_ours(&self, address: &PartitionAddress) -> bool {
        address.archive == self.it.identity.archive && address.job == self.it.identity.job
    }

    /// Carries out what an answer means, then acks it. On an error the answer stays with the
    /// broker and comes again.
    async fn take_outcome(&mut self, delivery: Delivery) -> Result<(), BackendError> {
        match Outcome::decode(&delivery.body) {
            Ok(outcome) if self.is_ours(&outcome.address) => self.apply(&outcome).await?,
            Ok(outcome) => self.bury(&delivery, &stranger(&outcome, self.it)).await?,
            Err(error) => self.bury(&delivery, &error.to_string()).await?,
        }
        delivery.settle.ack().await;
        Ok(())
    }

    async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), BackendError> {
        warn!(kind = delivery.kind, "dead letter: {reason}");
        let message = OutgoingMessage {
            kind: delivery.kind.clone(),
            body: delivery.body.iter().copied().take(DEAD_LETTER_BYTES).collect(),
            headers: vec![
                ("reason".to_owned(), reason.to_owned()),
                ("from".to_owned(), "outcomes".to_owned()),
            ],
        };
        self.it.queue.publish(Lane::Dead, message).await
    }

    async fn apply(&mut self, outcome: &Outcome) -> Result<(), BackendError> {
        let address = &outcome.address;
        let key = WindowKey::new(address.window, address.revision);
        let Some(window) = self.flight.windows.get(&key) else { return Ok(()) };
        let window_of_record = window.record.window;
        let found =
            window.partitions.iter().find(|open| open.record.partition == address.partition);
        let Some(partition) = found.map(|open| open.record.clone()) else { return Ok(()) };
        let same_manifest = names::content_hash(&partition.manifest) == Some(address.manifest_hash);
        if partition.accepted.is_some() || !same_manifest {
            return Ok(());
        }
        let now = self.it.ledger.now().await?;
        let setback = match &outcome.result {
            TaskResult::Done { receipt: name, receipt_size } => {
                let expected = Expected {
                    identity: &self.it.identity,
                    window: window_of_record,
                    revision: address.revision,
                    partition: &partition,
                };
                let checked = match self.it.store.get(name, MAX_RECEIPT_BYTES).await {
                    Ok(bytes) => check_receipt(name, &bytes, expected),
                    Err(error) if error.is_retryable() => return Err(error),
                    Err(error) => Err(error.to_string()),
                };
                match checked {
                    Ok(receipt) if deserves_second_look(&partition, &receipt) => {
                        setback_for_second_look(&partition, &receipt, now)
                    }
                    Ok(receipt) => {
                        let accepted = accepted(name, *receipt_size, &receipt);
                        return self.accept(key, address.partition, accepted).await;
                    }
                    Err(why) => setback_of_receipt(&partition, &format!("{name}: {why}"), now),
                }
            }
            other => match setback(&partition, other, now) {
                Some(setback) => setback,
                None => {
                    if let Some(open) = self.flight.partition_mut(key, address.partition) {
                        open.last_sign = None;
                    }
                    return Ok(());
                }
            },
        };
        info!(window = %key.end, partition = address.partition, worker = %outcome.worker,
            class = setback.class, "to be tried again: {}", setback.detail);
        self.it.ledger.set_back(&self.lease, key, address.partition, &setback).await?;
        if let Some(open) = self.flight.partition_mut(key, address.partition) {
            open.last_sign = None;
            open.record.attempts = setback.attempts;
            open.record.interruptions = setback.interruptions;
            open.record.not_before = setback.not_before;
            open.record.trouble = Some((setback.class, setback.detail));
        }
        Ok(())
    }

    async fn accept(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        receipt: backends::ledger::AcceptedReceipt,
    ) -> Result<(), BackendError> {
        if !self.it.ledger.accept(&self.lease, window, partition, &receipt).await? {
            // Another receipt was accepted before, under another lease: what is there counts.
            self.flight.windows.remove(&window);
            self.next_look = Instant::now();
            return Ok(());
        }
        if let Some(open) = self.flight.partition_mut(window, partition) {
            let rows = open.record.rows.rows.saturating_sub(open.reported.0);
            open.record.accepted = Some(receipt);
            self.tell(Event::Read { rows, bytes: 0 });
        }
        Ok(())
    }

    /// Commits windows in order, as long as the first is complete; replays in any order.
    async fn commit_complete(&mut self) -> Result<(), BackendError> {
        while let Some(key) = self.next_complete() {
            let Some(window) = self.flight.windows.get(&key) else { break };
            let rows = window.record.rows.rows;
            if !self.it.settings.failures.allow(rows, window.files_failed()) {
                let ledger = &self.it.ledger;
                ledger.set_window_state(&self.lease, key, WindowState::Held).await?;
                if let Some(window) = self.flight.windows.get_mut(&key) {
                    window.record.state = WindowState::Held;
                }
                continue;
            }
            let certifier = Certifier {
                store: &self.it.store,
                identity: &self.it.identity,
                settings: self.it.settings.pack,
                writer: &self.it.id,
                epoch: self.lease.epoch,
                now: self.it.ledger.now().await?,
            };
            match certifier.certify(window).await? {
                Certified::Durable(commit) => self.commit(key, *commit).await?,
                Certified::NotSo(partition, why) => self.reopen(key, partition, &why).await?,
            }
        }
        Ok(())
    }

    /// A window that may commit now: complete, not held, and the next after the watermark, or
    /// at or below it.
    fn next_complete(&self) -> Option<WindowKey> {
        let mut frontier = true;
        for (key, window) in &self.flight.windows {
            let moves_watermark = key.end > self.watermark;
            let may = !moves_watermark || frontier;
            if may && window.is_complete() && window.record.state == WindowState::Open {
                return Some(*key);
            }
            if moves_watermark {
                frontier = false;
            }
        }
        None
    }

    async fn commit(
        &mut self,
        key: WindowKey,
        mut commit: backends::ledger::WindowCommit,
    ) -> Result<(), BackendError> {
        if key.end > self.watermark {
            commit.advance_from = Some(self.watermark);
        }
        self.it.ledger.commit_window(&self.lease, &commit).await?;
        self.watermark = self.watermark.max(key.end);
        self.flight.windows.remove(&key);
        let totals = commit.totals;
        info!(window = %commit.window, revision = commit.revision, files = totals.files_archived,
            failed = totals.files_failed, shards = totals.shards, "committed");
        self.report.windows += 1;
        let sum = &mut self.report.totals;
        sum.files_archived += totals.files_archived;
        sum.files_failed += totals.files_failed;
        sum.shards += totals.shards;
        sum.bytes_raw += totals.bytes_raw;
        sum.bytes_stored += totals.bytes_stored;
        self.tell(Event::Committed { window: commit.window, totals });
        Ok(())
    }

    async fn reopen(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        why: &str,
    ) -> Result<(), BackendError> {
        warn!(window = %window.end, partition, "to be done again: {why}");
        let now = self.it.ledger.now().await?;
        let Some(open) = self.flight.partition_mut(window, partition) else { return Ok(()) };
        let setback = setback_of_receipt(&open.record, why, now);
        open.record.accepted = None;
        open.last_sign = None;
        open.record.attempts = setback.attempts;
        open.record.not_before = setback.not_before;
        open.record.trouble = Some((setback.class.clone(), setback.detail.clone()));
        self.it.ledger.reopen(&self.lease, window, partition, &setback).await
    }

    fn tell(&self, event: Event) {
        let _nobody_listens = self.it.events.send(event);
    }
}

fn stranger(outcome: &Outcome, it: &Coordinator) -> String {
    format!(
        "the outcome is of archive {} (job {}), and this coordinator leads archive {} (job {}); \
         give each fleet its own broker.prefix",
        outcome.address.archive, outcome.address.job, it.identity.archive, it.identity.job
    )
}
