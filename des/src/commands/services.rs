//! `des coordinator` and `des worker`: the roles of a fleet.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backends::TaskQueue;
use backends::queue::Lane;
use coordinator::Goal;
use coordinator::board::Board;
use protocol::ArchiveIdentity;
use retriever::{Archive, ReadError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;
use worker::Worker;

use super::jobs;
use crate::cli::{CoordinatorArgs, WorkerArgs};
use crate::config::Config;
use crate::http::{self, PageSlot, Served, ServedJob};
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure};
use crate::telemetry::Traces;
use crate::wiring::{self, Permissions};

/// Slots of a worker process that is not told otherwise.
const DEFAULT_SLOTS: u16 = 2;
/// What a worker says of itself before it works.
pub(super) const NOT_YET: &str = "waiting for the archive to be made";
/// How often a worker looks whether the archive was made.
const LOOK_FOR_ARCHIVE_EVERY: Duration = Duration::from_secs(2);
/// How often a worker asks whether the broker is there, and how long that may take.
const ASK_BROKER_EVERY: Duration = Duration::from_secs(5);
const BROKER_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn require_broker(config: &Config, role: &str) -> Result<(), Failure> {
    if config.broker.is_some() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{}: `des {role}` is a role of a fleet and needs `broker.url`; in one process use \
         `des migrate`",
        config.path.display()
    )))
}

pub(super) async fn coordinator(args: CoordinatorArgs) -> Result<Exit, Failure> {
    let configs = load(&args.config.config, "coordinator")?;
    let permissions =
        Permissions { migrate: !args.no_migrate, accept_below: args.accept_below, reason: None };
    let [config] = &*configs else { return jobs::coordinator(configs, permissions).await };
    let (board, page) = (Board::default(), PageSlot::default());
    let served = Served::of(vec![ServedJob::of_coordinator(&config.job, &board, &page)]);
    let _http = http::serve(&config.http, served).await?;
    let _traces = Traces::start(config, "coordinator")?;
    let shutdown = shutdown_on_signals()?;
    coordinate(config, permissions, (&board, &page), &shutdown).await?;
    Ok(Exit::Done)
}

/// Connects, and leads or stands by until `shutdown`.
pub(super) async fn coordinate(
    config: &Config,
    permissions: Permissions,
    (board, page): (&Board, &PageSlot),
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let fleet = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        fleet = Box::pin(wiring::connect(config, permissions)) => fleet?,
    };
    board.tell(None);
    let stop = shutdown.child_token();
    let _stopped_whatever_happens = stop.clone().drop_guard();
    fleet.watch(config, board, &stop);
    fleet.sync_archived(config, board, &stop).await?;
    page.fill(fleet.page_source(config, board));
    // Nobody listens: the receiver goes at once, and with it every event.
    let (events, _) = mpsc::unbounded_channel();
    let coordinator = fleet.coordinator(config, true, (events, board.clone()));
    coordinator.run(Goal::Forever, shutdown.clone()).await?;
    Ok(())
}

pub(super) async fn worker(args: WorkerArgs) -> Result<Exit, Failure> {
    let configs = load(&args.config.config, "worker")?;
    let slots = args.slots.or(configs[0].worker.slots).unwrap_or(DEFAULT_SLOTS);
    let [config] = &*configs else { return jobs::worker(configs, slots).await };
    let shutdown = shutdown_on_signals()?;
    let (ready, served) = ServedJob::of_worker(&config.job, NOT_YET);
    let _http = http::serve(&config.http, Served::of(vec![served])).await?;
    let _traces = Traces::start(config, "worker")?;
    let Some((worker, queue)) = prepare(config, slots, &shutdown).await? else {
        return Ok(Exit::Done);
    };
    tokio::spawn(watch_broker(queue, ready));
    worker.run(shutdown).await?;
    Ok(Exit::Done)
}

/// A worker of `slots` slots and its queue, connected, with the archive found. `None` when there was
/// none until `shutdown`.
pub(super) async fn prepare(
    config: &Config,
    slots: u16,
    shutdown: &CancellationToken,
) -> Result<Option<(Worker, Arc<dyn TaskQueue>)>, Failure> {
    let store = wiring::store(config, false).await?;
    let Some(identity) = wait_for_archive(&store, shutdown).await? else { return Ok(None) };
    if identity.job != config.job {
        return Err(Failure::usage(format!(
            "{store} holds archive {} of job {}, and this configuration is for job {}",
            identity.archive, identity.job, config.job
        )));
    }
    let queue = wiring::queue(config, &wiring::process_name("worker")).await?;
    let worker = wiring::worker(config, identity, store, Arc::clone(&queue), slots)?;
    Ok(Some((worker, queue)))
}

/// The configurations of the jobs that a role of a fleet is to serve; one at least.
fn load(paths: &[PathBuf], role: &str) -> Result<Vec<Config>, Failure> {
    let configs = Config::load_all(paths)?;
    configs.iter().try_for_each(|config| require_broker(config, role))?;
    Ok(configs)
}

/// Says again and again whether the broker answers, without which a worker does nothing.
pub(super) async fn watch_broker(
    queue: Arc<dyn TaskQueue>,
    ready: watch::Sender<Result<String, String>>,
) {
    loop {
        let asked = tokio::time::timeout(BROKER_LIMIT, queue.depth(Lane::Tasks)).await;
        let told = match asked {
            Ok(Ok(_depth)) => Ok("taking tasks".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("the broker does not answer within {BROKER_LIMIT:?}")),
        };
        if ready.send(told).is_err() {
            return;
        }
        tokio::time::sleep(ASK_BROKER_EVERY).await;
    }
}

/// The archive's identity; waits until a coordinator has made it.
async fn wait_for_archive(
    store: &backends::Store,
    shutdown: &CancellationToken,
) -> Result<Option<ArchiveIdentity>, Failure> {
    let mut told = false;
    while !shutdown.is_cancelled() {
        match Archive::open(store.clone()).await {
            Ok(archive) => return Ok(Some(archive.identity().clone())),
            Err(ReadError::NoArchive(_)) => {
                if !told {
                    info!("{store} holds no archive yet: waiting for a coordinator to make it");
                    told = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_FOR_ARCHIVE_EVERY) => {}
        }
    }
    Ok(None)
}
