//! The coordinator's life: stand by, lead, stand by again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::ledger::{Lease, Pause, WindowTotals};
use backends::queue::Consumer;
use backends::trace::Span;
use backends::{BackendError, Catalog, Ledger, Store, TaskQueue};
use futures::future::BoxFuture;
use protocol::{ArchiveIdentity, PackSettings, Timestamp, Window, WindowKey, WorkerId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attempts::AttemptLimits;
use crate::behind::is_behind;
use crate::board::Board;
use crate::cutting::{cutoff, waits_for_transactions};
use crate::decide::FailureLimits;
use crate::held::held_windows;
use crate::lead::{Ended, Leader};
use crate::metrics;
use crate::partitions::PartitionLimits;
use crate::pause::standing;
use crate::sabotage;
use crate::split::Splitter;
use crate::throttle::ThrottleSettings;

/// How a coordinator works. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct CoordinatorSettings {
    /// What shards are packed with; `n_bits` is the archive's.
    pub pack: PackSettings,
    /// Windows end on multiples of this since the Unix epoch, in microseconds; whole seconds.
    pub window_span_micros: i64,
    /// Windows worked on at once.
    pub windows_in_flight: usize,
    /// The most that a partition holds.
    pub partition: PartitionLimits,
    /// How long a partition should take: its rows are fewer where they take longer.
    pub partition_time: Duration,
    /// The sort buffer.
    pub sort_memory: usize,
    /// Where sort runs go.
    pub spool_dir: PathBuf,
    /// How long the lease lasts unless it is renewed.
    pub lease_ttl: Duration,
    /// How many files of a window may fail.
    pub failures: FailureLimits,
    /// How often a partition is tried.
    pub attempts: AttemptLimits,
    /// A published partition without a sign of life for this long is published again, when the
    /// task queue is empty.
    pub silence: Duration,
    /// How long after its commit a window is compared with the catalog in full; until then its rows
    /// are counted now and then. `None`: never.
    pub recheck_after: Option<Duration>,
    /// After taking over, how long to listen for tasks that are still being worked on before
    /// publishing them again.
    pub takeover_wait: Duration,
    /// Whether a run with a goal ends when an operator pauses, once nobody is at work any more,
    /// rather than wait until somebody resumes.
    pub leave_when_paused: bool,
    /// How much may be begun, and when.
    pub throttle: ThrottleSettings,
    /// The part of windows that is traced, 0 to 1.
    pub trace_ratio: f64,
}

/// What a run is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Whatever comes, until shut down.
    Forever,
    /// Every window up to the cutoff at start.
    UpToCutoff,
    /// These replays, and nothing else.
    Replays(Vec<WindowKey>),
}

/// Something that happened, for whoever shows progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The lease was taken.
    Leading {
        /// Its epoch.
        epoch: u64,
    },
    /// A window's manifests are durable.
    Planned {
        /// The window.
        window: Window,
        /// Its rows.
        rows: u64,
        /// Its partitions.
        partitions: usize,
    },
    /// Workers report that they read so much more. Not exact: what is tried again counts again.
    Read {
        /// Rows since the last report.
        rows: u64,
        /// Bytes since the last report.
        bytes: u64,
    },
    /// A window is settled.
    Committed {
        /// The window.
        window: Window,
        /// What it holds.
        totals: WindowTotals,
    },
    /// A replay found nothing to do.
    Verified {
        /// The window.
        window: Window,
    },
    /// Nothing more can happen to a window without an operator.
    Held {
        /// The window.
        window: Window,
        /// Why.
        reason: String,
    },
    /// An operator paused: nothing new is begun.
    Paused {
        /// Since when, by whom, why.
        pause: Pause,
    },
    /// The pause is over.
    Resumed,
    /// Something outside is in the way; it is being tried again.
    Waiting {
        /// What and why.
        reason: String,
    },
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Windows committed, those of replays included.
    pub windows: u64,
    /// Sums over them.
    pub totals: WindowTotals,
    /// Where the watermark stands.
    pub archived_until: Option<Timestamp>,
    /// Windows that wait for an operator, with the reason.
    pub held: Vec<(Window, String)>,
    /// The pause that stood when it ended.
    pub paused: Option<Pause>,
}

/// The singleton that decides, or a hot standby of it.
pub struct Coordinator {
    pub(crate) id: WorkerId,
    pub(crate) identity: ArchiveIdentity,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) store: Store,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) settings: CoordinatorSettings,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) board: Board,
}

impl Coordinator {
    /// A coordinator of the archive that `identity` names. `events` may be dropped.
    #[expect(clippy::too_many_arguments, reason = "the composition root names each once")]
    pub fn new(
        id: WorkerId,
        identity: ArchiveIdentity,
        ledger: Arc<dyn Ledger>,
        catalog: Arc<dyn Catalog>,
        store: Store,
        queue: Arc<dyn TaskQueue>,
        settings: CoordinatorSettings,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let board = Board::default();
        Self { id, identity, ledger, catalog, store, queue, settings, events, board }
    }

