//! The status of an archive and its fleet, for the page and whoever else asks over HTTP: one value,
//! made from what the ledger, the broker and this process know. Pure; [`StatusReader`] asks.
//!
//! The keys in JSON are stable: additions are fine, anything else is a new [`Status::VERSION`].

mod each;
mod read;

use backends::ledger::{AuditRecord, PartitionRecord, WindowRecord};
use protocol::Timestamp;
use serde::Serialize;

pub use self::each::{EachPartition, PartitionState};
pub use self::read::StatusReader;
use crate::explain::{
    Broker, DroppedFacts, Facts, Lease, PauseFacts, Reason, StuckFacts, ThrottledFacts, Trouble,
    Watermark, WindowFacts, slowest,
};
use crate::figures::Figures;
use crate::held::HeldWindow;
use crate::live::{Live, Throughput, WorkerStatus};

/// Partitions that are told one by one, over all windows; the others are counted.
const PARTITIONS_TOLD: usize = 2_000;
/// Characters of a text that others wrote, such as a reason or an error.
const TEXT_TOLD: usize = 500;

/// Everything, as of one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Version of these keys.
    pub version: u32,
    /// The job.
    pub job: String,
    /// The process that answers.
    pub process: Process,
    /// Why the watermark moves, or does not, in a sentence: that of `des explain`.
    pub explanation: String,
    /// What the sentence comes to.
    pub tone: Tone,
    /// Where the watermark stands; null when there is no archive or the ledger does not answer.
    pub watermark: Option<Watermark>,
    /// Seconds from the watermark to its target; not negative.
    pub lag_seconds: Option<i64>,
    /// Who leads; null when nobody holds the lease.
    pub lease: Option<Lease>,
    /// The pause that stands.
    pub paused: Option<PauseFacts>,
    /// What whoever leads waits for because of its configuration or a throttle.
    pub throttled: Option<ThrottledFacts>,
    /// What is to be done: by the ledger, and by the broker.
    pub backlog: Backlog,
    /// Windows that are not committed, requested passes included.
    pub open_windows: u64,
    /// The first of them, by end and revision.
    pub windows: Vec<WindowStatus>,
    /// The certified window that the watermark cannot pass again.
    pub stuck: Option<StuckFacts>,
    /// The first of the committed windows whose last pass was dropped.
    pub dropped: Vec<DroppedFacts>,
    /// Workers that were heard of in the last quarter of an hour; null where another one leads, who
    /// hears them.
    pub workers: Option<Vec<WorkerStatus>>,
    /// Files of accepted partitions by minute; null where another one leads.
    pub throughput: Option<Throughput>,
    /// Unresolved error rows by reason, the most frequent first.
    pub errors: Vec<Reason>,
    /// What does not answer, and what it says.
    pub troubles: Vec<Trouble>,
    /// The newest entries of the audit log, the newest first.
    pub audit: Vec<AuditStatus>,
}

/// The process that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// What it is to the fleet.
    pub role: Role,
    /// Whether it does its work, as `/readyz` says.
    pub ready: bool,
    /// What it does, or what is in its way.
    pub told: String,
}

/// What a coordinator is to the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has just begun.
    Starting,
    /// Another one leads.
    StandingBy,
    /// It leads.
    Leading,
    /// A run reached its goal; the next one is to come.
    Resting,
}

/// What the sentence comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// The watermark moves.
    Moving,
    /// Nothing is due.
    Idle,
    /// An operator paused.
    Paused,
    /// Nothing new is begun, because of limits.
    Throttled,
    /// A window waits for an operator.
    Held,
    /// Something is in the way.
    Trouble,
}

/// What is to be done, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Backlog {
    /// Files between watermark and target, as last counted by whoever leads; null where that is
    /// another process, or the catalog does not answer.
    pub pending_files: Option<u64>,
    /// Seconds that they take at the pace of the last ten minutes; null where nothing moved.
    pub seconds: Option<f64>,
    /// Partitions of open windows that have no accepted receipt, by the ledger.
    pub partitions_to_do: u64,
    /// Those of them that wait to be tried again.
    pub partitions_backing_off: u64,
    /// The broker's figures; null where there is none, or it does not answer.
    pub broker: Option<Broker>,
}

/// A pass over a window that is not committed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowStatus {
    /// As `des explain` tells it.
    #[serde(flatten)]
    pub facts: WindowFacts,
    /// Why it is held and what to do; null when it is not.
    pub why_held: Option<String>,
    /// Its partitions by number, as far as there is room for them.
    pub each_partition: Vec<EachPartition>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditStatus {
    /// When, by the database's clock.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// The value before.
    pub from: Option<String>,
    /// The value after.
    pub to: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What a status is made from.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) job: String,
    pub(crate) facts: Facts,
    /// The open windows that were looked at.
    pub(crate) windows: Vec<(WindowRecord, Vec<PartitionRecord>)>,
    pub(crate) audit: Vec<AuditRecord>,
    /// `None` where this process is not the one to show it.
    pub(crate) live: Option<Live>,
    pub(crate) figures: Option<std::sync::Arc<Figures>>,
}

