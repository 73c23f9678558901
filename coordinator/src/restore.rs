//! Has workers make certified objects again, from the manifests that they were made from.
//!
//! The same rows over unchanged files give the same names and bytes, so that a damaged object is
//! whole again under its own name. Nothing of this is in the ledger: what is still damaged when it
//! is over becomes a revision, and a new leader begins with looking.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::queue::Lane;
use backends::trace::Span;
use backends::{BackendError, Store, TaskQueue};
use protocol::certificate::PartitionRef;
use protocol::message::{PartitionAddress, Restore, Task, TaskResult};
use protocol::{ArchiveIdentity, Certificate, Timestamp, names};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::known::read_receipt;
use crate::lead::publish_task;
use crate::survey::{Survey, settings_of};

/// Names in one task, so that messages stay small.
const OBJECTS_PER_TASK: usize = 500;
/// Answers that wait to be looked at. Those beyond are dropped, and their tasks published again.
pub(crate) const ANSWERS_IN_FLIGHT: usize = 256;
/// How often tasks are looked at when nothing is answered.
const TICK: Duration = Duration::from_millis(500);
/// The wait after the first failed attempt, doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Doublings of the wait.
const MOST_DOUBLINGS: u32 = 5;

/// What a worker says about a task to restore.
pub(crate) struct Answer {
    pub(crate) address: PartitionAddress,
    /// `None` for a sign of life.
    pub(crate) result: Option<TaskResult>,
}

/// Publishes tasks to restore, and waits for what becomes of them.
pub(crate) struct Restorer {
    pub(crate) store: Store,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) identity: ArchiveIdentity,
    /// After this long without a sign of life a task is published again, when the queue is empty.
    pub(crate) silence: Duration,
    /// How often a task is tried.
    pub(crate) attempts: u32,
    /// The end of the window whose objects they are.
    pub(crate) window: Timestamp,
    /// The span of the plan that it is for.
    pub(crate) trace: Span,
    pub(crate) answers: mpsc::Receiver<Answer>,
}

/// A task that is not done.
struct Waiting {
    task: Task,
    /// When it was published or its worker last gave a sign of life; `None` when it is due.
    last_sign: Option<Instant>,
    not_before: Instant,
}

impl Restorer {
    /// Has everything that `survey` found gone or damaged made again, as far as that is possible,
    /// and looks again: what `survey` names then is to be repaired in another way. The number of
    /// objects that are whole again.
    pub(crate) async fn restore(mut self, survey: &mut Survey) -> Result<u64, BackendError> {
        let before = survey.damaged.len() + survey.lost_big_files.len();
        let mut asked = HashSet::new();
        loop {
            let tasks = self.tasks(survey, &mut asked).await?;
            if tasks.is_empty() {
                break;
            }
            info!(window = %self.window, trace_id = self.trace.trace_id(),
                tasks = tasks.len(), "objects are being made again under their own names");
            self.carry_out(tasks).await;
        }
        if before > 0 {
            survey.look_again(&self.store).await?;
        }
        let after = survey.damaged.len() + survey.lost_big_files.len();
        Ok(before.saturating_sub(after) as u64)
    }

    /// A task for each partition that has objects nobody was asked for yet.
    async fn tasks(
        &self,
        survey: &Survey,
        asked: &mut HashSet<String>,
    ) -> Result<Vec<Task>, BackendError> {
        let shards = survey.damaged.iter().map(|shard| &shard.key);
        let big_files = survey.lost_big_files.iter().map(|big| &big.key);
        let mut wanted: HashSet<&String> = shards.chain(big_files).collect();
        wanted.retain(|key| !asked.contains(*key));
        let mut tasks = Vec::new();
        for certificate in &survey.certificates {
            let shards = certificate.shards.iter().map(|shard| &shard.key);
            let mut named = shards.chain(certificate.big_files.iter().map(|big| &big.key));
            if !named.any(|key| wanted.contains(key)) {
                continue;
            }
            for partition in &certificate.partitions {
                let receipt = read_receipt(&self.store, &partition.receipt).await?;
                let Some(receipt) = receipt else { continue };
                let shards = receipt.shards.into_iter().map(|shard| shard.key);
                let big_files = receipt.big_files.into_iter().map(|big| big.key);
                let objects = shards.chain(big_files).filter(|key| wanted.contains(key));
                let objects: Vec<String> = objects.take(OBJECTS_PER_TASK).collect();
                if objects.is_empty() {
                    continue;
                }
                asked.extend(objects.iter().cloned());
                tasks.extend(self.task(certificate, partition, objects).await?);
            }
        }
        Ok(tasks)
    }

