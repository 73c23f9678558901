//! Why the watermark is, or is not, moving: facts from everything that can be asked, and what they
//! come to.
//!
//! [`gather`] asks; whoever does not answer is a fact like the others. What is said follows from the
//! [`Facts`] alone ([`Facts::sentence`], [`Facts::text`]). Nothing is changed.

mod facts;
mod sentence;
mod tell;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use backends::ledger::{PartitionRecord, Stuck, WindowRecord, WindowState};
use backends::queue::Lane;
use backends::{BackendError, Catalog, Ledger, Store, TaskQueue};
use futures::future::BoxFuture;
use protocol::{PartitionId, Timestamp};

pub use self::facts::{
    Broker, DroppedFacts, Facts, Lease, Partitions, PauseFacts, Reason, SlowPartition, StuckFacts,
    ThrottledFacts, Trouble, TroubledPartition, Watermark, WindowFacts,
};
use crate::attempts::is_waited_for;
use crate::behind::behind;
use crate::cutting::{cutoff, waits_for_transactions};
use crate::findings::dropped_passes;
use crate::pause::standing;
use crate::throttle::waited_for;

/// Open windows whose partitions are looked at; the others are counted.
const WINDOWS_LOOKED_AT: usize = 50;
/// Windows that are told whose last pass was dropped.
const WINDOWS_TOLD_DROPPED: u32 = 20;

/// What can be asked, or why it cannot.
pub struct Sources<'a> {
    /// The ledger.
    pub ledger: Result<&'a dyn Ledger, String>,
    /// The catalog.
    pub catalog: Result<&'a dyn Catalog, String>,
    /// The store.
    pub store: Result<&'a Store, String>,
    /// The broker; `None` where everything happens in one process.
    pub queue: Option<Result<&'a dyn TaskQueue, String>>,
}

/// What the facts are judged by.
#[derive(Clone, Copy, Debug)]
pub struct ExplainSettings {
    /// Windows end on multiples of this, in microseconds.
    pub window_span_micros: i64,
}

