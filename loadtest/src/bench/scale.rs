//! Workers 1 to N against a store that is far away: every request is answered late, and every
//! connection is narrow, so that a worker waits and its machine does not. And the coordinator's share
//! of the fleet's processor time.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::Bench;
use super::database::Source;
use super::fleet::{Fleet, Running, Stopped};
use super::s3::{CountingS3, NarrowLine, Requests};
use crate::chaos::servers::{address_of, through};
use crate::generate::{Content, Spec};
use crate::measure::line::{Line, Plot, Target};
use crate::measure::spread::Spread;

/// A window's rows are sixteen partitions, one per shard index, of so many files.
const FILES_A_PARTITION: u64 = 500;
const PARTITIONS_A_DAY: u64 = 16;
const N_BITS: u8 = 4;
/// Files of the windows over which a fleet is measured that does not wait for its store: what a window
/// costs the coordinator whatever its size is spread over them.
const SHARE_FILES: [u64; 2] = [200_000, 1_000_000];
const SHARE_FILES_QUICK: [u64; 1] = [50_000];
const SHARE_WORKERS: u64 = 8;

/// The store, and who works.
#[derive(Clone, Debug, Args)]
pub(crate) struct Far {
    /// How late every answer of the store begins.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// Bytes a second of one connection to the store.
    #[arg(long, default_value_t = 2_000_000)]
    bytes_per_second: u64,
    /// Numbers of workers, of one slot each.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    workers: Vec<u64>,
    /// Days, each a window of 16 partitions of 500 files.
    #[arg(long, default_value_t = 4)]
    days: u64,
}

/// What a run with so many workers came to.
struct Measured {
    workers: u64,
    /// From the start of the first plan to the last commit.
    seconds: f64,
    /// From the start of the first plan to the last accepted partition.
    accepted: f64,
    coordinator: Stopped,
    worker_cpu: f64,
    requests: Requests,
}

/// The line about scaling.
pub(crate) async fn scale(bench: &Bench, far: &Far) -> anyhow::Result<Vec<Line>> {
    let days = if bench.quick { far.days.min(2) } else { far.days };
    let rows = days * PARTITIONS_A_DAY * FILES_A_PARTITION;
    let spec = Spec { content: Content::Noise, ..Spec::usual(rows, days) };
    let source = Source::make(bench, &spec).await?;
    let mut all = Vec::new();
    for workers in &far.workers {
        let s3 = CountingS3::start(Duration::from_millis(far.latency_ms))?;
        let line =
            NarrowLine::start(address_of(&s3.server.endpoint)?, far.bytes_per_second).await?;
        let endpoint = through(&s3.server.endpoint, line.port)?;
        all.push(
            one(bench, &source, (&s3, &endpoint), (*workers, 1, FILES_A_PARTITION * 3 / 2)).await?,
        );
    }
    source.database.remove().await?;
    let mut line = Line::new(
        "scale",
        format!(
            "workers of one slot against a store with {} ms of latency and {} MB/s a connection: \
             {rows} incompressible files in {days} windows of {PARTITIONS_A_DAY} partitions, fewest \
             workers to most",
            far.latency_ms,
            far.bytes_per_second / 1_000_000
        ),
        Target::AtLeast(7.5),
        "×",
    );
    let (Some(few), Some(many)) = (all.first(), all.last()) else { return Ok(Vec::new()) };
    line = line
        .measured(Spread::of([few.seconds / many.seconds]))
        .one("the same until the last partition is accepted", "×", few.accepted / many.accepted)
        .one("coordinator's share of the processor time with the most", "%", many.share());
    let (mut measured, mut ideal) = (Vec::new(), Vec::new());
    for it in &all {
        let rate = as_figure(rows) / it.seconds;
        measured.push((as_figure(it.workers), rate));
        ideal.push((
            as_figure(it.workers),
            as_figure(rows) / few.seconds * as_figure(it.workers) / as_figure(few.workers),
        ));
        line = line
            .one(format!("{} workers, to the last commit", it.workers), "s", it.seconds)
            .one(
                format!("{} workers, to the last accepted partition", it.workers),
                "s",
                it.accepted,
            )
            .one(format!("{} workers", it.workers), "files/s", rate)
            .note(format!("{} workers: {}", it.workers, it.requests.text()));
    }
    let series = vec![("measured".to_owned(), measured), ("in proportion".to_owned(), ideal)];
    let title = "Files a second by number of workers, far store".to_owned();
    Ok(vec![line.plot(Plot { title, x: "workers", y: "files/s", series })])
}

