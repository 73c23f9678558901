//! What was found out. Stable keys in JSON.

use backends::ledger::{Pause, Scope, Wait};
use protocol::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything that says why the watermark moves or does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The ledger's clock.
    pub now: Option<Timestamp>,
    /// How long the ledger took to tell it, in milliseconds.
    pub answered_after_ms: Option<u64>,
    /// `None` when the archive was never made, or the ledger does not answer.
    pub watermark: Option<Watermark>,
    /// Who leads; `None` when nobody holds the lease.
    pub lease: Option<Lease>,
    /// The pause that stands; `None` when there is none.
    pub paused: Option<PauseFacts>,
    /// What whoever leads waits for because of its configuration or a throttle; `None`: for nothing.
    pub throttled: Option<ThrottledFacts>,
    /// Why the ledger must not be used with this store, if so.
    pub behind: Option<String>,
    /// Windows that are not committed, requested replays included.
    pub open_windows: u64,
    /// The first of them, by end and revision.
    pub windows: Vec<WindowFacts>,
    /// The window that the watermark cannot pass: one that cannot be planned.
    pub stuck: Option<StuckFacts>,
    /// Committed windows whose last pass was dropped: what is late, failed or damaged of them is not
    /// taken up. The first of them, by end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<DroppedFacts>,
    /// Unresolved error rows by reason, the most frequent first.
    pub errors: Vec<Reason>,
    /// `None` where there is none, or it does not answer.
    pub broker: Option<Broker>,
    /// What does not answer, and what it says.
    pub troubles: Vec<Trouble>,
}

/// The watermark, and what lies around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Watermark {
    /// Where it stands.
    pub archived_until: Timestamp,
    /// Where des left it: elsewhere when somebody moved it by hand.
    pub left_at: Timestamp,
    /// Rows at or below are not covered.
    pub origin: Timestamp,
    /// Days that files are left alone.
    pub lag_days: u32,
    /// How far windows may reach now.
    pub target: Timestamp,
    /// When the oldest transaction began that is open on the catalog, where windows reach less far
    /// because of it, which they do only with a lag under a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_transaction: Option<Timestamp>,
    /// Rows between watermark and target, where the catalog answers.
    pub pending_files: Option<u64>,
    /// Rows at or below the origin, where the catalog answers.
    pub uncovered_files: Option<u64>,
}

/// The lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Who holds it.
    pub holder: String,
    /// Its epoch.
    pub epoch: u64,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// Whether it has ended.
    pub expired: bool,
    /// Since when its holder has had it; null where nobody wrote it down.
    pub since: Option<Timestamp>,
    /// The seconds since then.
    pub age_seconds: Option<i64>,
}

/// A pause that an operator asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PauseFacts {
    /// Since when.
    pub since: Timestamp,
    /// Who: user and host.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; null: only with `des resume`.
    pub until: Option<Timestamp>,
    /// Whether it is one of all jobs whose ledger is in the same database.
    pub all_jobs: bool,
}

/// What whoever leads waits for, at an operator's wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThrottledFacts {
    /// Since when.
    pub since: Timestamp,
    /// A word for the reason: one of [`crate::throttle::Reason::KINDS`].
    pub kind: String,
    /// Why.
    pub reason: String,
}

impl From<Wait> for ThrottledFacts {
    fn from(Wait { kind, reason, since }: Wait) -> Self {
        Self { since, kind, reason }
    }
}

impl From<&Pause> for PauseFacts {
    fn from(pause: &Pause) -> Self {
        let Pause { scope, since, actor, reason, until } = pause.clone();
        Self { since, by: actor, reason, until, all_jobs: scope == Scope::AllJobs }
    }
}

/// A pass over a window that is not committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowFacts {
    /// Exclusive lower bound of created_at.
    pub start: Timestamp,
    /// Inclusive upper bound of created_at.
    pub end: Timestamp,
    /// The pass.
    pub revision: u16,
    /// Whether it is a replay that was asked for and not begun.
    pub requested: bool,
    /// Whether more files failed than is allowed.
    pub held: bool,
    /// Its files.
    pub files: u64,
    /// Files that failed in accepted partitions.
    pub files_failed: u64,
    /// Its partitions by state.
    pub partitions: Partitions,
    /// The partition with the most trouble, when one that is not accepted has any.
    pub troubled: Option<TroubledPartition>,
    /// Since when it has been asked for, open or held; null where nobody wrote it down.
    pub since: Option<Timestamp>,
    /// Why the pass cannot be planned for now, where it lies below the watermark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// The partition that its end waits for most, while it is open.
    pub slowest: Option<SlowPartition>,
}

/// The partition of an open window without an accepted receipt that has been under way for longest; while
/// none is known to be, the one that was set back most often, and of several the one with the most rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowPartition {
    /// Its number.
    pub partition: u32,
    /// Its rows.
    pub rows: u64,
    /// Answers without a receipt that was accepted.
    pub setbacks: u32,
    /// Who works on it; null where it waits, or where that is not known: the ledger only says it where
    /// no broker spreads the work, whoever leads hears it of workers.
    pub worker: Option<String>,
    /// Since when that has been heard, by the clock of whoever leads; null where it was not.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

/// A window that the watermark cannot pass: one that cannot be planned for now, or a certified one
/// that it was moved back over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StuckFacts {
    /// Its end.
    pub end: Timestamp,
    /// Why, and what to do.
    pub reason: String,
}

/// A committed window whose last pass could not be planned, since something of it is gone or
/// damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedFacts {
    /// Its end.
    pub end: Timestamp,
    /// What is gone or damaged.
    pub reason: String,
}

/// Partitions by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Partitions {
    /// All of them.
    pub all: u64,
    /// Done: their receipts are accepted.
    pub accepted: u64,
    /// To be published, waiting in the queue, or being worked on: the ledger does not say which.
    pub to_do: u64,
    /// Waiting to be tried again.
    pub backing_off: u64,
}

impl Partitions {
    /// Those of another window besides.
    pub(crate) fn add(&mut self, other: Self) {
        self.all += other.all;
        self.accepted += other.accepted;
        self.to_do += other.to_do;
        self.backing_off += other.backing_off;
    }
}

/// A partition with trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TroubledPartition {
    /// Its number.
    pub partition: u32,
    /// Answers without a receipt that was accepted, whatever the reason.
    pub setbacks: u32,
    /// Those of them that its files may be the cause of.
    pub attempts: u32,
    /// Times its worker was interrupted.
    pub interruptions: u32,
    /// Class of the last trouble.
    pub class: String,
    /// What was said.
    pub detail: String,
    /// When it is tried again, where that lies ahead.
    pub not_before: Option<Timestamp>,
}

/// Error rows of one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The reason.
    pub reason: String,
    /// Files.
    pub files: u64,
}

/// What the broker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Broker {
    /// Tasks that wait for a worker.
    pub tasks: u64,
    /// Workers that listen.
    pub workers: u64,
    /// Messages that nobody could read.
    pub dead_letters: u64,
}

/// Something that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// `ledger`, `catalog`, `store` or `broker`.
    pub what: String,
    /// What it says, or what was said about it.
    pub text: String,
}
