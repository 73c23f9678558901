//! What a worker counts, by the `metrics` facade. Names and labels stand in `docs/metrics.md`.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use protocol::message::{RetryClass, TaskResult};

/// Slots, which are the process's, whatever it does in them.
pub const SLOTS: &str = "des_worker_slots";
const SLOTS_BUSY: &str = "des_worker_slots_busy";
const TASKS: &str = "des_worker_tasks_total";
const TASK_SECONDS: &str = "des_worker_task_seconds";
const FILES_READ: &str = "des_worker_files_read_total";
const BYTES_READ: &str = "des_worker_bytes_read_total";
const SOURCE_READ: &str = "des_source_read_seconds";
const DEAD_LETTERS: &str = "des_dead_letters_total";

/// Histograms and the upper bounds of their buckets.
pub const BOUNDS: &[(&str, &[f64])] = &[
    (TASK_SECONDS, &[0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1_800.0]),
    (SOURCE_READ, &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 1.0, 10.0]),
];

/// Describes everything that is counted here, so that it is there before anything happens.
pub fn describe() {
    describe_gauge!(SLOTS, Unit::Count, "Tasks that may be executed at a time");
    describe_gauge!(SLOTS_BUSY, Unit::Count, "Tasks that are being executed");
    describe_counter!(TASKS, Unit::Count, "Tasks answered, by the answer");
    describe_histogram!(TASK_SECONDS, Unit::Seconds, "Time of a task that was executed");
    describe_counter!(FILES_READ, Unit::Count, "Files looked at, again for each attempt");
    describe_counter!(BYTES_READ, Unit::Bytes, "Bytes of files read, again for each attempt");
    describe_histogram!(SOURCE_READ, Unit::Seconds, "Time to open and read one file");
    describe_counter!(DEAD_LETTERS, Unit::Count, "Messages that nobody could read");
    gauge!(SLOTS).set(0.0);
    gauge!(SLOTS_BUSY).set(0.0);
    let others = [
        TaskResult::Done { receipt: String::new(), receipt_size: 0 },
        TaskResult::Restored { objects: Vec::new() },
        TaskResult::Returned,
        TaskResult::Interrupted,
        TaskResult::Refused { detail: String::new() },
    ];
    let classes = RetryClass::ALL.iter().map(|class| class.as_str());
    for result in others.iter().map(TaskResult::as_str).chain(classes) {
        counter!(TASKS, "result" => result).absolute(0);
    }
    counter!(FILES_READ).absolute(0);
    counter!(BYTES_READ).absolute(0);
    counter!(DEAD_LETTERS, "queue" => "tasks").absolute(0);
    let _registered = (histogram!(TASK_SECONDS), histogram!(SOURCE_READ));
}

/// Adds to a gauge for as long as it lives.
pub(crate) struct Held(&'static str, f64);

impl Held {
    /// The slots of a worker that runs.
    pub(crate) fn slots(slots: u16) -> Self {
        Self::new(SLOTS, slots.into())
    }

    /// A slot in which a task is executed.
    pub(crate) fn busy() -> Self {
        Self::new(SLOTS_BUSY, 1.0)
    }

    fn new(name: &'static str, value: f64) -> Self {
        gauge!(name).increment(value);
        Self(name, value)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        gauge!(self.0).decrement(self.1);
    }
}

pub(crate) fn answered(result: &TaskResult) {
    counter!(TASKS, "result" => result.as_str()).increment(1);
}

pub(crate) fn executed(took: std::time::Duration) {
    histogram!(TASK_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn dead_letter() {
    counter!(DEAD_LETTERS, "queue" => "tasks").increment(1);
}

/// What a thread that reads counts, looked up once.
pub(crate) struct Reads {
    pub(crate) files: metrics::Counter,
    pub(crate) bytes: metrics::Counter,
    pub(crate) seconds: metrics::Histogram,
}

impl Reads {
    pub(crate) fn new() -> Self {
        Self {
            files: counter!(FILES_READ),
            bytes: counter!(BYTES_READ),
            seconds: histogram!(SOURCE_READ),
        }
    }
}
