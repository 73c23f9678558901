//! Publishing tasks, and signs of life from those who execute them.

use std::time::Instant;

use backends::queue::{Delivery, Lane, OutgoingMessage};
use backends::trace::{Span, SpanKind};
use backends::{BackendError, TaskQueue, crash};
use futures::{StreamExt, stream};
use protocol::message::{Progress, Task};
use protocol::{PartitionId, Timestamp, WindowKey};
use tracing::{info, warn};

use super::waits::What;
use super::{Leader, TICK};
use crate::attempts::{READING, UNPUBLISHED, next_alone, worker_to_avoid};
use crate::flight::OpenWindow;
use crate::metrics;
use crate::service::Event;

/// Class of what is recorded of a partition whose worker hangs no more.
const RESUMED: &str = "resumed";
/// Tasks published at a time.
const PUBLISHES_IN_FLIGHT: usize = 64;

/// Publishes a task, with the headers by which people tell fleets apart and, below `trace`, spans
/// meet in one trace.
pub(crate) async fn publish_task(
    queue: &dyn TaskQueue,
    task: &Task,
    trace: &Span,
) -> Result<(), BackendError> {
    let address = &task.address;
    let span = trace
        .child_of_kind("publish", SpanKind::Producer)
        .with("job", &address.job)
        .with("window", address.window.end())
        .with_count("partition", address.partition.into())
        .with_count("attempt", task.attempt.into())
        .with_count("rows", task.rows);
    let mut headers = vec![
        ("archive".to_owned(), address.archive.to_string()),
        ("job".to_owned(), address.job.to_string()),
    ];
    headers.extend(span.headers());
    let message = OutgoingMessage { kind: Task::KIND.to_owned(), body: task.encode(), headers };
    let published = queue.publish(Lane::Tasks, message).await;
    if published.is_err() {
        span.fail("not confirmed");
    }
    published
}

