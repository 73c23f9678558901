//! Every partition of a window, and what is becoming of it. Pure.

use std::collections::BTreeMap;

use backends::ledger::PartitionRecord;
use protocol::{PartitionId, Timestamp, WindowKey};
use serde::Serialize;

use super::shortened;
use crate::explain::UnderWay;
use crate::live::{Live, TaskStatus, WorkerStatus};

/// What is becoming of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionState {
    /// Published or to be: told by a process that does not lead, and does not know which.
    ToDo,
    /// Its task is to be published.
    Waiting,
    /// Its task is published, and nobody was heard to work on it.
    Published,
    /// A worker works on it.
    Running,
    /// It came back undone, and is tried again at a time.
    Retrying,
    /// Its receipt is accepted, and no file failed.
    Accepted,
    /// Its receipt is accepted, and files failed.
    AcceptedWithFailures,
}

/// A partition. Keys that say nothing are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EachPartition {
    /// Its number.
    pub partition: PartitionId,
    /// What is becoming of it.
    pub state: PartitionState,
    /// Its rows.
    pub rows: u64,
    /// Rows that its worker has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_read: Option<u64>,
    /// Who works on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Whether it is a part of one that was split.
    #[serde(skip_serializing_if = "is_false")]
    pub part: bool,
    /// Answers without an accepted receipt.
    #[serde(skip_serializing_if = "is_zero")]
    pub setbacks: u32,
    /// Those of them that count against its rows.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// Times that the broker delivered its task twice.
    #[serde(skip_serializing_if = "is_zero")]
    pub interruptions: u32,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Class and detail of its last trouble, while it has no accepted receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Files that failed in what is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_failed: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// What is known besides the ledger, of one window.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) window: WindowKey,
    /// The ledger's clock.
    pub(super) clock: Timestamp,
    /// `None` where another process leads.
    pub(super) live: Option<&'a Live>,
    pub(super) busy: &'a [WorkerStatus],
}

impl Known<'_> {
    pub(super) fn tell(&self, record: &PartitionRecord) -> EachPartition {
        let running = self.running(record.partition).filter(|_| record.accepted.is_none());
        let not_before = record.not_before.filter(|time| *time > self.clock);
        let state = match &record.accepted {
            Some(accepted) if accepted.files_failed > 0 => PartitionState::AcceptedWithFailures,
            Some(_) => PartitionState::Accepted,
            None if running.is_some() => PartitionState::Running,
            None if not_before.is_some() => PartitionState::Retrying,
            None => match self.live {
                None => PartitionState::ToDo,
                Some(live) if live.is_published(self.window, record.partition) => {
                    PartitionState::Published
                }
                Some(_) => PartitionState::Waiting,
            },
        };
        let trouble = record.trouble.as_ref().filter(|_| record.accepted.is_none());
        let trouble = trouble.map(|(class, detail)| shortened(format!("{class}: {detail}")));
        let failed = record.accepted.as_ref().map(|accepted| accepted.files_failed);
        EachPartition {
            partition: record.partition,
            state,
            rows: record.rows.rows,
            rows_read: running.map(|(_, rows)| rows),
            worker: running.map(|(worker, _)| worker.to_owned()),
            part: record.first_row.is_some(),
            setbacks: record.setbacks,
            attempts: record.attempts,
            interruptions: record.interruptions,
            not_before: not_before.filter(|_| state == PartitionState::Retrying),
            trouble,
            files_failed: failed.filter(|files| *files > 0),
        }
    }

    /// What of the window is being worked on.
    fn tasks(&self) -> impl Iterator<Item = (&WorkerStatus, &TaskStatus)> {
        let (end, revision) = (self.window.end, self.window.revision);
        let tasks =
            self.busy.iter().flat_map(|worker| worker.tasks.iter().map(move |task| (worker, task)));
        tasks.filter(move |(_, task)| (task.window, task.revision) == (end, revision))
    }

    /// The worker that was heard of it last, and the rows that it read.
    fn running(&self, partition: PartitionId) -> Option<(&str, u64)> {
        let ours = self.tasks().filter(|(_, task)| task.partition == partition);
        let (worker, task) = ours.max_by_key(|(_, task)| task.heard_at)?;
        Some((&worker.worker, task.rows))
    }

    /// Which partitions are under way, with whoever was heard of each last.
    pub(super) fn under_way(&self) -> BTreeMap<PartitionId, UnderWay> {
        let mut tasks: Vec<_> = self.tasks().collect();
        tasks.sort_by_key(|(_, task)| task.heard_at);
        let under_way = tasks.into_iter().map(|(worker, task)| {
            let (worker, since) = (worker.worker.clone(), Some(task.since));
            (task.partition, UnderWay { worker, since })
        });
        under_way.collect()
    }
}
