//! Leading: one loop that plans, publishes, collects and commits, driven by what happens.
//!
//! Whatever the loop knows besides the ledger is hints. An error of the ledger ends the loop, and the
//! service takes it up again; what is done beside it, or for one window, waits when it fails, and
//! keeps nothing else ([`waits`]).

mod again;
mod ahead;
mod answers;
mod collect;
mod commit;
mod dispatch;
mod isolate;
mod manifests;
mod pause;
mod plan;
mod recheck;
mod size;
mod throttle;
mod waits;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use backends::BackendError;
use backends::ledger::{Lease, PartitionRecord, WindowRecord, WindowState};
use backends::queue::Lane;
use protocol::message::{PartitionAddress, TaskResult};
use protocol::{Revision, Timestamp, Window, WindowKey};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::ahead::{Looking, Seen, seen};
use self::answers::Answers;
use self::commit::{Certifying, compared};
pub(crate) use self::dispatch::publish_task;
use self::pause::Paused;
use self::plan::{Planning, StuckAt};
use self::recheck::Rechecking;
use self::throttle::Throttling;
use self::waits::{Waits, What};
use crate::attempts::setback_of_lost_process;
use crate::flight::{Flight, OpenWindow};
use crate::held::HeldWindow;
use crate::kept::Room;
use crate::metrics;
use crate::pace::Pace;
use crate::restore::Answer;
use crate::service::{Coordinator, Event, Goal, RunReport};
use crate::survey::settings_of;

/// How often the loop looks around when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// How often the ledger is asked for requests, and the watermark looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Why leading ended without an error.
pub(crate) enum Ended {
    GoalReached,
    Stopped,
}

/// The leader's memory, most of which is the ledger's.
pub(crate) struct Leader<'a> {
    it: &'a Coordinator,
    lease: Lease,
    report: &'a mut RunReport,
    flight: Flight,
    /// Answers that were taken, and are not carried out yet.
    answers: Answers,
    /// Where accepted receipts are kept.
    room: Room,
    /// How large partitions are, by the time that they take.
    pace: Pace,
    /// The window whose certificate is being made.
    certifying: Option<Certifying>,
    /// The plan in the making, of which window and pass.
    planning: Option<(Window, Revision, Planning)>,
    planning_began: Instant,
    plan_not_before: Instant,
    /// The look ahead that is under way.
    looking_ahead: Option<Looking>,
    /// What it saw, until that is used.
    seen: Option<Seen>,
    /// What failed and is tried again.
    waits: Waits,
    /// Whether the ledger may still say that the next window cannot be planned.
    unplanned_noted: bool,
    /// Whether it goes on for ever, so that what waiting does not cure is waited out as well:
    /// somebody may put it right.
    is_service: bool,
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
    /// Where answers go about objects that the plan in the making has made again.
    restoring: Option<mpsc::Sender<Answer>>,
    /// The look at committed windows that is under way, or is next.
    rechecking: Rechecking,
    /// Passes that could not even be planned, with the reason: they are dropped, or left.
    unplannable: Vec<(Window, String)>,
    /// Passes that stay asked for, and that this run does not plan any more.
    left: HashSet<WindowKey>,
    /// Why tasks could not be published when that was last tried.
    unpublished: Option<String>,
    /// The pause that stands, as of the last look.
    paused: Option<Paused>,
    /// The limits in force, and what the source database says.
    throttling: Throttling,
    /// The window that the watermark cannot pass again.
    stuck: Option<StuckAt>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if let Some((.., planning)) = &self.planning {
            planning.abort();
        }
    }
}

impl<'a> Leader<'a> {
    pub(crate) fn new(
        it: &'a Coordinator,
        lease: Lease,
        until: Option<Timestamp>,
        report: &'a mut RunReport,
    ) -> Self {
        let now = Instant::now();
        Self {
            it,
            lease,
            report,
            flight: Flight::default(),
            answers: Answers::default(),
            room: Room::default(),
            pace: Pace::new(it.settings.partition_time, it.settings.partition.rows, None),
            certifying: None,
            planning: None,
            planning_began: now,
            plan_not_before: now,
            looking_ahead: None,
            seen: None,
            waits: Waits::default(),
            unplanned_noted: true,
            is_service: false,
            last_was_empty: true,
            until,
            watermark: Timestamp::MIN,
            next_look: now,
            publish_from: now,
            held_told: HashMap::new(),
            requested: Vec::new(),
            restoring: None,
            rechecking: Rechecking::new(it.settings.recheck_after),
            unplannable: Vec::new(),
            left: HashSet::new(),
            unpublished: None,
            paused: None,
            throttling: Throttling::default(),
            stuck: None,
        }
    }

