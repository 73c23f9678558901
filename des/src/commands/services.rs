//! `des coordinator` and `des worker`: the roles of a fleet.

use std::time::Duration;

use coordinator::Goal;
use protocol::ArchiveIdentity;
use retriever::{Archive, ReadError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::{CoordinatorArgs, WorkerArgs};
use crate::config::Config;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure};
use crate::wiring::{self, Permissions};

/// Slots of a worker process that is not told otherwise.
const DEFAULT_SLOTS: u16 = 2;
/// How often a worker looks whether the archive was made.
const LOOK_FOR_ARCHIVE_EVERY: Duration = Duration::from_secs(2);

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
    let config = Config::load(&args.config.config)?;
    require_broker(&config, "coordinator")?;
    let permissions =
        Permissions { migrate: !args.no_migrate, accept_below: args.accept_below, reason: None };
    let fleet = wiring::connect(&config, permissions).await?;
    let shutdown = shutdown_on_signals()?;
    // Nobody listens: the receiver goes at once, and with it every event.
    let (events, _) = mpsc::unbounded_channel();
    let coordinator = fleet.coordinator(&config, true, events);
    coordinator.run(Goal::Forever, shutdown).await?;
    Ok(Exit::Done)
}

pub(super) async fn worker(args: WorkerArgs) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    require_broker(&config, "worker")?;
    let shutdown = shutdown_on_signals()?;
    let store = wiring::store(&config, false).await?;
    let Some(identity) = wait_for_archive(&store, &shutdown).await? else { return Ok(Exit::Done) };
    if identity.job != config.job {
        return Err(Failure::usage(format!(
            "{store} holds archive {} of job {}, and this configuration is for job {}",
            identity.archive, identity.job, config.job
        )));
    }
    let queue = wiring::queue(&config, &wiring::process_name("worker")).await?;
    let slots = args.slots.or(config.worker.slots).unwrap_or(DEFAULT_SLOTS);
    let worker = wiring::worker(&config, identity, store, queue, slots)?;
    worker.run(shutdown).await?;
    Ok(Exit::Done)
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