    /// The coordinator, which shows on `board` what becomes of it.
    pub fn on(self, board: Board) -> Self {
        Self { board, ..self }
    }

    /// Works towards `goal` until it is reached or `shutdown`. Waits while another holds the
    /// lease, and goes back to waiting when it loses the lease.
    ///
    /// # Errors
    /// When something is wrong that waiting does not cure, such as a missing table.
    pub fn run(
        &self,
        goal: Goal,
        shutdown: CancellationToken,
    ) -> BoxFuture<'_, Result<RunReport, BackendError>> {
        Box::pin(self.work_towards(goal, shutdown))
    }

    async fn work_towards(
        &self,
        goal: Goal,
        shutdown: CancellationToken,
    ) -> Result<RunReport, BackendError> {
        let mut report = RunReport::default();
        let until = match goal {
            Goal::UpToCutoff => Some(self.cutoff().await?),
            Goal::Forever | Goal::Replays(_) => None,
        };
        loop {
            let Some(lease) = self.stand_by(&goal, until, &shutdown).await? else {
                // Whoever was told to stop has nothing to wait for.
                let watermark = self.ledger.watermark().await.ok().flatten();
                report.archived_until = watermark.map(|row| row.archived_until);
                report.held = self.held_under_another(&goal).await.unwrap_or_default();
                report.paused = standing(&*self.ledger).await.ok().flatten();
                return Ok(report);
            };
            info!(holder = %lease.holder, epoch = lease.epoch, "leading");
            let _nobody_listens = self.events.send(Event::Leading { epoch: lease.epoch });
            metrics::came_to_lead();
            let lost = shutdown.child_token();
            let renewing = tokio::spawn(renew(
                Arc::clone(&self.ledger),
                lease.clone(),
                self.settings.lease_ttl,
                (self.board.clone(), lost.clone()),
            ));
            let ended = match self.require_current_ledger().await {
                Ok(()) => {
                    let leader = Leader::new(self, lease.clone(), until, &mut report);
                    leader.lead(&goal, &lost).await
                }
                Err(error) => Err(error),
            };
            renewing.abort();
            let reached = match ended {
                Ok(Ended::GoalReached) => true,
                Ok(Ended::Stopped) => shutdown.is_cancelled(),
                Err(error) if error.is_conflict() => {
                    warn!("no longer leading: {error}");
                    false
                }
                // A service goes on: what is wrong is said again and again, and may be mended.
                Err(error) if error.is_retryable() || goal == Goal::Forever => {
                    self.wait_out(&error, &shutdown).await;
                    shutdown.is_cancelled()
                }
                Err(error) => {
                    self.give_back(&lease).await;
                    return Err(error);
                }
            };
            self.give_back(&lease).await;
            self.board.gave_back(reached);
            sabotage::write_without_the_lease(&self.store).await?;
            if reached {
                return Ok(report);
            }
        }
    }

    /// Refuses a ledger that is older than the archive. It may have been restored at any moment, so
    /// that every leader looks.
    async fn require_current_ledger(&self) -> Result<(), BackendError> {
        match is_behind(&self.store, &*self.ledger, &self.identity).await? {
            Some(what) => Err(BackendError::Invalid { what }),
            None => Ok(()),
        }
    }

    /// Waits for the lease. `None` when there is nothing to lead for any more: shut down, or
    /// another leader has reached the goal.
    async fn stand_by(
        &self,
        goal: &Goal,
        until: Option<Timestamp>,
        shutdown: &CancellationToken,
    ) -> Result<Option<Lease>, BackendError> {
        let mut told = false;
        loop {
            if shutdown.is_cancelled()
                || (told && matches!(self.is_reached(goal, until).await, Ok(true)))
            {
                return Ok(None);
            }
            let asked = Instant::now();
            match self.ledger.acquire_lease(&self.id, self.settings.lease_ttl).await {
                Ok(Some(lease)) => {
                    self.board.leads(lease.epoch, asked + self.settings.lease_ttl);
                    return Ok(Some(lease));
                }
                Ok(None) if !told => {
                    told = true;
                    let status = self.ledger.lease_status().await.ok().flatten();
                    let holder = status.and_then(|status| status.holder);
                    let holder = holder.map_or_else(|| "another".to_owned(), |id| id.to_string());
                    let reason = format!("standing by: {holder} holds the lease");
                    match goal {
                        Goal::Forever => info!("{reason}"),
                        // Somebody waits for the end, and sees nothing move.
                        Goal::UpToCutoff | Goal::Replays(_) => warn!("{reason}"),
                    }
                    self.board.stands_by(&reason);
                    let _nobody_listens = self.events.send(Event::Waiting { reason });
                }
                Ok(None) => self.board.tell(None),
                Err(error) if error.is_retryable() => self.wait_out(&error, shutdown).await,
                Err(error) => return Err(error),
            }
            let pause = (self.settings.lease_ttl / 10).min(STAND_BY_PAUSE);
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether another leader has done what this one was to do.
    async fn is_reached(
        &self,
        goal: &Goal,
        until: Option<Timestamp>,
    ) -> Result<bool, BackendError> {
        if *goal == Goal::Forever {
            return Ok(false);
        }
        if self.settings.leave_when_paused && standing(&*self.ledger).await?.is_some() {
            return Ok(true);
        }
        let open = self.ledger.open_windows().await?;
        if let Goal::Replays(keys) = goal {
            let waiting = open.iter().any(|record| keys.contains(&record.key()));
            return Ok(!waiting || !self.held_under_another(goal).await?.is_empty());
        }
        if !self.held_under_another(goal).await?.is_empty() {
            return Ok(true);
        }
        let watermark = self.ledger.watermark().await?;
        Ok(open.is_empty() && watermark.is_some_and(|row| Some(row.archived_until) >= until))
    }

    /// Windows of the goal of which nothing more comes without an operator, whoever leads.
    async fn held_under_another(&self, goal: &Goal) -> Result<Vec<(Window, String)>, BackendError> {
        let held = held_windows(&*self.ledger).await?;
        let of_goal = held.into_iter().filter(|held| match goal {
            Goal::Replays(keys) => keys.contains(&held.key()),
            Goal::Forever | Goal::UpToCutoff => true,
        });
        Ok(of_goal.map(|held| (held.window, held.reason)).collect())
    }

    /// How far windows may reach now.
    async fn cutoff(&self) -> Result<Timestamp, BackendError> {
        reach(&*self.ledger, &*self.catalog, self.settings.window_span_micros).await
    }

    async fn wait_out(&self, error: &BackendError, shutdown: &CancellationToken) {
        warn!("trying again: {error}");
        self.board.tell(Some(error.to_string()));
        let _nobody_listens = self.events.send(Event::Waiting { reason: error.to_string() });
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }

    async fn give_back(&self, lease: &Lease) {
        // Whatever ended the leading, it was not this process's death.
        if self.queue.tasks_at_a_time().is_some()
            && let Err(error) = self.ledger.clear_under_way(lease).await
            && !error.is_conflict()
        {
            warn!("what was worked on will count as interrupted: {error}");
        }
        if let Err(error) = self.ledger.release_lease(lease).await {
            warn!("the lease was not given back and will expire: {error}");
        }
    }

    pub(crate) fn splitter(&self) -> Splitter {
        Splitter {
            catalog: Arc::clone(&self.catalog),
            store: self.store.clone(),
            identity: self.identity.clone(),
            settings: self.settings.pack,
            limits: self.settings.partition,
            sort_memory: self.settings.sort_memory,
            spool_dir: self.settings.spool_dir.clone(),
            trace: Span::none(),
        }
    }

    /// A window's own span, to be the parent of whatever is done for it.
    pub(crate) fn trace(&self, window: WindowKey) -> Span {
        Span::of_window(&self.identity, window, self.settings.trace_ratio)
    }

    pub(crate) async fn consume(
        &self,
        lane: backends::queue::Lane,
    ) -> Result<Box<dyn Consumer>, BackendError> {
        self.queue.consume(lane, CONSUMER_PREFETCH).await
    }
}

/// How far windows may reach now; they end on multiples of `span` microseconds.
pub(crate) async fn reach(
    ledger: &dyn Ledger,
    catalog: &dyn Catalog,
    span: i64,
) -> Result<Timestamp, BackendError> {
    let lag_days = ledger.watermark().await?.map_or(0, |row| row.lag_days);
    let clocks = (catalog.now().await?, ledger.now().await?);
    let oldest = match waits_for_transactions(lag_days) {
        true => catalog.oldest_transaction().await?,
        false => None,
    };
    Ok(cutoff(clocks.0, clocks.1, lag_days, oldest, span))
}

/// The longest pause between two tries to take the lease: a fraction of the second that a takeover
/// may take beyond the lease.
const STAND_BY_PAUSE: Duration = Duration::from_millis(500);
/// Outcomes and progress messages that may be unsettled at a time.
const CONSUMER_PREFETCH: u16 = 256;

/// Renews the lease until it is lost, which `lost` then tells. A ledger that cannot be reached
/// for as long as the lease lasts means that it is lost.
async fn renew(
    ledger: Arc<dyn Ledger>,
    lease: Lease,
    ttl: Duration,
    (board, lost): (Board, CancellationToken),
) {
    let mut renewed = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(ttl / 3).await;
        let asked = tokio::time::Instant::now();
        match tokio::time::timeout(ttl / 3, ledger.renew_lease(&lease, ttl)).await {
            Ok(Ok(true)) => {
                renewed = asked;
                board.renewed(asked.into_std() + ttl);
            }
            Ok(Ok(false)) => {
                warn!(epoch = lease.epoch, "the lease was taken by another");
                return lost.cancel();
            }
            Ok(Err(error)) => warn!("the lease was not renewed: {error}"),
            Err(_elapsed) => warn!("the lease was not renewed: the ledger does not answer"),
        }
        if renewed.elapsed() >= ttl {
            warn!(epoch = lease.epoch, "the lease has expired");
            return lost.cancel();
        }
    }
}
