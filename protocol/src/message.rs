//! Messages between coordinator and workers. JSON, since operators read them in the broker's own
//! tools; a few KB at most, since rows travel in manifests.

use serde::{Deserialize, Serialize};

use crate::ident::{ArchiveId, ContentHash, Job, PartitionId, Revision, WorkerId};
use crate::manifest::RowRange;
use crate::settings::PackSettings;
use crate::time::Window;
use crate::versioned::{self, Document, DocumentError};

/// Which partition of which archive a message is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PartitionAddress {
    /// The archive.
    pub archive: ArchiveId,
    /// The job.
    pub job: Job,
    /// The window.
    pub window: Window,
    /// The pass over the window.
    pub revision: Revision,
    /// The partition.
    pub partition: PartitionId,
    /// Hash of the partition's manifest.
    pub manifest_hash: ContentHash,
}

/// Coordinator to worker: execute this manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Version of this message.
    pub version: u32,
    /// The partition.
    pub address: PartitionAddress,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Object name of the manifest.
    pub manifest: String,
    /// Rows to execute.
    pub rows: u64,
    /// Which rows of the manifest these are; absent: all of them. A release that does not know
    /// this field refuses the task, since the manifest's header names another partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<RowRange>,
    /// What to pack with.
    pub settings: PackSettings,
    /// Whether no further attempt will be made for trouble with the sources: what cannot be read
    /// for whatever reason is written down as failed, file by file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub last_attempt: bool,
    /// A worker that is to give the task back, so that another one looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoid: Option<WorkerId>,
    /// Where the partition was certified before: which of its objects are to be made again, and
    /// nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// Objects of a certified partition that are gone or damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Object name of the receipt that was certified.
    pub receipt: String,
    /// Names of the shards and big files that are wanted.
    pub objects: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Worker to coordinator: what became of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this message.
    pub version: u32,
    /// The partition.
    pub address: PartitionAddress,
    /// The task's attempt.
    pub attempt: u32,
    /// Who answers.
    pub worker: WorkerId,
    /// The answer.
    pub result: TaskResult,
}

/// The answer to a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TaskResult {
    /// The receipt is durable under this object name.
    Done {
        /// Object name of the receipt.
        receipt: String,
        /// Size of the receipt in bytes.
        receipt_size: u64,
    },
    /// These of the wanted objects are durable again, with the bytes that they had.
    Restored {
        /// Their names.
        objects: Vec<String>,
    },
    /// Something failed that may work later, here or elsewhere.
    Retry {
        /// What kind of trouble.
        class: RetryClass,
        /// What the system said, for a person.
        detail: String,
    },
    /// The worker drains and did not finish the task, or is the one that the task avoids. Costs no
    /// attempt.
    Returned,
    /// The broker delivered the task a second time, so someone may have died over it: it was not
    /// executed.
    Interrupted,
    /// The task can never be executed by this worker.
    Refused {
        /// Why.
        detail: String,
    },
}

impl TaskResult {
    /// What it is called in metrics and traces; a retry by its class.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Done { .. } => "done",
            Self::Restored { .. } => "restored",
            Self::Returned => "returned",
            Self::Interrupted => "interrupted",
            Self::Refused { .. } => "refused",
            Self::Retry { class, .. } => class.as_str(),
        }
    }
}

/// Kinds of trouble that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryClass {
    /// The store did not answer, or answered with an error.
    Store,
    /// A source could not be read for a reason that is not the file's own.
    Source,
    /// A source root, or most of a partition, is missing on this worker.
    Mount,
    /// The worker's own disk or memory.
    Local,
    /// The packing code panicked.
    Panic,
}

impl RetryClass {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Store, Self::Source, Self::Mount, Self::Local, Self::Panic];

    /// The text that is stored: the same as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Source => "source",
            Self::Mount => "mount",
            Self::Local => "local",
            Self::Panic => "panic",
        }
    }
}

/// Worker to coordinator, every few seconds: still at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Version of this message.
    pub version: u32,
    /// The partition.
    pub address: PartitionAddress,
    /// The task's attempt.
    pub attempt: u32,
    /// Who reports.
    pub worker: WorkerId,
    /// Rows read so far.
    pub rows: u64,
    /// Raw bytes read so far.
    pub bytes: u64,
    /// The file that has been being read for suspiciously long, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
}

/// A file that a worker has been reading for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Its uid, or as much of it as a message holds.
    pub uid: String,
    /// Where it is, or the beginning of that.
    pub location: String,
    /// For how long, in seconds.
    pub seconds: u64,
}

macro_rules! message {
    ($name:ident, $what:literal, $kind:literal) => {
        impl $name {
            /// Version of the message that this release sends, and the newest it takes.
            pub const VERSION: u32 = 1;
            /// The message's type, as the broker's `type` property carries it.
            pub const KIND: &'static str = $kind;

            /// The message's bytes.
            pub fn encode(&self) -> Vec<u8> {
                versioned::encode_compact(self)
            }

            /// # Errors
            /// When the bytes are no such message, or one of a newer release.
            pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
                versioned::decode(bytes)
            }
        }

        impl Document for $name {
            const WHAT: &'static str = $what;
            const VERSION: u32 = Self::VERSION;
        }
    };
}

message!(Task, "task message", "des.task.v1");
message!(Outcome, "outcome message", "des.outcome.v1");
message!(Progress, "progress message", "des.progress.v1");
