//! What the fleet asks of PostgreSQL: the time to split a window, rows read, write-ahead log, and
//! the coordinator's memory while it does so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use sqlx::Connection as _;

use super::Bench;
use super::fleet::{Database, Fleet, Shape, Stopped};
use crate::generate::catalog::{connect, postgres};
use crate::generate::{Sizes, Spec};
use crate::measure::child::run;
use crate::measure::line::{Line, Plot, Target};
use crate::measure::spread::Spread;

/// Rows of the large window.
const LARGE: u64 = 10_000_000;
const LARGE_QUICK: u64 = 1_000_000;
/// Runs over the large window.
const LARGE_RUNS: usize = 3;
/// Source files that rows share where files are packed only so that a window commits.
const SHARED_FILES: u64 = 2_000;
const TINY_BYTES: u64 = 16;
/// Rows, n_bits and partitions that follow from them: a shard index is a partition, but where
/// there are 4, which need fewer rows.
const CUTS: [(u64, u8, u64); 3] = [(18_000, 4, 4), (100_000, 6, 64), (100_000, 8, 256)];
/// 1.00 in two digits: looking for the oldest row reads it.
const MOST_ROWS_READ: f64 = 1.005;
const MICROS_PER_DAY: i64 = 86_400_000_000;
pub(super) const COMMITTED: &str = "SELECT count(*) > 0 FROM des_windows WHERE state = 'committed'";
const PLANNED: &str = "SELECT count(*) > 0 FROM des_windows";

/// A table of files in a database of its own.
pub(super) struct Source {
    pub(super) database: Database,
    roots: PathBuf,
    /// Days with rows.
    pub(super) days: u64,
    /// So that the last of them is the last that is due.
    lag_days: i64,
}

impl Source {
    pub(super) async fn make(bench: &Bench, spec: &Spec) -> anyhow::Result<Self> {
        let database = Database::make(bench.servers()?).await?;
        let roots = bench.dir.join(format!("files-{}-{:?}", spec.files, spec.content));
        spec.make_files(&roots)?;
        postgres(&database.url, "files", spec, &roots).await?;
        let last = spec.first_day().saturating_add_micros(spec.days.cast_signed() * MICROS_PER_DAY);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let lag_days = (i64::try_from(now.as_micros())? - last.as_micros()) / MICROS_PER_DAY;
        Ok(Self { database, roots, days: spec.days, lag_days })
    }

    pub(super) fn shape(&self, n_bits: u8, partition_rows: u64) -> Shape {
        Shape {
            catalog_url: self.database.url.clone(),
            n_bits,
            partition_rows,
            more: json!({
                "source": { "roots": [self.roots] },
                "database": { "lag_days": self.lag_days },
            }),
            environment: Vec::new(),
        }
    }

    async fn counters(&self) -> anyhow::Result<Counters> {
        let mut connection = connect(&self.database.url).await?;
        let (read, written, dead): (i64, i64, i64) = sqlx::query_as(
            "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint, \
             (n_tup_ins + n_tup_upd + n_tup_del)::bigint, n_dead_tup::bigint \
             FROM pg_stat_user_tables WHERE relname = 'files'",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok(Counters { read, written, dead })
    }

    /// The counters, once sessions that have ended have handed theirs in.
    async fn settled_counters(&self, before: Counters) -> anyhow::Result<Counters> {
        let mut last = self.counters().await?;
        for _again in 0..20 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            let now = self.counters().await?;
            if now == last && now.read > before.read {
                break;
            }
            last = now;
        }
        Ok(last)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    read: i64,
    written: i64,
    dead: i64,
}

fn small_files(rows: u64) -> Spec {
    let files = rows.min(SHARED_FILES);
    Spec { files, sizes: Sizes::Fixed(TINY_BYTES), ..Spec::usual(rows, 1) }
}

/// Splitting a large window beside psql's COPY of the same rows, and the coordinator's memory.
pub(super) async fn split(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let rows = if bench.quick { LARGE_QUICK } else { LARGE };
    let spec = Spec { files: 0, ..Spec::usual(rows, 1) };
    let source = Source::make(bench, &spec).await?;
    // The first round warms up, and tells which statement it is.
    let (_, select) = split_once(bench, &source).await?;
    let select = select.context("the statement that reads a window was not seen")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut cpu, mut memories) = (Vec::new(), Vec::new());
    for _run in 0..bench.runs.min(LARGE_RUNS) {
        theirs.push(copy_seconds(&source.database.url, &select)?);
        let (stopped, _) = split_once(bench, &source).await?;
        ours.push(stopped.said("planned")? - stopped.said("planning")?);
        cpu.push(stopped.cpu_seconds);
        memories.push(stopped.memory);
    }
    source.database.remove().await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rate = |seconds: &[f64]| Spread::of(seconds.iter().map(|it| rows as f64 / it));
    let pairs = ours.iter().copied().zip(theirs.iter().copied());
    let split = Line::new(
        "split",
        format!("{rows} rows of PostgreSQL into manifests, beside `psql -c \"COPY (the same SELECT) TO STDOUT\"`"),
        Target::AtMost(1.5),
        "×",
    )
    .measured(Spread::of_ratios(pairs))
    .figure("des, from the scan's begin to the window in the ledger", "s", Spread::of(ours.clone()))
    .figure("psql", "s", Spread::of(theirs.clone()))
    .figure("des", "rows/s", rate(&ours))
    .figure("psql", "rows/s", rate(&theirs))
    .figure("processor time of the coordinator", "s", Spread::of(cpu))
    .note(format!("the statement: {select}"));
    let memory = Line::new(
        "coordinator-memory",
        format!("`des coordinator` while it splits a window of {rows} rows: peak resident memory"),
        Target::AtMost(256.0),
        "MiB",
    )
    .measured(Spread::of(memories.iter().map(|it| it.peak_mib)))
    .plot(Plot {
        title: format!("Resident memory of the coordinator over a window of {rows} rows"),
        x: "seconds",
        y: "MiB",
        series: memories
            .pop()
            .map(|it| ("des coordinator".to_owned(), it.samples))
            .into_iter()
            .collect(),
    });
    Ok(vec![split, memory])
}

