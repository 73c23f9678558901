//! What is read of a coordinator's status: docs/page.md has its keys. Keys that a later release adds
//! are passed over.

use protocol::Timestamp;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Told {
    pub(super) error: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct View {
    pub(super) at: Timestamp,
    pub(super) job: String,
    pub(super) process: Process,
    pub(super) explanation: String,
    pub(super) watermark: Option<Watermark>,
    pub(super) lag_seconds: Option<i64>,
    pub(super) lease: Option<Lease>,
    pub(super) backlog: Backlog,
    pub(super) open_windows: u64,
    pub(super) windows: Vec<WindowView>,
    /// `None` where another process leads.
    pub(super) workers: Option<Vec<WorkerView>>,
    pub(super) throughput: Option<Throughput>,
    pub(super) errors: Vec<Reason>,
    pub(super) troubles: Vec<Trouble>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Process {
    pub(super) role: String,
    pub(super) told: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Watermark {
    pub(super) archived_until: Timestamp,
    pub(super) target: Timestamp,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Lease {
    pub(super) holder: String,
    pub(super) expired: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Backlog {
    pub(super) pending_files: Option<u64>,
    pub(super) seconds: Option<f64>,
    pub(super) partitions_to_do: u64,
    pub(super) broker: Option<Broker>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Broker {
    pub(super) tasks: u64,
    pub(super) workers: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct WindowView {
    pub(super) end: Timestamp,
    pub(super) revision: u16,
    pub(super) requested: bool,
    pub(super) held: bool,
    pub(super) files: u64,
    pub(super) files_failed: u64,
    pub(super) partitions: Partitions,
    pub(super) each_partition: Vec<EachPartition>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Partitions {
    pub(super) all: u64,
    pub(super) accepted: u64,
    pub(super) backing_off: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct EachPartition {
    pub(super) partition: u32,
    pub(super) rows: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct WorkerView {
    pub(super) worker: String,
    /// Absent where the coordinator is of an older release.
    pub(super) since: Option<Timestamp>,
    pub(super) heard_at: Timestamp,
    pub(super) tasks: Vec<TaskView>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TaskView {
    pub(super) window: Timestamp,
    pub(super) revision: u16,
    pub(super) partition: u32,
    pub(super) attempt: u32,
    pub(super) rows: u64,
    pub(super) rows_per_second: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Throughput {
    /// The current minute last.
    pub(super) files: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Reason {
    pub(super) reason: String,
    pub(super) files: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) text: String,
}

impl View {
    /// Rows of a partition, where the status tells of it.
    pub(super) fn rows_of(&self, task: &TaskView) -> Option<u64> {
        let window =
            self.windows.iter().find(|it| (it.end, it.revision) == (task.window, task.revision))?;
        let partition = window.each_partition.iter().find(|it| it.partition == task.partition)?;
        Some(partition.rows)
    }
}