impl Status {
    /// Version of the keys.
    pub const VERSION: u32 = 1;

    pub(crate) fn new(
        parts: Parts,
        (role, ready): (Role, Result<String, String>),
        now: Timestamp,
    ) -> Self {
        let Parts { job, facts, windows, audit, live, figures } = parts;
        let (explanation, tone) = (facts.sentence(), tone(&facts));
        let process = Process { role, ready: ready.is_ok(), told: ready.unwrap_or_else(|why| why) };
        let lag = facts.watermark.map(|it| it.target.seconds_since(it.archived_until).max(0));
        let backlog = Backlog::new(&facts, figures.as_deref());
        let workers = live.as_ref().map(|live| live.workers(now));
        let busy = workers.as_deref().unwrap_or_default();
        let clock = facts.now.unwrap_or(now);
        let mut room = PARTITIONS_TOLD;
        let windows =
            facts.windows.into_iter().zip(windows).map(|(mut facts, (record, partitions))| {
                let why_held =
                    facts.held.then(|| HeldWindow::new(&record, facts.files_failed).reason);
                let known = each::Known { window: record.key(), clock, live: live.as_ref(), busy };
                facts.slowest = slowest(&record, &partitions, &known.under_way());
                let each: Vec<_> =
                    partitions.iter().take(room).map(|partition| known.tell(partition)).collect();
                room = room.saturating_sub(each.len());
                WindowStatus { facts: shortened_trouble(facts), why_held, each_partition: each }
            });
        Self {
            version: Self::VERSION,
            job,
            process,
            explanation,
            tone,
            watermark: facts.watermark,
            lag_seconds: lag,
            lease: facts.lease,
            paused: facts.paused,
            throttled: facts.throttled.map(shortened_reason),
            backlog,
            open_windows: facts.open_windows,
            windows: windows.collect(),
            stuck: facts.stuck,
            dropped: facts.dropped,
            throughput: live.as_ref().map(|live| live.throughput(now)),
            workers,
            errors: facts.errors,
            troubles: facts.troubles,
            audit: audit.into_iter().map(AuditStatus::from).collect(),
        }
    }
}

impl Backlog {
    fn new(facts: &Facts, figures: Option<&Figures>) -> Self {
        let count = |what: fn(&WindowFacts) -> u64| facts.windows.iter().map(what).sum();
        Self {
            pending_files: figures.and_then(|figures| figures.pending_files),
            seconds: figures.and_then(|figures| figures.backlog_seconds),
            partitions_to_do: count(|it| it.partitions.to_do + it.partitions.backing_off),
            partitions_backing_off: count(|it| it.partitions.backing_off),
            broker: facts.broker,
        }
    }
}

impl From<AuditRecord> for AuditStatus {
    fn from(AuditRecord { at, entry }: AuditRecord) -> Self {
        let short = |text: Option<String>| text.map(shortened);
        Self {
            at,
            actor: shortened(entry.actor),
            action: entry.action,
            from: short(entry.from),
            to: short(entry.to),
            reason: short(entry.reason),
        }
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(TEXT_TOLD) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn shortened_reason(it: ThrottledFacts) -> ThrottledFacts {
    ThrottledFacts { reason: shortened(it.reason), ..it }
}

fn shortened_trouble(mut facts: WindowFacts) -> WindowFacts {
    if let Some(troubled) = &mut facts.troubled {
        troubled.detail = shortened(std::mem::take(&mut troubled.detail));
    }
    facts
}

/// What the sentence comes to, by the same order of reasons.
fn tone(facts: &Facts) -> Tone {
    let Some(watermark) = facts.watermark else { return Tone::Trouble };
    let by_hand = watermark.left_at != watermark.archived_until;
    let nobody_leads = facts.lease.as_ref().is_none_or(|lease| lease.expired);
    let nobody_works = facts.broker.is_some_and(|broker| broker.workers == 0);
    let first = facts.windows.iter().find(|window| !window.requested);
    let waits = first.is_some_and(|it| it.partitions.to_do == 0 && it.partitions.backing_off > 0);
    match () {
        () if facts.behind.is_some() || by_hand => Tone::Trouble,
        () if facts.paused.is_some() => Tone::Paused,
        () if facts.stuck.is_some() || facts.windows.iter().any(|it| it.held) => Tone::Held,
        () if !facts.troubles.is_empty() => Tone::Trouble,
        () if facts.open_windows == 0 && watermark.target <= watermark.archived_until => {
            if facts.dropped.is_empty() { Tone::Idle } else { Tone::Held }
        }
        () if nobody_leads => Tone::Trouble,
        () if facts.throttled.as_ref().is_some_and(ThrottledFacts::stops) => Tone::Throttled,
        () if waits || (nobody_works && first.is_some()) => Tone::Trouble,
        () => Tone::Moving,
    }
}

#[cfg(test)]
mod tests;