    pub(crate) async fn lead(
        mut self,
        goal: &Goal,
        stop: &CancellationToken,
    ) -> Result<Ended, BackendError> {
        self.is_service = *goal == Goal::Forever;
        let mut outcomes = self.it.consume(Lane::Outcomes).await?;
        let mut progress = self.it.consume(Lane::Progress).await?;
        // What waits in the queue was put there by whoever led before, and is published again.
        self.it.queue.purge(Lane::Tasks).await?;
        self.look(goal).await?;
        self.recall_size().await?;
        if !self.flight.windows.is_empty() {
            self.publish_from = Instant::now() + self.it.settings.takeover_wait;
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(ended) = self.advance(goal).await? {
                return Ok(ended);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                delivery = outcomes.next(), if self.answers.has_room() => {
                    self.take_outcome(delivery).await?;
                }
                answer = self.answers.next() => self.take_answer(answer).await?,
                compared = compared(&mut self.certifying) => self.take_compared(compared).await?,
                delivery = progress.next() => self.take_progress(delivery).await?,
                planned = async {
                    match &mut self.planning {
                        Some((.., planning)) => planning.await,
                        None => std::future::pending().await,
                    }
                } => self.take_plan(planned).await?,
                seen = seen(&mut self.looking_ahead) => self.take_seen(seen).await?,
                round = self.rechecking.next() => self.take_round(round).await?,
                _ = tick.tick() => self.republish_silent().await?,
            }
        }
    }

    /// Does whatever can be done now; tells when there is nothing left to do.
    async fn advance(&mut self, goal: &Goal) -> Result<Option<Ended>, BackendError> {
        if Instant::now() >= self.next_look {
            self.look(goal).await?;
        }
        self.feel_reason().await?;
        if self.paused.is_none() {
            self.settle_used_up().await?;
        }
        self.publish_due().await?;
        // Also while paused: what is complete is safe only when it is certified.
        self.commit_complete().await?;
        let mut more = false;
        if self.paused.is_none() {
            more = self.plan_next(goal).await?;
            self.publish_due().await?;
        }
        self.report.archived_until = Some(self.watermark);
        self.it.board.tell(self.unpublished.clone().or_else(|| self.waits.reason()));

        let blocked = self.blocked();
        let stuck = self.stuck.iter().map(|stuck| (stuck.window, stuck.reason.clone()));
        let blocked_or_dropped = blocked.iter().chain(&self.unplannable).cloned();
        self.report.held = blocked_or_dropped.chain(stuck).collect();
        for (window, reason) in &blocked {
            let key = WindowKey::new(*window, 0);
            if self.held_told.insert(key, reason.clone()).as_ref() != Some(reason) {
                warn!(window = %window.end(), trace_id = self.trace_id(key), "held: {reason}");
                self.tell(Event::Held { window: *window, reason: reason.clone() });
            }
        }
        self.report.paused = self.paused.as_ref().map(|paused| paused.pause.clone());
        if self.paused.is_some() {
            return Ok(self.leaves(goal).then_some(Ended::GoalReached));
        }
        if self.may_begin() {
            self.begin_round(goal);
        }
        let idle =
            self.planning.is_none()
                && self.certifying.is_none()
                && !self.throttling.only_asks()
                && self.rechecking.is_over_for_now(self.may_begin())
                && !more
                && !self.waits.has(|it| matches!(it, What::Compare(_)))
                && self.flight.windows.values().all(|window| {
                    window.is_blocked() || (window.is_complete() && !blocked.is_empty())
                });
        Ok((idle && *goal != Goal::Forever).then_some(Ended::GoalReached))
    }