/// The lines about the coordinator's share: the usual files, a store that answers at once.
pub(super) async fn share(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let sizes: &[u64] = match (bench.files.as_slice(), bench.quick) {
        ([], true) => &SHARE_FILES_QUICK,
        ([], false) => &SHARE_FILES,
        (asked, _) => asked,
    };
    let mut lines = Vec::new();
    for rows in sizes {
        lines.push(share_over(bench, *rows).await?);
    }
    Ok(lines)
}

async fn share_over(bench: &Bench, rows: u64) -> anyhow::Result<Line> {
    let source = Source::make(bench, &Spec::usual(rows, 1)).await?;
    let s3 = CountingS3::start(Duration::ZERO)?;
    let endpoint = s3.server.endpoint.clone();
    let it = one(bench, &source, (&s3, &endpoint), (SHARE_WORKERS, 2, 50_000)).await?;
    source.database.remove().await?;
    let what = format!(
        "the coordinator's share of the fleet's processor time: {SHARE_WORKERS} workers, {rows} usual \
         files in one window, PostgreSQL, RabbitMQ and S3 on loopback"
    );
    let line = Line::new("coordinator-share", what, Target::AtMost(5.0), "%")
        .measured(Spread::of([it.share()]))
        .one("coordinator", "s", it.coordinator.cpu_seconds)
        .one("all workers", "s", it.worker_cpu)
        .one("the whole run", "s", it.seconds)
        .note(it.requests.text());
    Ok(line)
}

impl Measured {
    /// Of the fleet's processor time, in percent.
    fn share(&self) -> f64 {
        let coordinator = self.coordinator.cpu_seconds;
        100.0 * coordinator / (coordinator + self.worker_cpu)
    }
}

/// One fleet of so many workers, with so many slots each, over all windows.
async fn one(
    bench: &Bench,
    source: &Source,
    (s3, endpoint): (&CountingS3, &str),
    (workers, slots, partition_rows): (u64, u64, u64),
) -> anyhow::Result<Measured> {
    let mut shape = source.shape(N_BITS, partition_rows);
    let url = format!("s3://{}/fleet", s3.server.bucket);
    shape.more["store"] = json!({ "url": url, "endpoint": endpoint });
    shape.more["worker"] = json!({ "slots": slots });
    shape.environment = s3.environment();
    bench.settle()?;
    let fleet = Fleet::make(bench, &shape).await?;
    let before = s3.requests();
    // Workers first: what is measured is their work, not their start.
    let mut running = Vec::new();
    for worker in 0..workers {
        running.push(fleet.start("worker", &format!("worker-{worker}"))?);
    }
    for worker in &running {
        worker.until_said("worker ready").await?;
    }
    let coordinator = fleet.start("coordinator", "coordinator")?;
    coordinator.until_said("planning").await?;
    let began = Instant::now();
    running.push(coordinator);
    let days = source.days;
    let accepted = format!(
        "SELECT count(DISTINCT window_end) >= {days} AND bool_and(receipt IS NOT NULL) \
         FROM des_partitions"
    );
    let mut all: Vec<&mut Running> = running.iter_mut().collect();
    fleet.until(&accepted, &mut all).await?;
    let until_accepted = began.elapsed().as_secs_f64();
    let committed = format!("SELECT count(*) >= {days} FROM des_windows WHERE state = 'committed'");
    fleet.until(&committed, &mut all).await?;
    let seconds = began.elapsed().as_secs_f64();
    let stopped: anyhow::Result<Vec<_>> = running.into_iter().map(Running::stop).collect();
    let requests = s3.requests().since(before);
    fleet.remove().await?;
    let mut stopped = stopped?;
    let coordinator = stopped.pop().unwrap_or_default();
    let worker_cpu = stopped.iter().map(|worker| worker.cpu_seconds).sum();
    Ok(Measured { workers, seconds, accepted: until_accepted, coordinator, worker_cpu, requests })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn as_figure(number: u64) -> f64 {
    number as f64
}
