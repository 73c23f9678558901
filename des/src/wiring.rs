//! The composition root: which adapters stand behind the ports, and nothing that decides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use backends::catalog::ArchivedColumn;
use backends::{Catalog, Ledger, Store, TaskQueue, open};
use coordinator::board::Board;
use coordinator::explain::ExplainSettings;
use coordinator::figures::Watch;
use coordinator::init::{self, ArchiveSeed, Examined, InitError, InitReport};
use coordinator::partitions::PartitionLimits;
use coordinator::status::StatusReader;
use coordinator::sync::{ArchivedSync, SyncRequest, SyncSettings};
use coordinator::{Coordinator, CoordinatorSettings, Event};
use protocol::{ArchiveIdentity, WorkerId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;
use worker::{Sources, Worker, WorkerSettings};

use crate::config::{Config, DatabaseUrl, StoreConfig, SyncArchivedConfig};
use crate::http::PageSource;
use crate::output::Failure;

/// Bytes of rows that a partition holds at most: what a worker keeps in memory of its manifest.
const PARTITION_ROW_BYTES: u64 = 16 * 1024 * 1024;
/// Signs of life come every second; so many missing in a row mean that nobody works on it.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a new leader listens before it publishes what may still be being worked on.
const TAKEOVER_WAIT: Duration = Duration::from_millis(2_500);

pub(crate) async fn catalog(config: &Config) -> Result<Arc<dyn Catalog>, Failure> {
    let table = config.table.clone();
    Ok(match config.database()? {
        DatabaseUrl::Postgres(url) => open::postgres_catalog(url, table).await?,
        DatabaseUrl::Sqlite(path) => open::sqlite_catalog(path, table).await?,
    })
}

/// The column of the catalog that says which files are archived: the one thing that writes there.
pub(crate) async fn archived_column(
    config: &Config,
    wanted: &SyncArchivedConfig,
) -> Result<Arc<dyn ArchivedColumn>, Failure> {
    let (table, mark) = (config.table.clone(), wanted.mark.clone());
    Ok(match &wanted.database {
        DatabaseUrl::Postgres(url) => open::postgres_archived_column(url, table, mark).await?,
        DatabaseUrl::Sqlite(path) => open::sqlite_archived_column(path, table, mark).await?,
    })
}

pub(crate) const fn sync_settings(wanted: &SyncArchivedConfig) -> SyncSettings {
    SyncSettings { batch_rows: wanted.batch_rows, rows_per_second: wanted.rows_per_second }
}

/// The ledger, to be looked at: nothing is changed, a SQLite file's journal mode included.
///
/// # Errors
/// When it cannot be opened; where its file is not there, that `des init` makes it.
pub(crate) async fn ledger_to_read(config: &Config) -> Result<Arc<dyn Ledger>, Failure> {
    match config.ledger()? {
        DatabaseUrl::Postgres(_) => ledger(config, false).await,
        DatabaseUrl::Sqlite(path) => {
            let (job, id) = (config.job.clone(), config.config_id);
            let opened = open::sqlite_ledger_to_read(path, job, id).await;
            let hint = "where nothing was archived yet, run `des init` or `des migrate` first";
            Ok(opened.map_err(|error| match error.is_not_found() {
                true => anyhow::anyhow!("{error}; {hint}"),
                false => error.into(),
            })?)
        }
    }
}

/// The ledger. `create` allows to make the file of a SQLite ledger that is not there.
pub(crate) async fn ledger(config: &Config, create: bool) -> Result<Arc<dyn Ledger>, Failure> {
    let (job, id) = (config.job.clone(), config.config_id);
    Ok(match config.ledger()? {
        DatabaseUrl::Postgres(url) => {
            let lease_ttl = config.coordinator.lease_ttl;
            open::postgres_ledger(url, job, id, lease_ttl).await?
        }
        DatabaseUrl::Sqlite(path) => {
            // The catalog's file is never made: an absent one is a mistake in the configuration.
            let create = create && config.ledger()? != config.database()?;
            open::sqlite_ledger(path, job, id, create).await?
        }
    })
}

/// The store. `create` allows to make the directory of a local one.
pub(crate) async fn store(config: &Config, create: bool) -> Result<Store, Failure> {
    match &config.store {
        StoreConfig::Directory(path) if !create && !path.is_dir() => {
            Err(Failure::Failed(anyhow::anyhow!(
                "the store directory {} does not exist: check store.url or packer.output_dir",
                path.display()
            )))
        }
        StoreConfig::Directory(path) => Ok(Store::directory(path)?),
        StoreConfig::S3(settings) => {
            let store = Store::s3(settings)?;
            store.check().await.map_err(|error| {
                anyhow::Error::from(error).context(
                    "the bucket cannot be used: check store.url, store.endpoint, store.region, \
                     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                )
            })?;
            Ok(store)
        }
    }
}

/// The queue: RabbitMQ where a broker is configured, else this process.
pub(crate) async fn queue(config: &Config, name: &WorkerId) -> Result<Arc<dyn TaskQueue>, Failure> {
    Ok(match config.rabbit(name.as_str()) {
        Some(settings) => open::rabbit_queue(settings).await?,
        None => open::in_process_queue(),
    })
}

/// A name for this process, unique among those that run at a time.
pub(crate) fn process_name(role: &str) -> WorkerId {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' })
        .take(64)
        .collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("{role}-{host}-{}-{}", std::process::id(), &random[..8]);
    name.parse().unwrap_or_else(|_never| unreachable!("made of allowed characters"))
}

/// Who acts, for the audit log: user and host.
pub(crate) fn actor() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let user = user.unwrap_or_else(|_unset| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy())
}

/// Everything a coordinator needs, connected, with the archive found or made.
pub(crate) struct Fleet {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) store: Store,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) archive: InitReport,
}

