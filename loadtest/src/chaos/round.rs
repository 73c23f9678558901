//! One round: a fresh catalog and archive, a fleet that works, faults all the while, the oracle
//! watching, and the audit at the end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use protocol::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::audit::{Audited, audit};
use super::broker::Tap;
use super::faults::{Schedule, inject_all};
use super::files::{Expected, Manner};
use super::fleet::{Fleet, GC_GRACE, days_of};
use super::ground::Ground;
use super::inject::Target;
use super::leftovers::judge;
use super::operate::{Operator, Standing};
use super::oracle::{Bucket, Finding, Oracle, Sin};
use super::read_back::{Committed, ReadBack};
use super::report::{FaultRecord, OfCommand, Sample};
use super::watch::{Lead, Watch, now_micros, recorded_errors};

/// How often the oracle looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// So long nothing at all may be accepted or committed.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// So long the oracle's own connection may fail.
const BLIND_LIMIT: Duration = Duration::from_secs(60);

/// What a round is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundPlan {
    pub(crate) round: u64,
    /// With a sabotage, the round ends at the first finding.
    pub(crate) schedule: Schedule,
    pub(crate) partition_rows: u64,
    pub(crate) manner: Manner,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct RoundReport {
    /// Rows that are in the archive as they should, or are error rows as they should.
    pub(crate) settled: u64,
    /// Rows that were compared with their sources while the round went on, each time they were.
    pub(crate) rows_read_back: u64,
    pub(crate) windows: u64,
    pub(crate) partitions: u64,
    pub(crate) duplicates_removed: u64,
    /// Objects that nothing named, which `des gc` removed.
    pub(crate) objects_collected: u64,
    pub(crate) faults: Vec<FaultRecord>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) samples: Vec<Sample>,
    /// When partitions were accepted, in microseconds since 1970, and their rows.
    pub(crate) accepts: Vec<(i64, u64)>,
    pub(crate) commands: Vec<OfCommand>,
    /// Who began to lead, and when.
    pub(crate) leads: Vec<Lead>,
}