/// Asks everything, and writes down who does not answer.
pub fn gather(sources: Sources<'_>, settings: ExplainSettings) -> BoxFuture<'_, Facts> {
    Box::pin(ask_all(sources, settings))
}

async fn ask_all(sources: Sources<'_>, settings: ExplainSettings) -> Facts {
    let mut facts = Facts::default();
    let catalog = facts.reachable("catalog", sources.catalog);
    if let Some(ledger) = facts.reachable("ledger", sources.ledger) {
        let asked = ask_ledger(&mut facts, ledger, catalog, settings).await;
        facts.keep("ledger", asked.map(|_windows| ()));
        if let Ok(store) = &sources.store {
            match behind(store, ledger).await {
                Ok(behind) => facts.behind = behind,
                Err(error) => facts.trouble("store", error.to_string()),
            }
        }
    }
    if let Some(store) = facts.reachable("store", sources.store) {
        let checked = store.check().await;
        facts.keep("store", checked);
    }
    if let Some(queue) = sources.queue
        && let Some(queue) = facts.reachable("broker", queue)
    {
        let asked = ask_broker(&mut facts, queue).await;
        facts.keep("broker", asked);
    }
    facts
}

impl Facts {
    pub(crate) fn trouble(&mut self, what: &str, text: String) {
        if !self.troubles.iter().any(|known| known.what == what) {
            self.troubles.push(Trouble { what: what.to_owned(), text });
        }
    }

    fn reachable<T>(&mut self, what: &str, source: Result<T, String>) -> Option<T> {
        source.map_err(|why| self.trouble(what, why)).ok()
    }

    pub(crate) fn keep(&mut self, what: &str, asked: Result<(), BackendError>) {
        if let Err(error) = asked {
            self.trouble(what, error.to_string());
        }
    }
}

/// What the ledger says; gives the open windows that were looked at, with their partitions. Without a
/// catalog nothing is counted.
pub(crate) async fn ask_ledger(
    facts: &mut Facts,
    ledger: &dyn Ledger,
    catalog: Option<&dyn Catalog>,
    settings: ExplainSettings,
) -> Result<Vec<(WindowRecord, Vec<PartitionRecord>)>, BackendError> {
    let asked = Instant::now();
    let now = ledger.now().await?;
    facts.now = Some(now);
    facts.answered_after_ms = u64::try_from(asked.elapsed().as_millis()).ok();
    let (Some(row), Some(archive)) = (ledger.watermark().await?, ledger.archive().await?) else {
        return Ok(Vec::new());
    };
    facts.lease = ledger.lease_status().await?.and_then(|status| {
        let expires_at = status.expires_at;
        let expired = expires_at <= now;
        let since = status.since;
        let age_seconds = since.map(|since| now.seconds_since(since).max(0));
        let (holder, epoch) = (status.holder?.to_string(), status.epoch);
        Some(Lease { holder, epoch, expires_at, expired, since, age_seconds })
    });
    let mut watermark = Watermark {
        archived_until: row.archived_until,
        left_at: archive.settled_until,
        origin: archive.origin,
        lag_days: row.lag_days,
        target: cutoff(now, now, row.lag_days, None, settings.window_span_micros),
        open_transaction: None,
        pending_files: None,
        uncovered_files: None,
    };
    if let Some(catalog) = catalog {
        let asked = ask_catalog(&mut watermark, catalog, now, settings).await;
        facts.keep("catalog", asked);
    }
    facts.watermark = Some(watermark);
    facts.throttled = waited_for(ledger).await?;
    facts.paused = standing(ledger).await?.as_ref().map(PauseFacts::from);
    facts.errors = ledger
        .errors_by_reason()
        .await?
        .into_iter()
        .map(|(reason, files)| Reason { reason, files })
        .collect();
    let dropped = dropped_passes(ledger, WINDOWS_TOLD_DROPPED).await?.into_iter();
    facts.dropped = dropped.map(|(end, reason)| DroppedFacts { end, reason }).collect();
    let stuck = ledger.stuck().await?;
    let is_ahead = |stuck: &&Stuck| stuck.end > archive.settled_until;
    facts.stuck = stuck
        .as_ref()
        .filter(is_ahead)
        .map(|stuck| StuckFacts { end: stuck.end, reason: stuck.reason.clone() });
    let unplanned = stuck.filter(|stuck| !is_ahead(&stuck));
    let open = ledger.open_windows().await?;
    facts.open_windows = open.len() as u64;
    let mut windows = Vec::new();
    for record in open.into_iter().take(WINDOWS_LOOKED_AT) {
        let partitions = ledger.partitions(record.key()).await?;
        let waits = unplanned.as_ref().filter(|it| it.end == record.window_end());
        let waits = waits.map(|it| it.reason.clone());
        facts.windows.push(WindowFacts { waits, ..window_facts(&record, &partitions, now) });
        windows.push((record, partitions));
    }
    Ok(windows)
}

async fn ask_catalog(
    watermark: &mut Watermark,
    catalog: &dyn Catalog,
    now: Timestamp,
    settings: ExplainSettings,
) -> Result<(), BackendError> {
    let (clock, span, lag) =
        (catalog.now().await?, settings.window_span_micros, watermark.lag_days);
    watermark.target = cutoff(clock, now, lag, None, span);
    if waits_for_transactions(lag) {
        let oldest = catalog.oldest_transaction().await?;
        let target = cutoff(clock, now, lag, oldest, span);
        watermark.open_transaction = oldest.filter(|_| target < watermark.target);
        watermark.target = target;
    }
    watermark.uncovered_files = Some(catalog.count_files(None, Some(watermark.origin)).await?);
    let due = (watermark.archived_until, watermark.target);
    watermark.pending_files = Some(match due.0 < due.1 {
        true => catalog.count_files(Some(due.0), Some(due.1)).await?,
        false => 0,
    });
    Ok(())
}

pub(crate) async fn ask_broker(
    facts: &mut Facts,
    queue: &dyn TaskQueue,
) -> Result<(), BackendError> {
    let tasks = queue.depth(Lane::Tasks).await?;
    let dead = queue.depth(Lane::Dead).await?;
    facts.broker =
        Some(Broker { tasks: tasks.ready, workers: tasks.consumers, dead_letters: dead.ready });
    Ok(())
}

/// Partitions by what is to come of them. Pure.
pub(crate) fn count_partitions(partitions: &[PartitionRecord], now: Timestamp) -> Partitions {
    let mut counts = Partitions { all: partitions.len() as u64, ..Partitions::default() };
    for partition in partitions {
        *match () {
            () if partition.accepted.is_some() => &mut counts.accepted,
            () if partition.not_before.is_some_and(|time| time > now) => &mut counts.backing_off,
            () => &mut counts.to_do,
        } += 1;
    }
    counts
}

/// Where a window stands. Pure.
pub(crate) fn window_facts(
    record: &WindowRecord,
    partitions: &[PartitionRecord],
    now: Timestamp,
) -> WindowFacts {
    let counts = count_partitions(partitions, now);
    let troubled = partitions
        .iter()
        .filter(|partition| partition.accepted.is_none() && partition.trouble.is_some())
        .max_by_key(|it| {
            let waits = it.trouble.as_ref().is_some_and(|(class, _)| is_waited_for(class));
            (waits, it.setbacks)
        });
    let accepted = partitions.iter().filter_map(|partition| partition.accepted.as_ref());
    WindowFacts {
        start: record.window.start(),
        end: record.window.end(),
        revision: record.revision,
        requested: record.state == WindowState::Requested,
        held: record.state == WindowState::Held,
        files: record.rows.rows,
        files_failed: accepted.map(|accepted| accepted.files_failed).sum(),
        partitions: counts,
        troubled: troubled.map(|partition| troubled_facts(partition, now)),
        since: record.state_since,
        waits: None,
        slowest: slowest(record, partitions, &BTreeMap::new()),
    }
}

/// Who was heard to work on a partition, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnderWay {
    pub(crate) worker: String,
    /// `None`: it is not known.
    pub(crate) since: Option<Timestamp>,
}

