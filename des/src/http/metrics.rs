//! The exporter: what was counted since the process began, and what is true just now.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::Context as _;
use coordinator::board::Board;
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
    describe_gauge, gauge, with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::Served;
use crate::job_threads::{self, within};

/// How often what was measured is put into buckets: memory is that of so much time.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Makes everything that is counted in this process go into a recorder, until `stop`.
///
/// # Errors
/// When there is a recorder already.
pub(super) fn install(
    served: &Served,
    stop: &CancellationToken,
) -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    let bounds = [backends::metrics::BOUNDS, coordinator::metrics::BOUNDS, worker::metrics::BOUNDS];
    for (name, bounds) in bounds.into_iter().flatten() {
        builder = builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(PerJob(recorder)).context("metrics are counted already")?;
    // Not of any job, since a process sends the spans of all of them together.
    crate::telemetry::describe();
    for it in &served.jobs {
        within(served.named(it), || {
            backends::metrics::describe();
            if served.coordinates() {
                backends::metrics::describe_ledger();
                coordinator::metrics::describe();
            }
            if served.works {
                worker::metrics::describe();
            }
        });
    }
    let (upkeep, stop) = (handle.clone(), stop.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(UPKEEP_EVERY) => upkeep.run_upkeep(),
            }
        }
    });
    Ok(handle)
}

/// The text of a scrape. What is true just now goes into a recorder of its own each time, so that
/// nothing is left of what was true before: a leader's figures when it leads no more.
pub(super) fn render(counted: &PrometheusHandle, served: &Served) -> String {
    let now = PrometheusBuilder::new().build_recorder();
    let rendered = now.handle();
    with_local_recorder(&PerJob(now), || {
        if let Some(bytes) = resident_memory() {
            describe_gauge!(MEMORY, Unit::Bytes, "Resident memory");
            gauge!(MEMORY).set(bytes);
        }
        for it in &served.jobs {
            if let Some(board) = it.board() {
                within(served.named(it), || tell(board));
            }
        }
    });
    counted.render() + &rendered.render()
}

/// Says of what is counted for which job, where there are several.
struct PerJob<R>(R);

/// `job` is a label that Prometheus itself gives to everything that it scrapes.
const LABEL: &str = "des_job";
/// What the jobs of a process share.
const SHARED: [&str; 2] = [worker::metrics::SLOTS, crate::telemetry::SPANS];

fn of_job(key: &Key) -> Cow<'_, Key> {
    match job_threads::current() {
        Some(job) if !SHARED.contains(&key.name()) => {
            Cow::Owned(key.with_extra_labels(vec![Label::new(LABEL, String::from(job))]))
        }
        _ => Cow::Borrowed(key),
    }
}

impl<R: Recorder> Recorder for PerJob<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(&of_job(key), metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(&of_job(key), metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(&of_job(key), metadata)
    }
}

/// The name that Prometheus' own libraries use.
const MEMORY: &str = "process_resident_memory_bytes";

#[expect(clippy::cast_precision_loss, reason = "epochs are small")]
fn tell(board: &Board) {
    let epoch = board.epoch();
    describe_gauge!("des_leading", Unit::Count, "1 while this process leads, else 0");
    describe_gauge!("des_ready", Unit::Count, "1 while /readyz says so, else 0");
    gauge!("des_leading").set(f64::from(u8::from(epoch.is_some())));
    gauge!("des_ready").set(f64::from(u8::from(board.ready().is_ok())));
    if let Some(epoch) = epoch {
        describe_gauge!("des_lease_epoch", Unit::Count, "Epoch of the lease of who leads");
        gauge!("des_lease_epoch").set(epoch as f64);
    }
    if let Some(age) = board.figures_age() {
        coordinator::figures::tell_age(age);
    }
    if let Some(figures) = board.figures() {
        figures.tell();
    }
}

/// Bytes; `None` where the system has no `/proc`.
fn resident_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024.0)
}
