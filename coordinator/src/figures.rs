//! Figures of the archive, read from the ledger, the catalog and the broker at a slow rhythm by
//! whoever leads, so that they are right after a takeover and cost the same however often they are
//! looked at.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::ledger::WindowState;
use backends::queue::{Lane, QueueDepth};
use backends::{BackendError, Catalog, Ledger, TaskQueue};
use futures::future::{BoxFuture, join_all};
use metrics::{Unit, describe_gauge, gauge};
use protocol::{FailureReason, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::board::Board;
use crate::cutting::cutoff;
use crate::explain::{Partitions, count_partitions};
use crate::findings::dropped_passes;
use crate::pause::standing;
use crate::throttle::{Reason, waited_for};

/// How often the ledger is read, at most.
const EVERY: Duration = Duration::from_secs(5);
/// Reading takes at most this part of the time: one in so many.
const SHARE: u32 = 20;
/// However long reading takes, it is done again after so long: alerts and whoever scales workers rely
/// on figures that are younger than what a board still shows.
const SELDOM: Duration = Duration::from_secs(30);
/// How often due rows are counted while the watermark stands.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// Rows that are counted within so long are in the figures that are read meanwhile. Counting goes on
/// beside, and takes its own share of the time.
const COUNT_WAIT: Duration = Duration::from_millis(500);
/// How long the broker may take to tell the depth of a queue, and the catalog its clock.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Over so long the pace is measured.
const PACE_OVER: Duration = Duration::from_secs(600);
/// How often there is something to do.
const TICK: Duration = Duration::from_millis(500);
/// Open windows whose partitions are counted.
const WINDOWS_LOOKED_AT: usize = 50;
const TASKS: &str = "tasks";
const QUEUES: [(&str, Lane); 3] =
    [(TASKS, Lane::Tasks), ("outcomes", Lane::Outcomes), ("dead", Lane::Dead)];

/// The figures of one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Where the watermark stands.
    pub archived_until: Option<Timestamp>,
    /// Seconds from the watermark to how far windows may reach.
    pub lag_seconds: i64,
    /// Rows between these two, when they were last counted.
    pub pending_files: Option<u64>,
    /// Seconds that they will take at the pace of the last ten minutes; `None` where nothing moved.
    pub backlog_seconds: Option<f64>,
    /// Whether an operator paused.
    pub paused: bool,
    /// What is waited for because of limits: a [`Reason::kind`].
    pub throttled: Option<String>,
    /// Windows that are not committed: requested, open, held.
    pub windows: [u64; 3],
    /// Committed windows whose last pass was dropped.
    pub dropped: u64,
    /// Partitions of open windows.
    pub partitions: Partitions,
    /// Unresolved error rows by reason.
    pub errors: Vec<(String, u64)>,
    /// Queues that the broker told of.
    pub queues: Vec<(&'static str, QueueDepth)>,
    /// Tasks that workers hold unacked, as far as that follows from what is known; `None` where the
    /// broker did not tell how many wait.
    pub tasks_unacked: Option<u64>,
}

impl Figures {
    /// Whether limits let nothing at all be begun.
    fn is_stopped(&self) -> bool {
        self.throttled.as_deref().is_some_and(|kind| !Reason::is_rate(kind))
    }

    /// Sets gauges of the recorder that is in use where this is called.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn tell(&self) {
        describe();
        if let Some(until) = self.archived_until {
            let seconds = until.as_micros() as f64 / 1e6;
            gauge!("des_watermark_timestamp_seconds").set(seconds);
        }
        gauge!("des_watermark_lag_seconds").set(self.lag_seconds as f64);
        if let Some(files) = self.pending_files {
            gauge!("des_migration_files_pending").set(files as f64);
        }
        if let Some(seconds) = self.backlog_seconds {
            gauge!("des_backlog_seconds").set(seconds);
        }
        gauge!("des_paused").set(f64::from(u8::from(self.paused)));
        for kind in Reason::KINDS {
            let holds = self.throttled.as_deref() == Some(kind);
            gauge!("des_throttled", "reason" => kind).set(f64::from(u8::from(holds)));
        }
        for (state, count) in ["requested", "open", "held"].into_iter().zip(self.windows) {
            gauge!("des_windows", "state" => state).set(count as f64);
        }
        gauge!("des_windows_dropped").set(self.dropped as f64);
        let Partitions { all: _, accepted, to_do, backing_off } = self.partitions;
        for (state, count) in
            [("accepted", accepted), ("to_do", to_do), ("backing_off", backing_off)]
        {
            gauge!("des_partitions", "state" => state).set(count as f64);
        }
        for reason in FailureReason::ALL {
            let found = self.errors.iter().find(|(known, _)| known == reason.as_str());
            let count = found.map_or(0, |(_, count)| *count);
            gauge!("des_errors", "reason" => reason.as_str()).set(count as f64);
        }
        for (queue, depth) in &self.queues {
            gauge!("des_queue_ready", "queue" => *queue).set(depth.ready as f64);
            gauge!("des_queue_consumers", "queue" => *queue).set(depth.consumers as f64);
        }
        if let Some(unacked) = self.tasks_unacked {
            gauge!("des_queue_unacked", "queue" => TASKS).set(unacked as f64);
        }
    }
}

