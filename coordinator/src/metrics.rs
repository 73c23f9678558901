//! What a coordinator counts where it decides it, by the `metrics` facade. Names and labels stand in
//! `docs/metrics.md`; what the ledger knows is not counted here but read from it ([`crate::figures`]).

use std::time::Instant;

use backends::ledger::{Setback, WindowTotals};
use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use crate::attempts::CLASSES;

const FILES: &str = "des_migration_files_total";
const BYTES: &str = "des_migration_bytes_total";
const WINDOWS: &str = "des_migration_windows_total";
const DURATION: &str = "des_migration_duration_seconds";
const WINDOW_FILES: &str = "des_window_files";
const PUBLISHED: &str = "des_tasks_published_total";
const ACCEPTED: &str = "des_partitions_accepted_total";
const SPLIT: &str = "des_partitions_split_total";
const GIVEN_UP: &str = "des_partitions_given_up_total";
const SETBACKS: &str = "des_partition_setbacks_total";
const DEAD_LETTERS: &str = "des_dead_letters_total";
const TAKEOVERS: &str = "des_lease_taken_total";

/// Histograms and the upper bounds of their buckets.
pub const BOUNDS: &[(&str, &[f64])] = &[
    (DURATION, &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0]),
    (WINDOW_FILES, &[0.0, 100.0, 1e3, 1e4, 1e5, 3e5, 1e6, 3e6, 1e7, 1e8]),
];

/// Describes everything that is counted here, so that it is there before anything happens.
pub fn describe() {
    describe_counter!(FILES, Unit::Count, "Files of committed passes, by what became of them");
    describe_counter!(BYTES, Unit::Bytes, "Bytes of committed passes, before and after packing");
    describe_counter!(WINDOWS, Unit::Count, "Passes over windows that were committed");
    describe_histogram!(DURATION, Unit::Seconds, "Time from a window's plan to its commit");
    describe_histogram!(WINDOW_FILES, Unit::Count, "Files of a planned window");
    describe_counter!(PUBLISHED, Unit::Count, "Tasks published, again for each attempt");
    describe_counter!(ACCEPTED, Unit::Count, "Partitions whose receipt was accepted");
    describe_counter!(SPLIT, Unit::Count, "Partitions that were split in two");
    describe_counter!(GIVEN_UP, Unit::Count, "Partitions whose rows were given up");
    describe_counter!(SETBACKS, Unit::Count, "Answers without an accepted receipt, by class");
    describe_counter!(DEAD_LETTERS, Unit::Count, "Messages that nobody could read");
    describe_counter!(TAKEOVERS, Unit::Count, "Times this process came to lead");
    for name in [WINDOWS, PUBLISHED, ACCEPTED, SPLIT, GIVEN_UP, TAKEOVERS] {
        counter!(name).absolute(0);
    }
    for result in ["archived", "failed"] {
        counter!(FILES, "result" => result).absolute(0);
    }
    for kind in ["raw", "stored"] {
        counter!(BYTES, "kind" => kind).absolute(0);
    }
    for class in CLASSES {
        counter!(SETBACKS, "class" => class, "counted" => counted(class)).absolute(0);
    }
    counter!(DEAD_LETTERS, "queue" => "outcomes").absolute(0);
    let _registered = (histogram!(DURATION), histogram!(WINDOW_FILES));
}

/// What a setback of a class is counted as.
fn counted(class: &str) -> &'static str {
    match class {
        "source" | "panic" | "receipt" => "attempt",
        "interrupted" => "interruption",
        _ => "nothing",
    }
}

pub(crate) fn committed(totals: WindowTotals, began: Option<Instant>) {
    counter!(WINDOWS).increment(1);
    counter!(FILES, "result" => "archived").increment(totals.files_archived);
    counter!(FILES, "result" => "failed").increment(totals.files_failed);
    counter!(BYTES, "kind" => "raw").increment(totals.bytes_raw);
    counter!(BYTES, "kind" => "stored").increment(totals.bytes_stored);
    // Of a window that a predecessor planned nobody knows when it began.
    if let Some(began) = began {
        histogram!(DURATION).record(began.elapsed().as_secs_f64());
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn planned(files: u64) {
    histogram!(WINDOW_FILES).record(files as f64);
}

pub(crate) fn published() {
    counter!(PUBLISHED).increment(1);
}

pub(crate) fn accepted() {
    counter!(ACCEPTED).increment(1);
}

pub(crate) fn split() {
    counter!(SPLIT).increment(1);
}

pub(crate) fn given_up() {
    counter!(GIVEN_UP).increment(1);
}

/// A class that nobody knows is a mistake, and must not make a series of its own.
pub(crate) fn setback(setback: &Setback) {
    if let Some(class) = CLASSES.into_iter().find(|class| *class == setback.class) {
        counter!(SETBACKS, "class" => class, "counted" => counted(class)).increment(1);
    }
}

pub(crate) fn dead_letter() {
    counter!(DEAD_LETTERS, "queue" => "outcomes").increment(1);
}

pub(crate) fn came_to_lead() {
    counter!(TAKEOVERS).increment(1);
}