    /// `None` where the manifest is gone or damaged.
    async fn task(
        &self,
        certificate: &Certificate,
        partition: &PartitionRef,
        objects: Vec<String>,
    ) -> Result<Option<Task>, BackendError> {
        let settings = match settings_of(&self.store, &partition.manifest).await {
            Ok(settings) => settings,
            Err(error) if error.is_lost_or_damaged() => {
                warn!(window = %self.window, partition = partition.partition,
                    trace_id = self.trace.trace_id(), "its shards cannot be made again: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(manifest_hash) = names::content_hash(&partition.manifest) else { return Ok(None) };
        Ok(Some(Task {
            version: Task::VERSION,
            address: PartitionAddress {
                archive: self.identity.archive.clone(),
                job: self.identity.job.clone(),
                window: certificate.window,
                revision: certificate.revision,
                partition: partition.partition,
                manifest_hash,
            },
            attempt: 1,
            manifest: partition.manifest.clone(),
            rows: partition.rows.rows,
            range: partition.range,
            settings,
            last_attempt: false,
            avoid: None,
            restore: Some(Restore { receipt: partition.receipt.clone(), objects }),
        }))
    }

    /// Publishes the tasks until each is answered, or used up its attempts.
    async fn carry_out(&mut self, tasks: Vec<Task>) {
        let now = Instant::now();
        let wait = |task| Waiting { task, last_sign: None, not_before: now };
        let mut waiting: Vec<Waiting> = tasks.into_iter().map(wait).collect();
        while !waiting.is_empty() {
            for it in &mut waiting {
                if it.last_sign.is_none() && it.not_before <= Instant::now() {
                    if let Err(error) = publish_task(&*self.queue, &it.task, &self.trace).await {
                        // What was verified so far is not to be verified again for that.
                        warn!("a task to restore was not published, and will be again: {error}");
                        it.not_before = Instant::now() + FIRST_WAIT;
                        // The others would wait for the same broker as long.
                        break;
                    }
                    it.last_sign = Some(Instant::now());
                }
            }
            match tokio::time::timeout(TICK, self.answers.recv()).await {
                Ok(Some(answer)) => self.take(answer, &mut waiting),
                // Nobody leads any more, so that nobody is to be waited for.
                Ok(None) => return,
                Err(_elapsed) => self.find_silent(&mut waiting).await,
            }
        }
    }

    fn take(&self, answer: Answer, waiting: &mut Vec<Waiting>) {
        let Some(at) = waiting.iter().position(|it| it.task.address == answer.address) else {
            return;
        };
        let it = &mut waiting[at];
        let (window, partition) = (self.window, it.task.address.partition);
        let why = match answer.result {
            None => {
                it.last_sign = Some(Instant::now());
                return;
            }
            Some(TaskResult::Restored { objects }) => {
                info!(window = %window, partition, trace_id = self.trace.trace_id(),
                    objects = objects.len(), "restored");
                waiting.swap_remove(at);
                return;
            }
            Some(TaskResult::Returned) => {
                it.last_sign = None;
                return;
            }
            Some(TaskResult::Retry { detail, .. } | TaskResult::Refused { detail }) => detail,
            Some(TaskResult::Interrupted) => "a worker ended while it had the task".to_owned(),
            Some(TaskResult::Done { .. }) => {
                "a worker of an older release, which cannot restore".to_owned()
            }
        };
        info!(window = %window, partition, trace_id = self.trace.trace_id(),
            attempt = it.task.attempt, "{why}");
        if it.task.attempt >= self.attempts {
            waiting.swap_remove(at);
            return;
        }
        let doublings = (it.task.attempt - 1).min(MOST_DOUBLINGS);
        it.not_before = Instant::now() + FIRST_WAIT * 2_u32.pow(doublings);
        it.task.attempt += 1;
        it.last_sign = None;
    }

    /// Marks as due what was published, gives no sign of life and is not waiting in the queue.
    async fn find_silent(&self, waiting: &mut [Waiting]) {
        let is_silent =
            |it: &Waiting| it.last_sign.is_some_and(|sign| sign.elapsed() > self.silence);
        if !waiting.iter().any(is_silent) {
            return;
        }
        if !matches!(self.queue.depth(Lane::Tasks).await, Ok(depth) if depth.ready == 0) {
            return;
        }
        for it in waiting.iter_mut().filter(|it| is_silent(it)) {
            it.last_sign = None;
        }
    }
}
