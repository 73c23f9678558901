//! `--check`: connects to everything, says what was found, changes nothing.

use std::path::Path;

use backends::ledger::SqliteLedger;
use backends::queue::Lane;
use backends::{Catalog, Ledger, Store};
use coordinator::behind::behind;
use coordinator::cutting::waits_for_transactions;
use coordinator::init;
use coordinator::throttle::{self, Limits};
use protocol::{ArchiveIdentity, Job};
use retriever::{Archive, ReadError};
use serde::Serialize;

use super::services::require_broker;
use crate::config::{Config, DatabaseUrl, StoreConfig};
use crate::output::{Exit, Failure, Output, grouped};
use crate::wiring;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Error,
}

#[derive(Serialize)]
struct Finding {
    /// Where several jobs are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Job>,
    what: &'static str,
    verdict: Verdict,
    text: String,
}

#[derive(Default, Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, what: &'static str, text: impl Into<String>) {
        self.findings.push(Finding { job: None, what, verdict: Verdict::Ok, text: text.into() });
    }

    fn warn(&mut self, what: &'static str, text: impl Into<String>) {
        self.findings.push(Finding {
            job: None,
            what,
            verdict: Verdict::Warning,
            text: text.into(),
        });
    }

    fn error(&mut self, what: &'static str, failure: &Failure) {
        let text = match failure {
            Failure::Usage(why) => why.clone(),
            Failure::Failed(error) => format!("{error:#}"),
        };
        self.findings.push(Finding { job: None, what, verdict: Verdict::Error, text });
    }

    fn keep<T>(&mut self, what: &'static str, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|failure| self.error(what, &failure)).ok()
    }

    /// Adds what was found for a job, which is named where there are several.
    fn add(&mut self, config: &Config, of_job: Self, several: bool) {
        let job = several.then(|| config.job.clone());
        let named = |finding| Finding { job: job.clone(), ..finding };
        self.findings.extend(of_job.findings.into_iter().map(named));
    }

    fn print(&self, output: Output) -> Result<Exit, Failure> {
        output.result(self, |it| {
            let line = |finding: &Finding| {
                let mark = match finding.verdict {
                    Verdict::Ok => "ok     ",
                    Verdict::Warning => "WARNING",
                    Verdict::Error => "ERROR  ",
                };
                let job = finding.job.as_ref().map_or_else(String::new, |job| format!("{job}  "));
                format!("{job}{mark}  {:<10} {}\n", finding.what, finding.text)
            };
            it.findings.iter().map(line).collect()
        })?;
        let failed = self.findings.iter().any(|finding| finding.verdict == Verdict::Error);
        Ok(if failed { Exit::Failed } else { Exit::Done })
    }
}

/// Everything that a coordinator, and `migrate`, rely on, for each of its jobs.
pub(super) async fn coordinator(configs: &[Config], output: Output) -> Result<Exit, Failure> {
    let mut all = Findings::default();
    for config in configs {
        all.add(config, of_coordinator(config).await, configs.len() > 1);
    }
    all.print(output)
}

async fn of_coordinator(config: &Config) -> Findings {
    let mut findings = Findings::default();
    findings.ok("config", format!("{} is valid", config.path.display()));
    for (what, url) in [("catalog", config.database()), ("ledger", config.ledger())] {
        if let Some(file) = url.ok().and_then(DatabaseUrl::file) {
            findings.ok(what, format!("SQLite, in {}", file.display()));
        }
    }
    let catalog = wiring::catalog(config).await;
    let catalog = findings.keep("catalog", catalog);
    if let Some(catalog) = &catalog {
        let looked = look_at_catalog(&**catalog, &mut findings).await;
        findings.keep("catalog", looked);
    }
    let stored = match will_be_made(config) {
        Some(path) => {
            if findings.keep("store", wiring::check_writable(config, None).await).is_some() {
                findings.ok("store", format!("{} is not there and will be made", path.display()));
            }
            None
        }
        None => {
            let store = wiring::store(config, false).await;
            match findings.keep("store", store) {
                Some(store) => {
                    let identity = look_at_store(&store, config, &mut findings).await;
                    identity.map(|identity| (store, identity))
                }
                None => None,
            }
        }
    };
    let own_database =
        config.ledger().ok().filter(|ledger| Some(*ledger) != config.database().ok());
    let ledger = match own_database {
        Some(DatabaseUrl::Sqlite(path)) if !path.exists() => {
            let may = SqliteLedger::check_may_be_made(path).map_err(Failure::from);
            let may =
                may.and(look_for_its_archive(catalog.as_deref(), config, stored.as_ref()).await);
            if findings.keep("ledger", may).is_some() {
                findings.ok("ledger", format!("{} is not there and will be made", path.display()));
            }
            None
        }
        _ => {
            let ledger = wiring::ledger_to_read(config).await;
            findings.keep("ledger", ledger)
        }
    };
    if let Some(ledger) = &ledger {
        let looked =
            look_at_ledger(&**ledger, catalog.as_deref(), config, stored.as_ref(), &mut findings);
        let looked = looked.await;
        findings.keep("ledger", looked);
    }
    if let Some(catalog) = &catalog {
        look_at_throttle(&**catalog, config, ledger.as_deref(), &mut findings).await;
    }
    if let Some(wanted) = &config.sync_archived {
        let column = wiring::archived_column(config, wanted).await;
        if let Some(column) = findings.keep("column", column) {
            findings
                .ok("column", format!("{} may be set where a file is archived", column.target()));
        }
    }
    look_at_broker(config, &mut findings).await;
    look_at_files(config, &mut findings);
    findings
}

