//! The worker's life: consume, execute, answer, drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use backends::queue::{Delivery, Lane, OutgoingMessage};
use backends::trace::{Span, SpanKind};
use backends::{Store, TaskQueue, crash, sabotage};
use futures::future::BoxFuture;
use protocol::message::{Outcome, Progress, RetryClass, Task, TaskResult};
use protocol::{ArchiveIdentity, WorkerId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::field::display;
use tracing::{info, warn};

use crate::metrics::{self, Held};
use crate::pack::{Counters, PackBuffers, PackLimits, check_spool};
use crate::source::Sources;
use crate::task::{TaskContext, execute};

/// How often a running task tells that it is alive.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Wait between two tries to publish an outcome.
const PUBLISH_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// What remains of the drain timeout for giving back what was not finished.
const GIVE_BACK_TIME: Duration = Duration::from_secs(10);
/// How long a worker that cannot work keeps its slot, so that tasks go to others.
const UNFIT_PAUSE: Duration = Duration::from_secs(5);
/// The largest part of an unreadable message that goes into its dead letter.
const DEAD_LETTER_BYTES: usize = 64 * 1024;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Tasks executed at a time.
    pub slots: u16,
    /// Memory of all slots together, in bytes.
    pub memory: usize,
    /// Threads per slot that read and compress.
    pub readers: usize,
    /// Directory for spool files.
    pub spool_dir: PathBuf,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// How running tasks are told that they are wanted no more.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    /// To give up between two files.
    cancel: Arc<AtomicBool>,
    /// To be given back whatever it hangs in.
    abandon: CancellationToken,
}

/// One worker process's worker.
pub struct Worker {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) context: Arc<TaskContext>,
    pub(crate) settings: WorkerSettings,
}

impl Worker {
    /// A worker for the archive that `identity` names.
    ///
    /// # Errors
    /// When no spool file can be made.
    pub fn new(
        id: WorkerId,
        identity: ArchiveIdentity,
        store: Store,
        queue: Arc<dyn TaskQueue>,
        sources: Sources,
        settings: WorkerSettings,
    ) -> anyhow::Result<Self> {
        check_spool(&settings.spool_dir).with_context(|| {
            format!(
                "cannot make a spool file in {}; see worker.spool_dir",
                settings.spool_dir.display()
            )
        })?;
        let slots = usize::from(settings.slots.max(1));
        let memory = settings.memory / slots;
        let limits = PackLimits {
            memory,
            readers: settings.readers,
            spool_dir: settings.spool_dir.clone(),
            buffers: PackBuffers::new(slots, memory, settings.readers),
        };
        let sources = Arc::new(sources);
        let context = Arc::new(TaskContext { identity, store, sources, limits, worker: id });
        Ok(Self { queue, context, settings })
    }

    /// Works until `shutdown`, then finishes or gives back what it holds within the drain timeout.
    ///
    /// # Errors
    /// When the queue cannot be consumed at all, or a task's handler panics.
    pub fn run(self, shutdown: CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> {
        Box::pin(self.work(shutdown))
    }

    async fn work(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut tasks = self.queue.consume(Lane::Tasks, self.settings.slots).await?;
        let _slots = Held::slots(self.settings.slots);
        let stop = Stop::default();
        let mut running = JoinSet::new();
        info!(worker = %self.context.worker, slots = self.settings.slots, "worker ready");
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = running.join_next() => ended.context("a task's handler panicked")?,
                // After a broken channel the broker hands over anew what is still being done.
                delivery = tasks.next(), if running.len() < usize::from(self.settings.slots) => {
                    let (queue, context) = (Arc::clone(&self.queue), Arc::clone(&self.context));
                    running.spawn(handle(queue, context, delivery, stop.clone()));
                }
            }
        }
        // The consumer lives on, since what is running is acked through it.
        let unbegun = tasks.stop().await.into_iter().map(|delivery| Unbegun {
            queue: Arc::clone(&self.queue),
            worker: self.context.worker.clone(),
            delivery,
        });
        drain(unbegun.collect(), running, &stop, self.settings.drain_timeout).await;
        Ok(())
    }
}

/// What the broker handed over and nobody began.
pub(crate) struct Unbegun {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) worker: WorkerId,
    pub(crate) delivery: Delivery,
}