/// How far [`connect`] may go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Permissions {
    /// Create or upgrade des's tables.
    pub(crate) migrate: bool,
    /// Rows that may stay uncovered below an adopted watermark.
    pub(crate) accept_below: u64,
    /// Why, for the audit log, should the archive be made.
    pub(crate) reason: Option<String>,
}

/// Connects to everything and finds or makes the archive. Whatever there is to refuse is refused
/// before anything is made.
pub(crate) async fn connect(config: &Config, permissions: Permissions) -> Result<Fleet, Failure> {
    for (what, url) in [("catalog", config.database()?), ("ledger", config.ledger()?)] {
        if let Some(file) = url.file() {
            info!(file = %file.display(), "the {what} is a SQLite file");
        }
    }
    let catalog = catalog(config).await?;
    catalog.inspect().await?;
    let queue = queue(config, &process_name("coordinator")).await?;
    let existing_ledger =
        if ledger_exists(config)? { Some(ledger_to_read(config).await?) } else { None };
    if let Some(ledger) = &existing_ledger {
        refuse_without_privileges(&**ledger).await?;
    }
    if let Some(ledger) = existing_ledger.as_ref().filter(|_| !permissions.migrate) {
        refuse_older_tables(&**ledger).await?;
    }
    let existing_store =
        if store_exists(config) { Some(store(config, false).await?) } else { None };
    let seed = seed(config, permissions.accept_below, permissions.reason);
    let examined =
        init::examine(existing_ledger.as_deref(), &*catalog, existing_store.as_ref(), &seed)
            .await?;
    if matches!(examined, Examined::ToMake(_)) {
        check_writable(config, existing_store.as_ref()).await?;
    }

    let ledger = ledger(config, permissions.migrate).await?;
    if permissions.migrate {
        ledger.migrate().await?;
    }
    let store = match existing_store {
        Some(store) => store,
        None => store(config, true).await?,
    };
    let archive = match examined {
        Examined::There(report) => report,
        Examined::ToMake(proposal) => match init::make(&*ledger, &store, proposal, &seed).await {
            // Another process made it meanwhile, and may have committed windows since.
            Err(InitError::Backend(error)) if error.is_conflict() => {
                match init::examine(Some(&*ledger), &*catalog, Some(&store), &seed).await? {
                    Examined::There(report) => report,
                    Examined::ToMake(_) => return Err(error.into()),
                }
            }
            made => made?,
        },
    };
    Ok(Fleet { ledger, catalog, store, queue, archive })
}

/// Refuses a ledger that an older release made, and nobody upgraded.
pub(crate) async fn refuse_older_tables(ledger: &dyn Ledger) -> Result<(), Failure> {
    match ledger.pending_migrations().await?.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Failed(anyhow::anyhow!(
            "des's tables are not up to date ({first} is missing): run `des init`"
        ))),
    }
}

async fn refuse_without_privileges(ledger: &dyn Ledger) -> Result<(), Failure> {
    let lacks = ledger.missing_privileges().await?;
    if lacks.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "the ledger cannot be used yet, it needs: {}",
        lacks.join("; ")
    )))
}

/// Whether the store can be written, also where it is a directory that is yet to be made.
pub(crate) async fn check_writable(config: &Config, store: Option<&Store>) -> Result<(), Failure> {
    match (store, &config.store) {
        (Some(store), _) => store.check_writable().await?,
        (None, StoreConfig::Directory(path)) => Store::check_directory(path)?,
        (None, StoreConfig::S3(_)) => {}
    }
    Ok(())
}

pub(crate) fn ledger_exists(config: &Config) -> Result<bool, Failure> {
    Ok(match config.ledger()? {
        DatabaseUrl::Postgres(_) => true,
        DatabaseUrl::Sqlite(path) => path.exists() || config.ledger()? == config.database()?,
    })
}

fn store_exists(config: &Config) -> bool {
    match &config.store {
        StoreConfig::Directory(path) => path.exists(),
        StoreConfig::S3(_) => true,
    }
}