/// The store's directory, where the first run would make it.
fn will_be_made(config: &Config) -> Option<&Path> {
    match &config.store {
        StoreConfig::Directory(path) if !path.exists() => Some(path),
        StoreConfig::Directory(_) | StoreConfig::S3(_) => None,
    }
}

/// Everything that a worker relies on, for each of its jobs.
pub(super) async fn worker(configs: &[Config], output: Output) -> Result<Exit, Failure> {
    let mut all = Findings::default();
    for config in configs {
        require_broker(config, "worker")?;
        all.add(config, of_worker(config).await, configs.len() > 1);
    }
    all.print(output)
}

async fn of_worker(config: &Config) -> Findings {
    let mut findings = Findings::default();
    findings.ok("config", format!("{} is valid", config.path.display()));
    let store = wiring::store(config, false).await;
    if let Some(store) = findings.keep("store", store) {
        look_at_store(&store, config, &mut findings).await;
    }
    look_at_broker(config, &mut findings).await;
    look_at_files(config, &mut findings);
    findings
}

/// Whether the source database can be asked what it is to be asked, and what it says.
async fn look_at_throttle(
    catalog: &dyn Catalog,
    config: &Config,
    ledger: Option<&dyn Ledger>,
    findings: &mut Findings,
) {
    // Where the ledger cannot be asked, or is from before there were such limits, its own finding says so.
    let live = match ledger {
        Some(ledger) => ledger.throttles().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let source = Limits::in_force(&config.throttle, &live).source;
    if !source.asks() {
        return;
    }
    match throttle::ask_source(&source, catalog).await {
        None => findings.ok("throttle", "the source database can be asked, and says go on"),
        Some(reason) => findings.warn("throttle", format!("nothing would be begun now: {reason}")),
    }
}

async fn look_at_catalog(catalog: &dyn Catalog, findings: &mut Findings) -> Result<(), Failure> {
    let report = catalog.inspect().await?;
    let files = catalog.count_files(None, None).await?;
    findings.ok(
        "catalog",
        format!(
            "{}; {} files; uid is {}, created_at is {}",
            report.server,
            grouped(files),
            report.uid_type,
            report.created_at_type
        ),
    );
    if report.created_at_indexed {
        findings.ok("catalog", "created_at is indexed");
    } else {
        findings.warn(
            "catalog",
            "created_at is not indexed: every window reads the whole table; CREATE INDEX on it",
        );
    }
    if report.writable {
        findings.warn(
            "catalog",
            "this role may write the table, which des never does; SELECT is enough",
        );
    }
    if let Some(millis) = report.statement_timeout_millis.filter(|&millis| millis > 0) {
        findings.warn(
            "catalog",
            format!("statement_timeout is {millis} ms: reading a window must end within it"),
        );
    }
    let unplaceable = catalog.unplaceable().await?;
    if unplaceable.total() > 0 {
        findings.warn(
            "catalog",
            format!(
                "{} rows can never be archived: {} without uid, {} without created_at, {} out of range",
                grouped(unplaceable.total()),
                unplaceable.null_uid,
                unplaceable.null_created_at,
                unplaceable.out_of_range
            ),
        );
    }
    Ok(())
}

async fn look_at_store(
    store: &Store,
    config: &Config,
    findings: &mut Findings,
) -> Option<ArchiveIdentity> {
    if findings.keep("store", wiring::check_writable(config, Some(store)).await).is_some() {
        findings.ok("store", "objects may be written");
    }
    match Archive::open(store.clone()).await {
        Ok(archive) => {
            let identity = archive.identity();
            findings.ok("store", format!("{store} holds archive {}", identity.archive));
            if identity.n_bits != config.pack.n_bits {
                let why = format!(
                    "the archive was made with n_bits {}, and packer.n_bits is {}: set it back",
                    identity.n_bits, config.pack.n_bits
                );
                findings.error("store", &Failure::usage(why));
            }
            if identity.job != config.job {
                let why = format!(
                    "the archive is job {}'s, and this is job {}",
                    identity.job, config.job
                );
                findings.error("store", &Failure::usage(why));
            }
            Some(identity.clone())
        }
        Err(ReadError::NoArchive(_)) => {
            findings.ok("store", format!("{store} answers and holds no archive yet"));
            None
        }
        Err(error) => {
            findings.error("store", &error.into());
            None
        }
    }
}

/// Refuses a ledger that is not there, where the store holds what some ledger committed.
async fn look_for_its_archive(
    catalog: Option<&dyn Catalog>,
    config: &Config,
    stored: Option<&(Store, ArchiveIdentity)>,
) -> Result<(), Failure> {
    let (Some(catalog), Some((store, _))) = (catalog, stored) else { return Ok(()) };
    init::examine(None, catalog, Some(store), &wiring::seed(config, u64::MAX, None)).await?;
    Ok(())
}

async fn look_at_ledger(
    ledger: &dyn Ledger,
    catalog: Option<&dyn Catalog>,
    config: &Config,
    stored: Option<&(Store, ArchiveIdentity)>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let lacks = ledger.missing_privileges().await?;
    if lacks.is_empty() {
        findings.ok("ledger", "may be written");
    }
    for lack in lacks {
        findings.error("ledger", &Failure::Failed(anyhow::Error::msg(format!("needs: {lack}"))));
    }
    let pending = ledger.pending_migrations().await?;
    if pending.is_empty() {
        findings.ok("ledger", "des's tables are there and up to date");
    } else {
        findings.ok("ledger", "des's tables will be made or brought up to date");
    }
    let watermark = ledger.watermark().await?;
    if let Some(row) = watermark {
        findings.ok(
            "ledger",
            format!("archived_until {}, lag_days {}", row.archived_until, row.lag_days),
        );
        if row.lag_days != config.lag_days {
            findings.warn(
                "ledger",
                format!(
                    "des_archive_config says lag_days {} and rules; the configuration says {}",
                    row.lag_days, config.lag_days
                ),
            );
        }
    }
    let lag_days = watermark.map_or(config.lag_days, |row| row.lag_days);
    if let Some(catalog) = catalog.filter(|_| waits_for_transactions(lag_days)) {
        let seen = catalog.oldest_transaction().await.map_err(Failure::from);
        if findings.keep("catalog", seen).is_some() {
            findings.ok("catalog", "open transactions are seen, and waited for");
        }
    }
    let archive = ledger.archive().await?;
    if let (Some(record), Some(row)) = (&archive, watermark)
        && record.settled_until != row.archived_until
    {
        let why = format!(
            "somebody moved archived_until to {}, and des left it at {}: put it back, or say with \
             `des adjust` where it is to stand",
            row.archived_until, record.settled_until
        );
        findings.error("ledger", &Failure::Failed(anyhow::Error::msg(why)));
    }
    match (&archive, stored) {
        (Some(record), Some((_, identity))) if record.archive != identity.archive => {
            let why = format!(
                "the ledger belongs to archive {}, and the store to {}",
                record.archive, identity.archive
            );
            findings.error("ledger", &Failure::usage(why));
        }
        (Some(record), None) => {
            let why = format!(
                "the ledger belongs to archive {}, and the store holds none",
                record.archive
            );
            findings.error("ledger", &Failure::usage(why));
        }
        (_, Some((store, _))) => {
            if let Some(why) = behind(store, ledger).await? {
                findings.error("ledger", &Failure::usage(why));
            }
        }
        (None, None) => {}
    }
    let origin = archive.map(|record| record.origin).or(watermark.map(|row| row.archived_until));
    if let (Some(catalog), Some(origin)) = (catalog, origin.or(config.default_archived_until)) {
        let below = catalog.count_files(None, Some(origin)).await?;
        if below > 0 {
            let text = format!("{} files at or below {origin} are not covered", grouped(below));
            findings.warn("ledger", text);
        }
    }
    Ok(())
}

async fn look_at_broker(config: &Config, findings: &mut Findings) {
    if config.broker.is_none() {
        findings.ok("broker", "none: everything happens in one process");
        return;
    }
    let queue = wiring::queue(config, &wiring::process_name("check")).await;
    let Some(queue) = findings.keep("broker", queue) else { return };
    let depth = queue.depth(Lane::Tasks).await;
    if let Some(depth) = findings.keep("broker", depth.map_err(Failure::from)) {
        let text =
            format!("answers; {} tasks wait, {} workers listen", depth.ready, depth.consumers);
        findings.ok("broker", text);
    }
}

fn look_at_files(config: &Config, findings: &mut Findings) {
    let roots = wiring::sources(&config.roots);
    if findings.keep("source", roots).is_some() {
        let text = match config.roots.len() {
            0 => "no roots: any regular file that this process may read".to_owned(),
            count => format!("{count} roots are there"),
        };
        findings.ok("source", text);
    }
    for directory in [&config.worker.spool_dir, &config.coordinator.spool_dir] {
        let made = tempfile::tempfile_in(directory).map_err(|error| {
            Failure::Failed(
                anyhow::Error::from(error)
                    .context(format!("no spool file can be made in {}", directory.display())),
            )
        });
        let free = rustix::fs::statvfs(directory).map(|it| it.f_bavail * it.f_frsize);
        if findings.keep("spool", made).is_some() {
            let free = free.map_or_else(|_unknown| "?".to_owned(), crate::output::bytes);
            findings.ok("spool", format!("{} has {free} free", directory.display()));
        }
        if config.worker.spool_dir == config.coordinator.spool_dir {
            break;
        }
    }
}
