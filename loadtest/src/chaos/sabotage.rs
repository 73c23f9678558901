//! The ways in which a build with the feature `sabotage` can be told to do wrong.

use super::kind::{BrokerHarm, CrashPoint, Kind, Role};
use super::oracle::Sin;

/// How long a process that stopped at a point stays so: past the lease, in milliseconds.
pub(crate) const STALL_MS: (u64, u64) = (2_500, 4_000);

/// What a sabotage is tried under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harness {
    /// Rounds of a fleet.
    Fleet,
    /// Power failures under a local directory.
    Power,
}

/// A way in which a build with the feature `sabotage` can be told to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sabotage {
    pub(crate) name: &'static str,
    pub(crate) wrong: &'static str,
    /// What it has to be caught as: one of these.
    pub(crate) sins: &'static [Sin],
    /// Under what it has to be caught.
    pub(crate) by: &'static [Harness],
    /// The faults that bring it to light; none where it shows by itself.
    pub(crate) provoked_by: &'static [(Kind, (u64, u64))],
}

/// What the harness must catch.
pub(crate) const SABOTAGES: [Sabotage; 12] = [
    Sabotage {
        name: "ack_before_upload",
        wrong: "a task is acked before its shards are uploaded",
        sins: &[Sin::Wrong],
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Crash(at(Role::Worker, "after_upload")), (0, 0))],
    },
    Sabotage {
        name: "commit_incomplete",
        wrong: "a window is committed with one partition missing",
        sins: &[Sin::Lost],
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "commit_without_epoch",
        wrong: "a window is committed whatever the lease's epoch",
        sins: &[Sin::DoubleCommit],
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Duel(at(Role::Coordinator, "before_commit")), STALL_MS)],
    },
    Sabotage {
        name: "shard_overwritten",
        wrong: "a shard is overwritten in place",
        sins: &[Sin::Wrong],
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "failed_file_dropped",
        wrong: "a failed file is dropped silently",
        sins: &[Sin::Lost],
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "midnight_excluded",
        wrong: "a window's boundary is off by one at midnight",
        sins: &[Sin::Lost],
        by: &[Harness::Fleet],
        provoked_by: &[],
    },
    Sabotage {
        name: "outcome_counted_twice",
        wrong: "an outcome that comes twice is counted twice",
        sins: &[Sin::Wrong],
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Broker(BrokerHarm::Repeat), (3_000, 5_000))],
    },
    Sabotage {
        name: "receipt_before_shards",
        wrong: "a receipt is written before its shards are durable",
        sins: &[Sin::Wrong],
        by: &[Harness::Fleet, Harness::Power],
        provoked_by: &[],
    },
    Sabotage {
        name: "stalled_leader_writes",
        wrong: "a manifest is overwritten by a leader that was stalled",
        sins: &[Sin::Wrong],
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Freeze(Role::Coordinator), (3_500, 4_500))],
    },
    Sabotage {
        name: "counts_from_message",
        wrong: "counts are taken from the message instead of the receipt",
        sins: &[Sin::Wrong],
        by: &[Harness::Fleet],
        provoked_by: &[(Kind::Broker(BrokerHarm::Forge), (0, 0))],
    },
    Sabotage {
        name: "flush_does_nothing",
        wrong: "a directory is not synced before what lies there is relied on",
        sins: &[Sin::Wrong],
        by: &[Harness::Power],
        provoked_by: &[],
    },
    Sabotage {
        name: "overwritten_unsynced",
        wrong: "an object that is relied on is replaced by bytes that are not synced yet",
        // The archive's identity may be what is torn: then nothing goes on at all.
        sins: &[Sin::Wrong, Sin::Stuck],
        by: &[Harness::Power],
        provoked_by: &[],
    },
];

const fn at(role: Role, name: &'static str) -> CrashPoint {
    CrashPoint { role, name }
}
