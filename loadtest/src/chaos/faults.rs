//! Brings the schedule's faults upon a fleet, a few at a time or each alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::files::Manner;
use super::inject::{Effect, Target};
use super::kind::{CrashPoint, Kind, Role};
use super::oracle::{Finding, Sin};
use super::plan::{Fault, Only, fault, provocation};
use super::report::FaultRecord;
use super::sabotage::Sabotage;
use super::takeover::CALM;
use super::watch::now_micros;

/// Faults under way at a time.
const FAULTS_AT_A_TIME: usize = 2;
/// After so many faults without an accepted partition the next one waits: what never gets on with
/// its work cannot lose any.
const FAULTS_A_PARTITION: u64 = 4;
/// How long is waited, after a fault that is to be alone, for the fleet to go on.
const ALONE_LIMIT: Duration = Duration::from_secs(20);
/// The longest wait for a partition after several faults: a partition that was tried often waits
/// up to 75 s for its next attempt.
const BREATHER: Duration = Duration::from_secs(100);
/// A task of a worker that crashed is answered by another within this time, unless it was acked
/// too early: then the coordinator finds out by its silence, which takes 30 s.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(22);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which faults come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    /// Number of the first.
    pub(crate) first: u64,
    pub(crate) with_crash_points: bool,
    /// Which kinds come.
    pub(crate) only: Only,
    /// Only what brings this one to light, each fault alone.
    pub(crate) sabotage: Option<&'static Sabotage>,
}

impl Schedule {
    fn fault(&self, number: u64) -> Option<Fault> {
        match self.sabotage {
            Some(sabotage) => provocation(self.seed, number, sabotage),
            None => Some(fault(self.seed, number, self.with_crash_points, self.only)),
        }
    }
}

/// Injects faults until `ended`, then waits for those under way.
pub(crate) async fn inject_all(
    target: &Arc<Target>,
    (schedule, manner): (Schedule, Manner),
    accepted: watch::Receiver<u64>,
    ended: CancellationToken,
) -> Vec<FaultRecord> {
    let records = Arc::new(Mutex::new(Vec::new()));
    let slots = Arc::new(Semaphore::new(FAULTS_AT_A_TIME));
    let mut under_way = JoinSet::new();
    // Faults come to a fleet that works.
    if schedule.sabotage.is_none() {
        wait_for_more(&accepted, 0, ALONE_LIMIT, &ended).await;
    }
    let (mut last_count, mut faults_since) = (0, 0);
    for number in schedule.first.. {
        let Some(fault) = schedule.fault(number) else { break };
        let pause = tokio::time::sleep(fault.pause);
        let slot = tokio::select! {
            () = ended.cancelled() => break,
            slot = async { pause.await; Arc::clone(&slots).acquire_owned().await } => slot,
        };
        let Ok(slot) = slot else { break };
        if faults_since >= FAULTS_A_PARTITION {
            wait_for_more(&accepted, last_count, BREATHER, &ended).await;
        }
        let count = *accepted.borrow();
        faults_since = if count > last_count { 1 } else { faults_since + 1 };
        last_count = count;
        let (target, records) = (Arc::clone(target), Arc::clone(&records));
        if fault.is_alone {
            // What a sabotage is provoked by is alone anyway.
            if fault.kind.unseats_leader() && schedule.sabotage.is_none() {
                wait_for_calm(&mut under_way, &ended).await;
            }
            let before = *accepted.borrow();
            let left = inject(&target, fault, &records).await;
            // Of a partition that is split nobody answers the task.
            if manner != Manner::Poisoned {
                judge_left_tasks(&target, fault, left, &ended).await;
            }
            wait_for_more(&accepted, before, ALONE_LIMIT, &ended).await;
        } else {
            under_way.spawn(async move {
                inject(&target, fault, &records).await;
                drop(slot);
            });
        }
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *records)
}

/// Waits until nothing ails the fleet any more.
async fn wait_for_calm(under_way: &mut JoinSet<()>, ended: &CancellationToken) {
    while under_way.join_next().await.is_some() {}
    tokio::select! {
        () = ended.cancelled() => {}
        () = tokio::time::sleep(CALM) => {}
    }
}

async fn wait_for_more(
    accepted: &watch::Receiver<u64>,
    before: u64,
    limit: Duration,
    ended: &CancellationToken,
) {
    let mut accepted = accepted.clone();
    tokio::select! {
        _more = accepted.wait_for(|count| *count > before) => {}
        () = ended.cancelled() => {}
        () = tokio::time::sleep(limit) => {}
    }
}

async fn inject(target: &Target, fault: Fault, records: &Mutex<Vec<FaultRecord>>) -> Effect {
    let began = now_micros();
    let effect =
        target.inject(&fault).await.unwrap_or_else(|error| Effect::none(format!("{error:#}")));
    let record = FaultRecord {
        number: fault.number,
        kind: fault.kind.name(),
        began,
        over: now_micros(),
        effective: effect.effective,
        note: effect.note.clone(),
        recovered: None,
        unseated: effect.unseated,
    };
    records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    effect
}

/// A worker that dies before it has answered gives its tasks back: the broker hands them over
/// again, and somebody answers. Judged only where nothing else ails the fleet and the same leader
/// leads on, which would publish them anew.
async fn judge_left_tasks(
    target: &Target,
    fault: Fault,
    effect: Effect,
    ended: &CancellationToken,
) {
    let before_answer = ["after_upload", "after_receipt"];
    let Kind::Crash(CrashPoint { role: Role::Worker, name }) = fault.kind else { return };
    if !before_answer.contains(&name) {
        return;
    }
    let leader = target.leader();
    let answers = |address| target.tap.answers(address);
    let deadline = Instant::now() + HANDED_OVER_WITHIN;
    loop {
        let silent = effect.left_tasks.iter().find(|(address, before)| answers(address) == *before);
        let Some((address, _)) = silent else { return };
        if ended.is_cancelled() || target.leader() != leader {
            return;
        }
        if Instant::now() > deadline {
            let what = format!(
                "a worker crashed at {name} while it had partition {} of {}, and nobody got the \
                 task after it: it had been acked before it was answered",
                address.partition, address.window
            );
            return target.found(Finding::new(Sin::Wrong, 1, what));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
