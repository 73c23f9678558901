//! `des coordinator` and `des worker` of several jobs in one process: a coordinator for each, with
//! its own lease, ledger row and queues; a worker whose slots they share.
//!
//! One job that cannot go on keeps no other from it: it is tried again, and `/readyz` says why.

use std::sync::Arc;
use std::time::Duration;

use coordinator::board::Board;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use worker::{SharedJob, run_shared};

use super::services::{NOT_YET, coordinate, prepare, watch_broker};
use crate::config::Config;
use crate::http::{self, PageSlot, Served, ServedJob};
use crate::job_threads::JobThreads;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure};
use crate::telemetry::Traces;
use crate::wiring::Permissions;

/// The wait before a job that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Coordinators of several jobs, until a signal.
pub(super) async fn coordinator(
    configs: Vec<Config>,
    permissions: Permissions,
) -> Result<Exit, Failure> {
    if permissions.accept_below > 0 {
        return Err(Failure::usage(
            "--accept-below is of one job: make its archive with `des init --accept-below`",
        ));
    }
    let shown: Vec<_> = configs.iter().map(|_| (Board::default(), PageSlot::default())).collect();
    let served = configs.iter().zip(&shown);
    let served =
        served.map(|(config, (board, page))| ServedJob::of_coordinator(&config.job, board, page));
    let _http = http::serve(&configs[0].http, Served::of(served.collect())).await?;
    let _traces = Traces::start(&configs[0], "coordinator")?;
    let shutdown = shutdown_on_signals()?;
    let mut jobs = Jobs::new(&shutdown);
    for (config, (board, page)) in configs.into_iter().zip(shown) {
        let (permissions, shutdown) = (permissions.clone(), shutdown.clone());
        jobs.start(config, move |config| {
            let (permissions, shutdown) = (permissions.clone(), shutdown.clone());
            let (board, page) = (board.clone(), page.clone());
            async move {
                let done = coordinate(&config, permissions, (&board, &page), &shutdown).await;
                if let Err(Failure::Failed(error)) = &done {
                    board.tell(Some(format!("{error:#}")));
                }
                done
            }
        })?;
    }
    jobs.end().await?;
    Ok(Exit::Done)
}

/// A worker of several jobs, until a signal.
pub(super) async fn worker(configs: Vec<Config>, slots: u16) -> Result<Exit, Failure> {
    let shutdown = shutdown_on_signals()?;
    let (says, served): (Vec<_>, Vec<_>) =
        configs.iter().map(|config| ServedJob::of_worker(&config.job, NOT_YET)).unzip();
    let _http = http::serve(&configs[0].http, Served::of(served)).await?;
    let _traces = Traces::start(&configs[0], "worker")?;
    let drain_timeout = configs[0].worker.drain_timeout;
    let (joins, joining) = mpsc::channel(configs.len());
    let mut jobs = Jobs::new(&shutdown);
    for (config, says) in configs.into_iter().zip(says) {
        let (joins, shutdown) = (joins.clone(), shutdown.clone());
        jobs.start(config, move |config| {
            let (joins, says, shutdown) = (joins.clone(), says.clone(), shutdown.clone());
            async move {
                let joined = join((&config, slots), &joins, &says, &shutdown).await;
                if let Err(Failure::Failed(error)) = &joined {
                    let _told_before = says.send_replace(Err(format!("{error:#}")));
                }
                joined
            }
        })?;
    }
    drop(joins);
    let working = async {
        let ended = run_shared((slots, drain_timeout), joining, shutdown.clone()).await;
        // Whatever ended it, the jobs have nothing to wait for.
        shutdown.cancel();
        ended
    };
    // The jobs' threads live until what runs there is finished or given back.
    let (worked, ended) = tokio::join!(working, jobs.end());
    ended?;
    worked?;
    Ok(Exit::Done)
}

/// Takes part in the work once there is an archive, and says whether the broker answers.
async fn join(
    (config, slots): (&Config, u16),
    joins: &mpsc::Sender<SharedJob>,
    says: &watch::Sender<Result<String, String>>,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let Some((worker, queue)) = prepare(config, slots, shutdown).await? else { return Ok(()) };
    let threads = tokio::runtime::Handle::current();
    let job = SharedJob { worker, share: config.worker.share, threads };
    // It is full or closed only when the worker ends.
    let _ending = joins.send(job).await;
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = watch_broker(queue, says.clone()) => {}
    }
    Ok(())
}

/// Jobs that run, each on threads of its own.
struct Jobs {
    running: JoinSet<Result<(), Failure>>,
    threads: Vec<JobThreads>,
    shutdown: CancellationToken,
}

impl Jobs {
    fn new(shutdown: &CancellationToken) -> Self {
        let shutdown = shutdown.clone();
        Self { running: JoinSet::new(), threads: Vec::new(), shutdown }
    }

    /// Starts a job, and again when something fails outside that may come back.
    fn start<W, D>(&mut self, config: Config, work: W) -> Result<(), Failure>
    where
        W: Fn(Arc<Config>) -> D + Send + 'static,
        D: Future<Output = Result<(), Failure>> + Send,
    {
        let threads = JobThreads::start(&config.job)?;
        let (config, shutdown) = (Arc::new(config), self.shutdown.clone());
        let lives = async move {
            loop {
                match work(Arc::clone(&config)).await {
                    Err(Failure::Failed(error)) if !shutdown.is_cancelled() => {
                        warn!("this job does not run, and is tried again: {error:#}");
                    }
                    ended => return ended,
                }
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(AGAIN_AFTER) => {}
                }
            }
        };
        self.running.spawn_on(lives, threads.handle());
        self.threads.push(threads);
        Ok(())
    }

    /// Waits for all. One that is refused, or panics, ends the process: the others first.
    async fn end(&mut self) -> Result<(), Failure> {
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let ended = ended.map_err(Failure::from).and_then(|it| it);
            if let Err(failure) = ended {
                self.shutdown.cancel();
                first = first.and(Err(failure));
            }
        }
        first
    }
}