impl Unbegun {
    pub(crate) async fn give_back(self) {
        let Self { queue, worker, delivery } = self;
        if let Some(task) = parse(&*queue, &delivery.kind, &delivery.body).await {
            let span = begin(&delivery, &task, &worker);
            answer(&*queue, &worker, &task, TaskResult::Returned, &span).await;
        }
        delivery.settle.ack().await;
    }
}

/// Finishes what runs, or gives it back in time; what nobody began is given back at once.
pub(crate) async fn drain<T: Default + Send + 'static>(
    unbegun: Vec<Unbegun>,
    mut running: JoinSet<T>,
    stop: &Stop,
    drain_timeout: Duration,
) {
    info!(running = running.len(), "draining: no new tasks are begun");
    let deadline = tokio::time::Instant::now() + drain_timeout;
    for unbegun in unbegun {
        running.spawn(async move {
            unbegun.give_back().await;
            T::default()
        });
    }
    let finish_by = deadline - GIVE_BACK_TIME.min(drain_timeout / 2);
    let finished = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout_at(finish_by, finished).await.is_err() {
        info!(running = running.len(), "drain timeout: giving back what is not finished");
        stop.cancel.store(true, Ordering::Relaxed);
        let mut given_back = async || while running.join_next().await.is_some() {};
        // A read that hangs never sees that it is cancelled.
        let willing = finish_by + (deadline - finish_by) / 2;
        let given_back = async {
            if tokio::time::timeout_at(willing, given_back()).await.is_err() {
                stop.abandon.cancel();
                given_back().await;
            }
        };
        if tokio::time::timeout_at(deadline, given_back).await.is_err() {
            warn!("could not give everything back in time; the coordinator will notice");
        }
    }
}

/// Handles one delivery to its end: outcome confirmed, then acked.
pub(crate) async fn handle(
    queue: Arc<dyn TaskQueue>,
    context: Arc<TaskContext>,
    delivery: Delivery,
    stop: Stop,
) {
    let Some(task) = parse(&*queue, &delivery.kind, &delivery.body).await else {
        delivery.settle.ack().await;
        return;
    };
    let span = begin(&delivery, &task, &context.worker);
    let (window, partition) = (task.address.window.end(), task.address.partition);
    let trace_id = span.trace_id();
    let mut settle = Some(delivery.settle);
    if sabotage::is("ack_before_upload")
        && let Some(settle) = settle.take()
    {
        settle.ack().await;
    }
    let result = if delivery.redelivered {
        TaskResult::Interrupted
    } else if task.avoid.as_ref() == Some(&context.worker) {
        TaskResult::Returned
    } else {
        let (_busy, began) = (Held::busy(), Instant::now());
        let counters = Arc::new(Counters::default());
        let heartbeat = tell_progress(&*queue, &context.worker, &task, &counters, &span);
        let shared = (Arc::clone(&counters), Arc::clone(&stop.cancel));
        let work = execute(&context, &task, shared, &span);
        let result = tokio::select! {
            result = work => result,
            never = heartbeat => never,
            () = stop.abandon.cancelled() => {
                warn!(%window, partition, trace_id, "given back while something of it hangs");
                TaskResult::Returned
            }
        };
        metrics::executed(began.elapsed());
        span.note_count("bytes", counters.bytes.load(Ordering::Relaxed));
        result
    };
    match &result {
        TaskResult::Retry { class, detail } => {
            span.fail(class.as_str());
            warn!(%window, partition, trace_id, class = class.as_str(), "{detail}");
        }
        TaskResult::Refused { detail } => {
            span.fail(result.as_str());
            warn!(%window, partition, trace_id, "refused: {detail}");
        }
        TaskResult::Done { .. }
        | TaskResult::Restored { .. }
        | TaskResult::Returned
        | TaskResult::Interrupted => {}
    }
    if matches!(
        result,
        TaskResult::Refused { .. } | TaskResult::Retry { class: RetryClass::Mount, .. }
    ) {
        // This worker cannot do anything: it is not to be the one that is always free.
        tokio::time::sleep(UNFIT_PAUSE).await;
    }
    answer(&*queue, &context.worker, &task, result, &span).await;
    crash::point("before_ack");
    if let Some(settle) = settle
        && !settle.ack().await
    {
        info!(
            %window, partition, trace_id,
            "the task will be delivered again: its connection was lost"
        );
    }
    crash::point("after_ack");
}