/// One coordinator without workers, until its window is in the ledger; and the SELECT that it sent.
async fn split_once(bench: &Bench, source: &Source) -> anyhow::Result<(Stopped, Option<String>)> {
    bench.settle()?;
    let fleet = Fleet::make(bench, &source.shape(8, 50_000)).await?;
    let mut coordinator = fleet.start("coordinator", "coordinator")?;
    let url = source.database.url.clone();
    let looking = tokio::spawn(async move { statement_of(&url).await });
    fleet.until(PLANNED, &mut [&mut coordinator]).await?;
    looking.abort();
    let select = looking.await.ok().and_then(Result::ok);
    let stopped = coordinator.stop()?;
    fleet.remove().await?;
    Ok((stopped, select))
}

/// The SELECT in the COPY that `des` is running, as the server shows it.
async fn statement_of(url: &str) -> anyhow::Result<String> {
    let mut connection = connect(url).await?;
    loop {
        let running: Option<String> = sqlx::query_scalar(
            "SELECT query FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT%' \
             AND datname = current_database() LIMIT 1",
        )
        .fetch_optional(&mut connection)
        .await?;
        let select = running.as_deref().and_then(|query| {
            let inner = query.strip_prefix("COPY (")?;
            inner.strip_suffix(") TO STDOUT (FORMAT BINARY)")
        });
        if let Some(select) = select {
            return Ok(select.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn copy_seconds(url: &str, select: &str) -> anyhow::Result<f64> {
    let copy = format!("COPY ({select}) TO STDOUT");
    let words = ["-c", "exec psql \"$1\" -X -q -c \"$2\" >/dev/null", "-", url, &copy];
    Ok(run(Command::new("bash").args(words))?.seconds)
}

/// Rows that the database reads for one window, however many partitions and workers there are.
pub(super) async fn rows(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let mut line = Line::new(
        "rows",
        "source rows that the database reads per window (seq_tup_read + idx_tup_fetch), to its rows: \
         1.00",
        Target::AtMost(MOST_ROWS_READ),
        "×",
    );
    let mut ratios = Vec::new();
    for (rows, n_bits, wanted) in CUTS {
        for workers in [1, 4] {
            let source = Source::make(bench, &small_files(rows)).await?;
            let fleet = Fleet::make(bench, &source.shape(n_bits, limit(rows, wanted))).await?;
            // What `des init` read, which looks at all rows once, is not a window's.
            let before = source.settled_counters(Counters::default()).await?;
            let (partitions, _) = commit_one(&fleet, workers).await?;
            fleet.remove().await?;
            let after = source.settled_counters(before).await?;
            source.database.remove().await?;
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            let ratio = (after.read - before.read) as f64 / rows as f64;
            ratios.push(ratio);
            let beyond = after.read - before.read - rows.cast_signed();
            line = line.one(
                format!(
                    "{rows} rows, {partitions} partitions, {workers} workers ({beyond} rows beyond)"
                ),
                "×",
                ratio,
            );
        }
    }
    line = line.one("`des migrate`, 100000 rows", "×", migrate_ratio(bench).await?);
    Ok(vec![line.measured(Spread::of(ratios)).note(
        "from after `des init`, which looks at all rows once, for those that no window can hold; \
         `des migrate` also counts what is due, for its progress bar",
    )])
}

/// The same for one `des migrate`, which also counts what is due, for its progress bar.
async fn migrate_ratio(bench: &Bench) -> anyhow::Result<f64> {
    let rows = 100_000;
    let source = Source::make(bench, &small_files(rows)).await?;
    let fleet = Fleet::make(bench, &source.shape(4, 50_000)).await?;
    let before = source.settled_counters(Counters::default()).await?;
    fleet.run(&["migrate", "--mode", "single", "--workers", "2"])?;
    fleet.remove().await?;
    let after = source.settled_counters(before).await?;
    source.database.remove().await?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    Ok((after.read - before.read) as f64 / rows as f64)
}

/// The most rows of a partition, so that a window of so many rows is cut into as many as wanted:
/// one shard index fits, and two do not, but where there are fewer partitions than indexes.
fn limit(rows: u64, partitions: u64) -> u64 {
    if partitions < 16 { rows } else { rows * 3 / (partitions * 2) }
}

/// Runs a fleet until its one window is committed: its partitions, and whoever ran.
async fn commit_one(fleet: &Fleet, workers: usize) -> anyhow::Result<(i64, Vec<Stopped>)> {
    let mut running = vec![fleet.start("coordinator", "coordinator")?];
    for worker in 0..workers {
        running.push(fleet.start("worker", &format!("worker-{worker}"))?);
    }
    fleet.until(COMMITTED, &mut running.iter_mut().collect::<Vec<_>>()).await?;
    let stopped: anyhow::Result<Vec<_>> =
        running.into_iter().map(super::fleet::Running::stop).collect();
    let partitions = fleet.number("SELECT count(*) FROM des_partitions").await?;
    Ok((partitions, stopped?))
}

/// Write-ahead log per window.
pub(super) async fn wal(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let sizes: &[u64] =
        if bench.quick { &[10_000, 100_000] } else { &[10_000, 100_000, 1_000_000] };
    let mut line = Line::new(
        "wal",
        "write-ahead log of one window of 64 partitions, without full-page images (`pg_waldump --stats`)",
        Target::AtMost(64.0),
        "KiB",
    );
    let mut all = Vec::new();
    for rows in sizes {
        let source = Source::make(bench, &small_files(*rows)).await?;
        let before = source.counters().await?;
        let fleet = Fleet::make(bench, &source.shape(6, limit(*rows, 64))).await?;
        let mut admin = connect(&fleet.ledger.url).await?;
        super::fleet::execute(&mut admin, "CHECKPOINT").await?;
        let from = position(&mut admin).await?;
        let (partitions, _) = commit_one(&fleet, 2).await?;
        let to = position(&mut admin).await?;
        let (kib, whole) = log_between(&mut admin, &from, &to).await?;
        admin.close().await?;
        fleet.remove().await?;
        let after = source.settled_counters(before).await?;
        source.database.remove().await?;
        all.push(kib);
        line = line
            .one(format!("{rows} rows, {partitions} partitions"), "KiB", kib)
            .one(format!("{rows} rows, with full-page images"), "KiB", whole)
            .note(format!(
                "{rows} rows: {} writes to the table of files, {} dead tuples in it",
                after.written - before.written,
                after.dead
            ));
    }
    let measured = Spread::of(all);
    Ok(vec![line.measured(measured).note(
        "from the coordinator's start to its end after the commit: lease, plan, receipts, commit, \
         and whatever the server itself logs meanwhile",
    )])
}

async fn position(connection: &mut sqlx::PgConnection) -> anyhow::Result<String> {
    let sql = "SELECT pg_current_wal_insert_lsn()::text";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

/// KiB of records between two positions, without and with full-page images.
async fn log_between(
    connection: &mut sqlx::PgConnection,
    from: &str,
    to: &str,
) -> anyhow::Result<(f64, f64)> {
    let directory: String =
        sqlx::query_scalar("SHOW data_directory").fetch_one(&mut *connection).await?;
    // What is to be read must have been written.
    super::fleet::execute(connection, "CHECKPOINT").await?;
    let bin = std::env::var_os("DES_TEST_PG_BIN").unwrap_or_default();
    let mut command = Command::new(Path::new(&bin).join("pg_waldump"));
    let log = Path::new(&directory).join("pg_wal");
    command.arg("--stats").args(["--start", from, "--end", to, "--path"]).arg(log);
    let said = run(&mut command)?.stdout;
    totals(&said).with_context(|| format!("pg_waldump said no total: {said}"))
}

/// Bytes of records, and of records with full-page images, in KiB.
fn totals(said: &str) -> Option<(f64, f64)> {
    let line = said.lines().find(|line| line.trim_start().starts_with("Total"))?;
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    let [_records, record_bytes, _images, all_bytes] = numbers.as_slice() else { return None };
    Some((record_bytes / 1024.0, all_bytes / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_from_what_pg_waldump_says() {
        let said = "WAL statistics between 0/1 and 0/2:\n\
            Type      N      (%)          Record size      (%)             FPI size      (%)        Combined size      (%)\n\
            ----      -      ---          -----------      ---             --------      ---        -------------      ---\n\
            Heap     10 ( 50.00)                 1024 ( 50.00)                 8192 ( 50.00)                 9216 ( 50.00)\n\
                            --------                      --------                      --------                      --------\n\
            Total    20                          2048 [20.00%]                 8192 [80.00%]                10240 [100%]\n";
        assert_eq!(totals(said), Some((2.0, 10.0)));
        assert_eq!(totals("none"), None);
    }

    #[test]
    fn cuts_leave_room_for_one_index_and_not_for_two() {
        for (rows, n_bits, partitions) in CUTS.into_iter().filter(|cut| cut.2 >= 16) {
            assert_eq!(1_u64 << n_bits, partitions);
            let each = rows / partitions;
            assert!(limit(rows, partitions) > each && limit(rows, partitions) < 2 * each);
        }
    }
}