/// What the configuration says about the archive.
pub(crate) fn seed(config: &Config, accept_below: u64, reason: Option<String>) -> ArchiveSeed {
    ArchiveSeed {
        job: config.job.clone(),
        n_bits: config.pack.n_bits,
        default_archived_until: config.default_archived_until,
        lag_days: config.lag_days,
        accept_below,
        actor: actor(),
        reason,
        window_span_micros: config.coordinator.window_span_micros,
    }
}

impl Fleet {
    pub(crate) fn coordinator(
        &self,
        config: &Config,
        continuous: bool,
        (events, board): (mpsc::UnboundedSender<Event>, Board),
    ) -> Coordinator {
        let coordinator = Coordinator::new(
            process_name("coordinator"),
            self.archive.identity.clone(),
            Arc::clone(&self.ledger),
            Arc::clone(&self.catalog),
            self.store.clone(),
            Arc::clone(&self.queue),
            coordinator_settings(config, continuous),
            events,
        );
        coordinator.on(board)
    }

    /// Brings the catalog's column up to the watermark until `stop`, as often as the configuration
    /// says, while the board's process leads or rests.
    ///
    /// # Errors
    /// When the column cannot be written: at start, rather than when somebody looks at it.
    pub(crate) async fn sync_archived(
        &self,
        config: &Config,
        board: &Board,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let Some(wanted) = &config.sync_archived else { return Ok(()) };
        let Some(every) = wanted.every else { return Ok(()) };
        let sync = ArchivedSync {
            ledger: Arc::clone(&self.ledger),
            store: self.store.clone(),
            column: archived_column(config, wanted).await?,
            settings: sync_settings(wanted),
            throttle: config.throttle.clone(),
            catalog: Arc::clone(&self.catalog),
            stop: stop.clone(),
            board: Some(board.clone()),
        };
        let actor = process_name("coordinator").to_string();
        let reason = Some("by its schedule".to_owned());
        let request = SyncRequest { dry_run: false, again: false, actor, reason };
        tokio::spawn(sync.run_every(every, request));
        Ok(())
    }

    /// Reads figures for the board until `stop`, as long as they are this process's to show.
    pub(crate) fn watch(&self, config: &Config, board: &Board, stop: &CancellationToken) {
        let watch = Watch::new(
            board.clone(),
            Arc::clone(&self.ledger),
            Arc::clone(&self.catalog),
            Arc::clone(&self.queue),
            config.coordinator.window_span_micros,
        );
        tokio::spawn(watch.run(stop.clone()));
    }
}

impl Fleet {
    /// What the page of a process with this board shows and acts on.
    pub(crate) fn page_source(&self, config: &Config, board: &Board) -> PageSource {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let settings =
            ExplainSettings { window_span_micros: config.coordinator.window_span_micros };
        PageSource {
            status: StatusReader::new(
                (config.job.clone(), board.clone()),
                Arc::clone(&self.ledger),
                Arc::clone(&self.catalog),
                self.store.clone(),
                config.broker.is_some().then(|| Arc::clone(&self.queue)),
                settings,
            ),
            ledger: Arc::clone(&self.ledger),
            catalog: Arc::clone(&self.catalog),
            actor: format!("page/token@{host}"),
        }
    }
}

fn coordinator_settings(config: &Config, continuous: bool) -> CoordinatorSettings {
    let it = &config.coordinator;
    CoordinatorSettings {
        pack: config.pack,
        window_span_micros: it.window_span_micros,
        windows_in_flight: it.windows_in_flight,
        partition: PartitionLimits { rows: it.partition_rows, row_bytes: PARTITION_ROW_BYTES },
        partition_time: it.partition_time,
        sort_memory: it.sort_memory,
        spool_dir: it.spool_dir.clone(),
        lease_ttl: it.lease_ttl,
        failures: it.failures,
        attempts: it.attempts,
        recheck_after: it.recheck_after,
        silence: SILENCE,
        takeover_wait: TAKEOVER_WAIT,
        leave_when_paused: !continuous,
        throttle: config.throttle.clone(),
        trace_ratio: config.tracing.as_ref().map_or(0.0, |tracing| tracing.sample_ratio),
    }
}

/// A worker of `slots` slots for the archive that `identity` names.
pub(crate) fn worker(
    config: &Config,
    identity: ArchiveIdentity,
    store: Store,
    queue: Arc<dyn TaskQueue>,
    slots: u16,
) -> Result<Worker, Failure> {
    let sources = sources(&config.roots)?;
    let settings = WorkerSettings {
        slots,
        memory: config.worker.memory,
        readers: config.worker.readers,
        spool_dir: config.worker.spool_dir.clone(),
        drain_timeout: config.worker.drain_timeout,
    };
    Ok(Worker::new(process_name("worker"), identity, store, queue, sources, settings)?)
}

pub(crate) fn sources(roots: &[PathBuf]) -> Result<Sources, Failure> {
    Ok(Sources::new(roots).context("source.roots")?)
}

/// Number of cores.
pub(crate) fn cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores).unwrap_or(u16::MAX)
}