    fn blocked(&self) -> Vec<(Window, String)> {
        let windows = self.flight.windows.values();
        let held = windows.filter(|window| window.is_blocked()).map(|window| {
            let held = HeldWindow::new(&window.record, window.files_failed());
            (window.record.window, held.reason)
        });
        held.collect()
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
        if watermark.archived_until < self.watermark {
            return Err(BackendError::Conflict {
                what: format!(
                    "the watermark went back from {} to {} under this leader: somebody adjusted it, \
                     or the ledger was restored to an older point",
                    self.watermark, watermark.archived_until
                ),
            });
        }
        self.watermark = watermark.archived_until;
        self.look_for_pause().await?;
        self.look_for_throttles().await?;
        let records = self.it.ledger.open_windows().await?;
        self.flight.windows.retain(|key, _| records.iter().any(|record| record.key() == *key));
        let (requested, open): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.state == WindowState::Requested);
        // One that is being planned is still on record as requested.
        let planning = self.planning.as_ref();
        let being_planned =
            planning.map(|(window, revision, _)| WindowKey::new(*window, *revision));
        self.requested = requested;
        self.requested.retain(|record| Some(record.key()) != being_planned);
        let (requested, windows) = (&self.requested, &self.flight.windows);
        self.waits.keep(|key| {
            windows.contains_key(&key)
                || Some(key) == being_planned
                || requested.iter().any(|record| record.key() == key)
        });
        for record in open {
            self.look_at(record).await?;
        }
        Ok(())
    }

    /// Takes over what the ledger says of an uncommitted window.
    async fn look_at(&mut self, mut record: WindowRecord) -> Result<(), BackendError> {
        let it = self.it;
        let key = record.key();
        let Some(known) = self.flight.windows.get_mut(&key) else {
            // Whether it is to be held is decided anew: the limits may have changed since.
            record.state = WindowState::Open;
            let mut partitions = it.ledger.partitions(key).await?;
            self.find_interrupted(key, &mut partitions).await?;
            let (mut settings, mut lost) = (it.settings.pack, None);
            if let Some(first) = partitions.first() {
                match settings_of(&it.store, &first.manifest).await {
                    Ok(of_manifest) => settings = of_manifest,
                    Err(error) if error.is_lost_or_damaged() => {
                        lost = Some((first.partition, error.to_string()));
                    }
                    Err(error) => return Err(error),
                }
            }
            self.flight.windows.insert(key, OpenWindow::new(record, settings, partitions));
            if let Some((partition, why)) = lost {
                self.plan_anew(key, partition, &why).await?;
            }
            return Ok(());
        };
        match (known.record.state, record.state) {
            (WindowState::Held, WindowState::Open) => {
                info!(window = %key.end, revision = key.revision, trace_id = it.trace(key).trace_id(),
                    "let go by an operator");
                known.refresh(it.ledger.partitions(key).await?);
                self.held_told.remove(&WindowKey { revision: 0, ..key });
            }
            (state, _) => record.state = state,
        }
        known.record = record;
        Ok(())
    }

    /// Counts what a process ended over that worked on partitions itself.
    async fn find_interrupted(
        &self,
        window: WindowKey,
        partitions: &mut Vec<PartitionRecord>,
    ) -> Result<(), BackendError> {
        let ledger = &self.it.ledger;
        let mut found = false;
        for partition in partitions.iter().filter(|it| it.accepted.is_none()) {
            let Some(process) = &partition.under_way_by else { continue };
            if *process != self.lease.holder {
                warn!(window = %window.end, partition = partition.partition, %process,
                    trace_id = self.trace_id(window), "its process ended over it");
                let setback = setback_of_lost_process(partition, process, ledger.now().await?);
                ledger.set_back(&self.lease, window, partition.partition, &setback).await?;
                metrics::setback(&setback);
                found = true;
            }
        }
        if found {
            *partitions = ledger.partitions(window).await?;
        }
        Ok(())
    }

    /// Hands an answer that is about no open window to whoever has objects made again.
    fn offer(&self, address: &PartitionAddress, result: Option<TaskResult>) {
        if let Some(restoring) = &self.restoring {
            let _full_or_gone = restoring.try_send(Answer { address: address.clone(), result });
        }
    }

    fn is_ours(&self, address: &PartitionAddress) -> bool {
        address.archive == self.it.identity.archive && address.job == self.it.identity.job
    }

    /// For log lines about a window; `None` where it is not traced.
    fn trace_id(&self, window: WindowKey) -> Option<String> {
        self.it.trace(window).trace_id()
    }

    fn tell(&self, event: Event) {
        let _nobody_listens = self.it.events.send(event);
    }
}