/// The span of a task, below that of whoever published it.
fn begin(delivery: &Delivery, task: &Task, worker: &WorkerId) -> Span {
    Span::of_headers(&delivery.headers)
        .child_of_kind("task", SpanKind::Consumer)
        .with("job", &task.address.job)
        .with("window", task.address.window.end())
        .with_count("partition", task.address.partition.into())
        .with_count("attempt", task.attempt.into())
        .with_count("rows", task.rows)
        .with("worker", worker)
}

/// The task in a delivery, or `None` after it was published as a dead letter.
async fn parse(queue: &dyn TaskQueue, kind: &str, body: &[u8]) -> Option<Task> {
    let reason = match Task::decode(body) {
        Ok(task) => return Some(task),
        Err(error) => error.to_string(),
    };
    warn!(kind, "dead letter: {reason}");
    metrics::dead_letter();
    let message = OutgoingMessage {
        kind: kind.to_owned(),
        body: body.iter().copied().take(DEAD_LETTER_BYTES).collect(),
        headers: vec![("reason".to_owned(), reason), ("from".to_owned(), "tasks".to_owned())],
    };
    publish_until_confirmed(queue, Lane::Dead, message, None).await;
    None
}

async fn answer(
    queue: &dyn TaskQueue,
    worker: &WorkerId,
    task: &Task,
    result: TaskResult,
    span: &Span,
) {
    metrics::answered(&result);
    span.note("result", result.as_str());
    let span = span.child_of_kind("answer", SpanKind::Producer);
    let outcome = Outcome {
        version: Outcome::VERSION,
        address: task.address.clone(),
        attempt: task.attempt,
        worker: worker.clone(),
        result,
    };
    let message = OutgoingMessage {
        kind: Outcome::KIND.to_owned(),
        body: outcome.encode(),
        headers: headers(task).into_iter().chain(span.headers()).collect(),
    };
    publish_until_confirmed(queue, Lane::Outcomes, message, Some((task, &span))).await;
}

/// An outcome that is not confirmed would leave the task's partition waiting, so this goes on
/// until it is, or the drain ends it.
async fn publish_until_confirmed(
    queue: &dyn TaskQueue,
    lane: Lane,
    message: OutgoingMessage,
    about: Option<(&Task, &Span)>,
) {
    while let Err(error) = queue.publish(lane, message.clone()).await {
        let window = about.map(|(task, _)| display(task.address.window.end()));
        let partition = about.map(|(task, _)| task.address.partition);
        let trace_id = about.and_then(|(_, span)| span.trace_id());
        warn!(window, partition, trace_id, "publishing again: {error}");
        tokio::time::sleep(PUBLISH_AGAIN_AFTER).await;
    }
}

/// Tells the coordinator every now and then that the task is being worked on. Never returns.
async fn tell_progress(
    queue: &dyn TaskQueue,
    worker: &WorkerId,
    task: &Task,
    counters: &Counters,
    span: &Span,
) -> TaskResult {
    let mut told = None;
    loop {
        let reading = counters.readings.suspicious(Instant::now());
        if let Some(reading) = &reading
            && told.as_ref() != Some(&reading.location)
        {
            warn!(window = %task.address.window.end(), partition = task.address.partition,
                trace_id = span.trace_id(), uid = reading.uid, seconds = reading.seconds,
                "reading {} hangs: does its file system answer?", reading.location);
        }
        told = reading.as_ref().map(|reading| reading.location.clone());
        let progress = Progress {
            version: Progress::VERSION,
            address: task.address.clone(),
            attempt: task.attempt,
            worker: worker.clone(),
            rows: counters.rows.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            reading,
        };
        let message = OutgoingMessage {
            kind: Progress::KIND.to_owned(),
            body: progress.encode(),
            headers: headers(task),
        };
        if let Err(error) = queue.publish(Lane::Progress, message).await {
            tracing::debug!("progress not told: {error}");
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}

fn headers(task: &Task) -> Vec<(String, String)> {
    vec![
        ("archive".to_owned(), task.address.archive.to_string()),
        ("job".to_owned(), task.address.job.to_string()),
    ]
}