impl Leader<'_> {
    pub(super) async fn publish_due(&mut self) -> Result<(), BackendError> {
        if !self.may_begin() || Instant::now() < self.publish_from {
            return Ok(());
        }
        if self.flight.due(Timestamp::MAX).is_empty() {
            self.unpublished = None;
            return Ok(());
        }
        let now = self.it.ledger.now().await?;
        let mut due = self.flight.due(now);
        // What is to be isolated, and cannot be yet, is tried no more meanwhile.
        due.retain(|at| !self.is_to_be_isolated(*at));
        let due = self.within_this_process(due);
        let due = self.within_rates(due);
        self.note_under_way(&due).await?;
        let mut tasks: Vec<_> = due.iter().filter_map(|&at| Some((at, self.task(at)?))).collect();
        self.let_others_look(&mut tasks).await;
        let it = self.it;
        crash::point("before_publish");
        let published = stream::iter(tasks)
            .map(|(at, task)| async move {
                (at, publish_task(&*it.queue, &task, &it.trace(at.0)).await)
            })
            .buffer_unordered(PUBLISHES_IN_FLIGHT);
        futures::pin_mut!(published);
        while let Some(((window, partition), result)) = published.next().await {
            if let Err(error) = result {
                // The others would wait for the same broker as long, one batch after the other.
                warn!(window = %window.end, partition, trace_id = self.trace_id(window),
                    "a task was not published, and will be again: {error}");
                self.tell(Event::Waiting { reason: error.to_string() });
                self.unpublished = Some(error.to_string());
                self.publish_from = Instant::now() + TICK;
                self.note_published((window, partition), Some(&error)).await?;
                break;
            }
            metrics::published();
            self.unpublished = None;
            self.note_published((window, partition), None).await?;
            if let Some(open) = self.flight.partition_mut(window, partition) {
                open.note_published();
                open.charge = Some(self.throttling.rates.charge(open.record.rows.rows));
            }
        }
        crash::point("after_publish");
        Ok(())
    }

    fn is_to_be_isolated(&self, (key, partition): (WindowKey, PartitionId)) -> bool {
        let settings = &self.it.settings;
        let is_used_up = |window: &OpenWindow| {
            window.is_used_up(partition, settings.attempts, settings.failures)
        };
        self.waits.has(|what| what == What::Isolate(key))
            && self.flight.windows.get(&key).is_some_and(is_used_up)
    }

    /// Records that the broker does not take a task, or took it after all, for whoever asks why
    /// nothing moves.
    async fn note_published(
        &mut self,
        (window, partition): (WindowKey, PartitionId),
        refused: Option<&BackendError>,
    ) -> Result<(), BackendError> {
        let Some(open) = self.flight.partition_mut(window, partition) else { return Ok(()) };
        let known = open.record.trouble.as_ref().filter(|(class, _)| class == UNPUBLISHED);
        let (class, detail) = match (refused, known) {
            (Some(error), None) => (UNPUBLISHED, format!("its task waits: {error}")),
            (None, Some((_, detail))) => (RESUMED, format!("published since; before, {detail}")),
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        let ledger = &self.it.ledger;
        ledger.note_trouble(&self.lease, window, partition, (class, &detail)).await?;
        open.record.trouble = Some((class.to_owned(), detail));
        Ok(())
    }

    /// Where workers are threads of this very process, nobody is left to tell what it died over: so
    /// only as much is published as they take at a time, and that is written down before.
    fn within_this_process(
        &self,
        due: Vec<(WindowKey, PartitionId)>,
    ) -> Vec<(WindowKey, PartitionId)> {
        let Some(at_a_time) = self.it.queue.tasks_at_a_time() else { return due };
        let interruptions = |(window, partition): &(WindowKey, PartitionId)| {
            let window = self.flight.windows.get(window)?;
            let mut records = window.partitions.iter().map(|open| &open.record);
            records.find(|it| it.partition == *partition).map(|it| it.interruptions)
        };
        let due = due.into_iter().map(|at| (at, interruptions(&at).unwrap_or_default())).collect();
        next_alone(due, &self.flight.under_way(), at_a_time)
    }

    /// Writes down what this very process is about to work on.
    async fn note_under_way(&self, next: &[(WindowKey, PartitionId)]) -> Result<(), BackendError> {
        if self.it.queue.tasks_at_a_time().is_some() && !next.is_empty() {
            self.it.ledger.note_under_way(&self.lease, next).await?;
        }
        Ok(())
    }

    fn task(&self, (window, partition): (WindowKey, PartitionId)) -> Option<Task> {
        let settings = &self.it.settings;
        let open = self.flight.windows.get(&window)?;
        open.task(&self.it.identity, partition, settings.attempts, settings.failures)
    }

    /// Says in the tasks of partitions that are looked at a second time whose look was the first,
    /// where there are others. Of a broker that does not answer nothing is known: any worker will
    /// do.
    async fn let_others_look(&mut self, tasks: &mut [((WindowKey, PartitionId), Task)]) {
        let mut workers = None;
        for ((window, partition), task) in tasks {
            let Some(open) = self.flight.partition_mut(*window, *partition) else { continue };
            if worker_to_avoid(&open.record, open.given_back, u64::MAX).is_none() {
                continue;
            }
            let workers = match workers {
                Some(known) => known,
                None => {
                    let depth = self.it.queue.depth(Lane::Tasks).await.unwrap_or_default();
                    *workers.insert(depth.consumers)
                }
            };
            task.avoid = worker_to_avoid(&open.record, open.given_back, workers);
        }
    }

    /// Publishes again what was published, gives no sign of life, and is not waiting in the queue.
    pub(super) async fn republish_silent(&mut self) -> Result<(), BackendError> {
        self.it.board.publishes(self.flight.published());
        let silent = self.flight.silent(self.it.settings.silence);
        if silent.is_empty() || !self.may_begin() {
            return Ok(());
        }
        match self.it.queue.depth(Lane::Tasks).await {
            Ok(depth) if depth.ready == 0 => {}
            // Waiting is no trouble; and of a broker that does not answer nothing is known.
            Ok(_) | Err(_) => return Ok(()),
        }
        for (window, partition) in silent {
            info!(window = %window.end, partition, trace_id = self.trace_id(window),
                "no sign of life: publishing again");
            if let Some(open) = self.flight.partition_mut(window, partition) {
                open.last_sign = None;
            }
        }
        Ok(())
    }

    pub(super) async fn take_progress(&mut self, delivery: Delivery) -> Result<(), BackendError> {
        if let Ok(progress) = Progress::decode(&delivery.body)
            && self.is_ours(&progress.address)
        {
            self.it.board.heard(&progress);
            let key = WindowKey::new(progress.address.window, progress.address.revision);
            let (mut read, mut waits) = (None, false);
            if let Some(open) = self.flight.partition_mut(key, progress.address.partition)
                && open.may_be_under_way(&progress.worker, progress.attempt)
            {
                open.note_sign();
                let rows = progress.rows.saturating_sub(open.reported.0);
                let bytes = progress.bytes.saturating_sub(open.reported.1);
                open.reported = (progress.rows, progress.bytes);
                read = Some(Event::Read { rows, bytes });
                let hangs_in = progress.reading.as_ref().map(|reading| &reading.location);
                waits = open.hangs_in.as_ref() != hangs_in;
            } else {
                self.offer(&progress.address, None);
            }
            if let Some(read) = read {
                self.tell(read);
            }
            if waits {
                self.note_reading(key, &progress).await?;
            }
        }
        delivery.settle.ack().await;
        Ok(())
    }

    /// Records which file a worker hangs in, or that it could go on, for whoever asks why nothing
    /// moves.
    async fn note_reading(
        &mut self,
        window: WindowKey,
        progress: &Progress,
    ) -> Result<(), BackendError> {
        let (worker, partition) = (&progress.worker, progress.address.partition);
        let now = self.it.ledger.now().await?;
        let Some(open) = self.flight.partition_mut(window, partition) else { return Ok(()) };
        let (class, detail) = match (&progress.reading, open.hangs_in.take()) {
            (Some(reading), _) => {
                let took = i64::try_from(reading.seconds).unwrap_or(i64::MAX);
                let since = now.saturating_add_micros(took.saturating_mul(-1_000_000));
                let since = since.floor_to(1_000_000);
                open.hangs_in = Some(reading.location.clone());
                let detail = format!(
                    "{worker} has been reading {} (uid {:?}) since {since}: does its file system \
                     answer? It is waited for, and given back when the worker is stopped",
                    reading.location, reading.uid
                );
                (READING, detail)
            }
            (None, Some(location)) => {
                (RESUMED, format!("{worker} went on after it had hung in {location}"))
            }
            (None, None) => return Ok(()),
        };
        let trouble = (class.to_owned(), detail);
        let ledger = &self.it.ledger;
        let told = (trouble.0.as_str(), trouble.1.as_str());
        ledger.note_trouble(&self.lease, window, partition, told).await?;
        if open.hangs_in.is_some() {
            let reason = trouble.1.clone();
            warn!(window = %window.end, partition, trace_id = self.it.trace(window).trace_id(),
                "{reason}");
            let _nobody_listens = self.it.events.send(Event::Waiting { reason });
        }
        open.record.trouble = Some(trouble);
        Ok(())
    }
}