/// What the end of an open window waits for most, where `heard` is what workers were heard to do in it.
/// Pure.
pub(crate) fn slowest(
    record: &WindowRecord,
    partitions: &[PartitionRecord],
    heard: &BTreeMap<PartitionId, UnderWay>,
) -> Option<SlowPartition> {
    let open = partitions.iter().filter(|partition| partition.accepted.is_none());
    let open = open.map(|it| {
        let noted = it.under_way_by.as_ref();
        let noted = noted.map(|by| UnderWay { worker: by.to_string(), since: None });
        (it, heard.get(&it.partition).cloned().or(noted))
    });
    let (it, under_way) = open.max_by_key(|(it, under_way)| {
        let longest = under_way.as_ref().map(|it| it.since.map(Reverse));
        (longest, it.setbacks, it.rows.rows, Reverse(it.partition))
    })?;
    let (worker, since) = under_way.map(|it| (it.worker, it.since)).unzip();
    (record.state == WindowState::Open).then(|| SlowPartition {
        partition: it.partition,
        rows: it.rows.rows,
        setbacks: it.setbacks,
        worker,
        since: since.flatten(),
    })
}

fn troubled_facts(partition: &PartitionRecord, now: Timestamp) -> TroubledPartition {
    let (class, detail) = partition.trouble.clone().unwrap_or_default();
    TroubledPartition {
        partition: partition.partition,
        setbacks: partition.setbacks,
        attempts: partition.attempts,
        interruptions: partition.interruptions,
        class,
        detail,
        not_before: partition.not_before.filter(|time| *time > now),
    }
}