/// Runs a round to its end, and removes what it made in the servers.
pub(crate) async fn run(
    ground: &Arc<Ground>,
    plan: RoundPlan,
    stop: &CancellationToken,
) -> anyhow::Result<RoundReport> {
    let now = Timestamp::from_micros(now_micros()).context("the clock is out of range")?;
    let (first_day, cutoff) = days_of(now);
    let rows = ground.files.rows(first_day, plan.round, plan.manner);
    let expected = Arc::new(Expected::new(rows));
    let rows = (expected.rows(), plan.manner);
    let mut fleet = Fleet::make(ground, plan.round, rows, plan.partition_rows).await?;
    // Whoever ends the harness does not wait for faults and commands that are under way.
    let worked = tokio::select! {
        worked = work(ground, &mut fleet, plan, (&expected, cutoff)) => worked,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    fleet.abandon();
    fleet.database.remove().await?;
    let objects = ground.s3.bucket_dir.join(fleet.prefix.trim_end_matches('/'));
    ground.journal.forget();
    std::fs::remove_dir_all(&objects).with_context(|| objects.display().to_string())?;
    worked
}

async fn work(
    ground: &Arc<Ground>,
    fleet: &mut Fleet,
    plan: RoundPlan,
    (expected, cutoff): (&Arc<Expected>, Timestamp),
) -> anyhow::Result<RoundReport> {
    let watch = Watch::install(&fleet.direct_url).await?;
    let bucket = Arc::new(Bucket {
        journal: Arc::clone(&ground.journal),
        bucket_dir: ground.s3.bucket_dir.clone(),
        prefix: fleet.prefix.clone(),
    });
    let oracle = Oracle::new(Arc::clone(expected), Arc::clone(&bucket));
    let servers = &ground.servers;
    let tap = Tap::start(&servers.amqp, &fleet.broker_prefix, servers.rabbitmqctl.clone());
    let operator = match plan.manner {
        Manner::Operated => {
            let ledger = (fleet.direct_url.as_str(), &fleet.database);
            Some(Arc::new(Operator::begin(fleet.commands(), ledger, expected, &bucket)?))
        }
        Manner::Plain | Manner::Poisoned => None,
    };
    fleet.start();
    let target = Arc::new(Target {
        ground: Arc::clone(ground),
        processes: fleet.processes.clone(),
        database: Arc::clone(&fleet.database),
        commands: fleet.commands(),
        tap,
        leader: Mutex::new(None),
        findings: Mutex::default(),
    });
    let seeds = (plan.schedule.seed, plan.round);
    let reading = ReadBack::new(Arc::clone(expected), Arc::clone(&bucket), seeds);
    let mut watching = Watching {
        watch,
        oracle,
        reading: Arc::new(Mutex::new(reading)),
        target: Arc::clone(&target),
        expected: Arc::clone(expected),
        report: RoundReport::default(),
        accepted: watch::Sender::new(0),
        operator: operator.clone(),
    };
    let ended = CancellationToken::new();
    let until_found = plan.schedule.sabotage.is_some();
    let schedule = (plan.schedule, plan.manner);
    let faults = inject_all(&target, schedule, watching.accepted.subscribe(), ended.clone());
    let operated = async {
        match &operator {
            Some(operator) => operator.work(seeds, ended.clone()).await,
            None => Ok(()),
        }
    };
    let watched = async {
        let watched = watching.until(cutoff, until_found).await;
        ended.cancel();
        watched
    };
    let (watched, faults, operated) = tokio::join!(watched, faults, operated);
    watched?;
    operated?;
    target.tap.heal().await?;
    fleet.database.heal().await?;
    if let Some(operator) = &operator {
        if watching.oracle.findings().is_empty()
            && let Some(finding) = watching.meanwhile(operator.finish(cutoff)).await?
        {
            watching.oracle.found(finding);
        }
        watching.report.commands = operator.counts();
    }
    for complaint in fleet.stop().await? {
        watching.oracle.found(Finding::new(Sin::Stuck, 1, complaint));
    }
    watching.look().await?;
    let Watching { mut oracle, mut report, reading, .. } = watching;
    report.rows_read_back = lock(&reading).rows();
    let errors = recorded_errors(&fleet.direct_url).await?;
    let commits: Vec<_> = oracle.commits().cloned().collect();
    let settled_until = oracle.watermark();
    let (for_audit, rows) = (Arc::clone(&bucket), Arc::clone(expected));
    let (windows, cut_short) = (commits.len() as u64, until_found && !oracle.findings().is_empty());
    let committed = commits.clone();
    let audited = tokio::task::spawn_blocking(move || {
        audit(&for_audit, &rows, (&commits, settled_until), &errors)
    });
    let Audited { equal, failed, findings } = audited.await?;
    // A round that ended at its first finding has rows that nobody came to.
    if !cut_short {
        findings.into_iter().for_each(|finding| oracle.found(finding));
        if oracle.findings().is_empty() {
            fleet.run(&["verify", "--deep"]).await.context("and des itself finds damage")?;
            report.objects_collected = collect_garbage(fleet).await?;
            let left = tokio::task::spawn_blocking(move || judge(&bucket, &committed));
            left.await??.into_iter().for_each(|finding| oracle.found(finding));
        }
    }
    report.settled = equal + failed;
    report.windows = windows;
    report.partitions = oracle.accepted() as u64;
    report.duplicates_removed = target.tap.duplicates();
    report.faults = faults;
    report.findings = oracle.findings().to_vec();
    Ok(report)
}

/// Runs `des gc` when nothing is young any more; the number of objects that it removed.
async fn collect_garbage(fleet: &Fleet) -> anyhow::Result<u64> {
    // Times in listings are in whole seconds, and what is younger than the grace stays.
    tokio::time::sleep(GC_GRACE * 3).await;
    fleet.commands().collect("the round is over").await
}

fn lock(reading: &Mutex<ReadBack>) -> MutexGuard<'_, ReadBack> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The oracle at work.
struct Watching {
    watch: Watch,
    oracle: Oracle,
    reading: Arc<Mutex<ReadBack>>,
    target: Arc<Target>,
    expected: Arc<Expected>,
    report: RoundReport,
    /// How many partitions have been accepted.
    accepted: watch::Sender<u64>,
    operator: Option<Arc<Operator>>,
}

impl Watching {
    /// Takes in what is new; whether anything was accepted or committed.
    async fn look(&mut self) -> anyhow::Result<bool> {
        let news = self.watch.look().await?;
        let accepts = news.accepts.iter().map(|accept| (accept.at, accept.rows));
        self.report.accepts.extend(accepts);
        self.report.leads.extend(news.leads.iter().cloned());
        // An adjustment is written down before it is made, and so before it can be seen.
        let adjustments = self.operator.iter().flat_map(|operator| operator.take_adjustments());
        adjustments.for_each(|to| self.oracle.expect_adjustment(to));
        self.oracle.look(&news);
        let (watermark, commits) =
            (self.oracle.watermark(), self.oracle.commits().cloned().collect::<Vec<_>>());
        let errors = news.errors;
        self.read_back(Committed { watermark, commits: commits.clone(), errors }).await?;
        // What the operator may harm has been read by now.
        if let Some(operator) = &self.operator {
            operator.stands(Standing { watermark, commits });
        }
        self.accepted.send_replace(self.report.accepts.len() as u64);
        self.target.leader_is(news.lease_holder);
        Ok(!news.accepts.is_empty() || !news.commits.is_empty())
    }

    /// Reads rows back, away from the threads that carry bytes for the fleet.
    async fn read_back(&mut self, now: Committed) -> anyhow::Result<()> {
        let (reading, operator) = (Arc::clone(&self.reading), self.operator.clone());
        let is_harmed =
            move |key: &str| operator.as_ref().is_some_and(|operator| operator.has_harmed(key));
        let read = tokio::task::spawn_blocking(move || lock(&reading).look(&now, is_harmed));
        read.await?.into_iter().for_each(|finding| self.oracle.found(finding));
        Ok(())
    }

    /// Goes on looking until this is done.
    async fn meanwhile<T>(&mut self, doing: impl Future<Output = T>) -> T {
        let mut doing = std::pin::pin!(doing);
        loop {
            tokio::select! {
                done = &mut doing => return done,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // What it missed is there at the next look.
            let _database_is_being_harmed = self.look().await;
        }
    }

    /// Looks until everything is settled, or nothing moves any more.
    async fn until(&mut self, cutoff: Timestamp, until_found: bool) -> anyhow::Result<()> {
        let mut moved = Instant::now();
        let mut saw = Instant::now();
        loop {
            match self.look().await {
                Ok(has_moved) => {
                    saw = Instant::now();
                    if has_moved {
                        moved = saw;
                    }
                }
                Err(error) if saw.elapsed() > BLIND_LIMIT => return Err(error),
                Err(_database_is_being_harmed) => {}
            }
            for finding in self.target.take_findings() {
                self.oracle.found(finding);
            }
            let watermark = self.oracle.watermark();
            let settled = watermark.map_or(0, |time| self.expected.up_to(time));
            self.report.samples.push(Sample { at: now_micros(), settled });
            let is_operated = self.operator.as_ref().is_none_or(|operator| operator.did_enough());
            if watermark.is_some_and(|time| time >= cutoff) && is_operated {
                return Ok(());
            }
            if until_found && !self.oracle.findings().is_empty() {
                return Ok(());
            }
            if moved.elapsed() > STUCK_AFTER {
                let rows = self.expected.rows().len() as u64;
                let what = format!(
                    "nothing was accepted or committed for {} s: {settled} of {rows} rows are settled",
                    STUCK_AFTER.as_secs()
                );
                self.oracle.found(Finding::new(Sin::Stuck, rows - settled, what));
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