/// Sets the gauge of how long ago the figures were read, or, where they never were, of how long they
/// could have been.
pub fn tell_age(age: Duration) {
    describe_gauge!("des_figures_age_seconds", Unit::Seconds, "Since the ledger was read");
    gauge!("des_figures_age_seconds").set(age.as_secs_f64());
}

fn describe() {
    describe_gauge!("des_watermark_timestamp_seconds", Unit::Seconds, "The watermark, Unix time");
    describe_gauge!("des_watermark_lag_seconds", Unit::Seconds, "From the watermark to the target");
    describe_gauge!("des_migration_files_pending", Unit::Count, "Rows that are due");
    describe_gauge!("des_backlog_seconds", Unit::Seconds, "How long they take at this pace");
    describe_gauge!("des_paused", Unit::Count, "1 while an operator paused, else 0");
    describe_gauge!("des_throttled", Unit::Count, "1 while limits make work wait for this reason");
    describe_gauge!("des_windows", Unit::Count, "Windows that are not committed");
    describe_gauge!("des_windows_dropped", Unit::Count, "Windows whose last pass was dropped");
    describe_gauge!("des_partitions", Unit::Count, "Partitions of open windows");
    describe_gauge!("des_errors", Unit::Count, "Unresolved rows of des_migration_errors");
    describe_gauge!("des_queue_ready", Unit::Count, "Messages that wait for a consumer");
    describe_gauge!("des_queue_consumers", Unit::Count, "Consumers of a queue");
    describe_gauge!("des_queue_unacked", Unit::Count, "Tasks published, not waiting, not answered");
}

/// Reads figures for a board, again and again.
pub struct Watch {
    board: Board,
    ledger: Arc<dyn Ledger>,
    catalog: Arc<dyn Catalog>,
    queue: Arc<dyn TaskQueue>,
    window_span_micros: i64,
    counted: Option<Counted>,
    counting: Option<AbortOnDropHandle<Counted>>,
    pace: VecDeque<(Instant, u64)>,
}

/// Due rows as they were last counted, and of what stretch.
struct Counted {
    stretch: (Timestamp, Timestamp),
    /// `None` where the catalog did not answer, which takes time as well.
    files: Option<u64>,
    at: Instant,
    took: Duration,
}

impl Watch {
    /// Reads for `board`; windows end on multiples of `window_span_micros`.
    pub fn new(
        board: Board,
        ledger: Arc<dyn Ledger>,
        catalog: Arc<dyn Catalog>,
        queue: Arc<dyn TaskQueue>,
        window_span_micros: i64,
    ) -> Self {
        let (counted, counting, pace) = (None, None, VecDeque::new());
        Self { board, ledger, catalog, queue, window_span_micros, counted, counting, pace }
    }