#[cfg(test)]
mod tests {
    use backends::ledger::{AcceptedReceipt, Purpose, WindowTotals};
    use protocol::{Tally, Window};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn partition(number: u32, attempts: u32, not_before: &str) -> PartitionRecord {
        PartitionRecord {
            partition: number,
            manifest: String::new(),
            manifest_size: 0,
            first_row: None,
            rows: Tally::default(),
            setbacks: attempts,
            attempts,
            interruptions: 0,
            first_look: None,
            under_way_by: None,
            not_before: Some(at(not_before)),
            trouble: (attempts > 0).then(|| ("store".to_owned(), format!("503 of {number}"))),
            accepted: None,
        }
    }

    #[test]
    fn partitions_are_counted_by_what_is_to_come_of_them() {
        let record = WindowRecord {
            window: Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
            revision: 0,
            state: WindowState::Open,
            rows: Tally::default(),
            replaces: Vec::new(),
            totals: WindowTotals::default(),
            certificate: None,
            purpose: Purpose::Scan,
            findings: None,
            released: None,
            splits_before: 0,
            state_since: None,
            partition_rows: None,
        };
        let mut partitions: Vec<_> = [(0, 0), (1, 1), (2, 5), (3, 3), (4, 2)]
            .into_iter()
            .map(|(number, attempts)| {
                let waits = if number % 2 == 1 { "2024-12-10T00:01" } else { "2024-12-09" };
                partition(number, attempts, waits)
            })
            .collect();
        partitions[4].accepted =
            Some(AcceptedReceipt { receipt: String::new(), receipt_size: 0, files_failed: 7 });
        let facts = window_facts(&record, &partitions, at("2024-12-10"));
        let expected = Partitions { all: 5, accepted: 1, to_do: 2, backing_off: 2 };
        assert_eq!((facts.partitions, facts.files_failed), (expected, 7));
        assert_eq!(facts.troubled.map(|it| it.partition), Some(2), "the one with most trouble");
        let slowest = facts.slowest.expect("some are not done");
        assert_eq!((slowest.partition, slowest.setbacks, slowest.worker), (2, 5, None));
        for partition in &mut partitions {
            partition.setbacks = 0;
        }
        partitions[3].rows.rows = 9;
        partitions[3].under_way_by = Some("process-1".parse().expect("a name"));
        let slowest = window_facts(&record, &partitions, at("2024-12-10")).slowest;
        let slowest = slowest.map(|it| (it.partition, it.rows, it.worker));
        assert_eq!(slowest, Some((3, 9, Some("process-1".to_owned()))), "the largest");
        // Of those that are under way the one that has been for longest, however small, wherever it is known.
        let heard = [(0, "10:00:05"), (1, "10:00"), (2, "10:00:07")].map(|(number, since)| {
            let since = Some(at(&format!("2024-12-09T{since}")));
            (number, UnderWay { worker: format!("worker-{number}"), since })
        });
        let told = super::slowest(&record, &partitions, &heard.into()).expect("one is open");
        let since = told.since.map(|it| it.to_string());
        assert_eq!((told.partition, told.worker.as_deref()), (1, Some("worker-1")));
        assert_eq!(since.as_deref(), Some("2024-12-09T10:00:00Z"));
        let held = WindowRecord { state: WindowState::Held, ..record.clone() };
        assert_eq!(window_facts(&held, &partitions, at("2024-12-10")).slowest, None);
        let facts = window_facts(&record, &partitions[..2], at("2024-12-10"));
        let troubled = facts.troubled.expect("one has trouble");
        assert_eq!(troubled.not_before, Some(at("2024-12-10T00:01")));
        assert_eq!((troubled.class.as_str(), troubled.detail.as_str()), ("store", "503 of 1"));
    }
}