    /// Reads until `stop`, while the board's process is the one to show figures.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(self.go_on(stop))
    }

    async fn go_on(mut self, stop: CancellationToken) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
            if !self.board.may_show() {
                self.board.show(None);
                (self.counted, self.counting, next) = (None, None, Instant::now());
                self.pace.clear();
                continue;
            }
            if Instant::now() < next {
                continue;
            }
            let began = Instant::now();
            let read = tokio::select! {
                () = stop.cancelled() => return,
                read = self.read() => read,
            };
            match read {
                Ok(figures) => self.board.show(figures),
                // What is wrong is told by whoever leads; figures grow old meanwhile.
                Err(error) => debug!("figures were not read: {error}"),
            }
            next = Instant::now() + (began.elapsed() * SHARE).clamp(EVERY, SELDOM);
        }
    }

    /// `None` when another process leads, so that they are not ours to show.
    async fn read(&mut self) -> Result<Option<Figures>, BackendError> {
        let ledger = Arc::clone(&self.ledger);
        let (Some(watermark), now) = (ledger.watermark().await?, ledger.now().await?) else {
            return Ok(None);
        };
        if self.board.is_resting() {
            let lease = ledger.lease_status().await?;
            if lease.is_some_and(|it| it.holder.is_some() && it.expires_at > now) {
                return Ok(None);
            }
        }
        let until = watermark.archived_until;
        let mut figures = Figures { archived_until: Some(until), ..Figures::default() };
        figures.paused = standing(&*ledger).await?.is_some();
        figures.throttled = waited_for(&*ledger).await?.map(|waits| waits.kind);
        for (number, record) in ledger.open_windows().await?.iter().enumerate() {
            let state = match record.state {
                WindowState::Requested => 0,
                WindowState::Open => 1,
                WindowState::Held => 2,
                WindowState::Committed => continue,
            };
            figures.windows[state] += 1;
            if state > 0 && number < WINDOWS_LOOKED_AT {
                let partitions = ledger.partitions(record.key()).await?;
                figures.partitions.add(count_partitions(&partitions, now));
            }
        }
        figures.dropped = dropped_passes(&*ledger, u32::MAX).await?.len() as u64;
        figures.errors = ledger.errors_by_reason().await?;
        // A catalog that does not answer leaves the target where the ledger's clock puts it.
        let clock = tokio::time::timeout(ASK_LIMIT, self.catalog.now()).await;
        let clock = clock.map_or(now, |clock| clock.unwrap_or(now));
        let target = cutoff(clock, now, watermark.lag_days, None, self.window_span_micros);
        figures.lag_seconds = target.seconds_since(until).max(0);
        self.count(&mut figures, (until, target)).await;
        figures.backlog_seconds = self.backlog(&figures);
        let depths = join_all(QUEUES.map(|(name, lane)| {
            let depth = tokio::time::timeout(ASK_LIMIT, self.queue.depth(lane));
            async move { Some((name, depth.await.ok()?.ok()?)) }
        }));
        figures.queues = depths.await.into_iter().flatten().collect();
        let waiting = figures.queues.iter().find(|(queue, _)| *queue == TASKS);
        let taken_out = figures.paused || figures.is_stopped();
        figures.tasks_unacked =
            waiting.map(|(_, depth)| self.board.tasks().unacked(depth.ready, taken_out));
        Ok(Some(figures))
    }

    /// Has counted what is due, unless that was done a moment ago; not while paused, or while limits
    /// let nothing be begun, when the catalog is to be left alone. What takes long is known to figures
    /// that are read later.
    async fn count(&mut self, figures: &mut Figures, stretch: (Timestamp, Timestamp)) {
        let due = self.counted.as_ref().is_none_or(|it| {
            let pause = if it.stretch == stretch { COUNT_EVERY } else { EVERY };
            it.at.elapsed() >= pause.max(it.took * SHARE)
        });
        let left_alone = figures.is_stopped();
        if due && !figures.paused && !left_alone && self.counting.is_none() {
            let counting = tokio::spawn(count(Arc::clone(&self.catalog), stretch));
            self.counting = Some(AbortOnDropHandle::new(counting));
        }
        if let Some(counting) = &mut self.counting
            && let Ok(counted) = tokio::time::timeout(COUNT_WAIT, counting).await
        {
            self.counting = None;
            self.counted = counted
                .inspect_err(|panicked| debug!("due rows were not counted: {panicked}"))
                .ok();
        }
        // Nothing is due behind the target, whenever that was counted.
        let nothing = (stretch.0 >= stretch.1).then_some(0);
        figures.pending_files = nothing.or(self.counted.as_ref().and_then(|it| it.files));
    }

    /// How long what is due takes at the pace at which receipts were accepted lately.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn backlog(&mut self, figures: &Figures) -> Option<f64> {
        let now = Instant::now();
        self.pace.push_back((now, self.board.accepted_rows()));
        // However seldom they were read, there is one to compare with.
        while self.pace.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= PACE_OVER) {
            self.pace.pop_front();
        }
        let pending = figures.pending_files?;
        if pending == 0 {
            return Some(0.0);
        }
        let (from, to) = (self.pace.front()?, self.pace.back()?);
        let rows = to.1.saturating_sub(from.1);
        let seconds = to.0.duration_since(from.0).as_secs_f64();
        (rows > 0 && !figures.paused).then(|| pending as f64 * seconds / rows as f64)
    }
}

/// Counts the rows of a stretch.
async fn count(catalog: Arc<dyn Catalog>, stretch: (Timestamp, Timestamp)) -> Counted {
    let began = Instant::now();
    let files = match stretch.0 < stretch.1 {
        true => catalog.count_files(Some(stretch.0), Some(stretch.1)).await,
        false => Ok(0),
    };
    let files = files.inspect_err(|error| debug!("due rows were not counted: {error}")).ok();
    Counted { stretch, files, at: Instant::now(), took: began.elapsed() }
}

#[cfg(test)]
mod tests;
