//! The workers of a fleet: for `des workers`, and as a part of what `des top` shows. Pure.

use anyhow::anyhow;
use protocol::Timestamp;
use serde::Serialize;

use super::view::{TaskView, View, WorkerView};
use crate::output::grouped;

#[derive(Debug, Serialize)]
pub(super) struct WorkersResult {
    /// When this was read, by the coordinator's clock.
    pub(super) at: Timestamp,
    /// Workers that listen for tasks, by the broker; null where there is none.
    listening: Option<u64>,
    /// Those of which something was heard in the last quarter of an hour.
    pub(super) workers: Vec<Worker>,
}

#[derive(Debug, Serialize)]
pub(super) struct Worker {
    worker: String,
    /// The machine, as its name tells; null where it does not.
    host: Option<String>,
    /// When the coordinator that leads heard of it first.
    since: Option<Timestamp>,
    /// When it heard of it last.
    heard_at: Timestamp,
    slots_busy: u64,
    /// Of all its tasks together; null where none of them has a pace yet.
    files_per_second: Option<f64>,
    tasks: Vec<Task>,
}

#[derive(Debug, Serialize)]
struct Task {
    /// End of the window.
    window: Timestamp,
    revision: u16,
    partition: u32,
    attempt: u32,
    /// Rows that are read.
    rows_done: u64,
    /// Rows of the partition; null where the status has no room for it.
    rows: Option<u64>,
    files_per_second: Option<f64>,
}

/// What the coordinator at `url` knows of its workers.
///
/// # Errors
/// When another one leads, which alone hears them; with its name.
pub(super) fn result(url: &str, view: &View) -> anyhow::Result<WorkersResult> {
    let workers = view.workers.as_deref().ok_or_else(|| anyhow!("{}", nobody_heard(url, view)))?;
    Ok(WorkersResult {
        at: view.at,
        listening: view.backlog.broker.as_ref().map(|broker| broker.workers),
        workers: workers.iter().map(|it| Worker::of(it, view)).collect(),
    })
}

/// Why the coordinator at `url` does not know, and what to do.
pub(super) fn nobody_heard(url: &str, view: &View) -> String {
    match &view.lease {
        Some(lease) if !lease.expired => format!(
            "{url} does not lead ({}): {} does, and only it hears the workers. Ask there: --url \
             with its http.listen",
            view.process.told, lease.holder
        ),
        _ => format!(
            "{url} does not lead ({}), and nobody else does yet: try again in some seconds",
            view.process.told
        ),
    }
}

impl Worker {
    fn of(it: &WorkerView, view: &View) -> Self {
        let paces: Vec<f64> = it.tasks.iter().filter_map(|task| task.rows_per_second).collect();
        Self {
            worker: it.worker.clone(),
            host: host(&it.worker),
            since: it.since,
            heard_at: it.heard_at,
            slots_busy: it.tasks.len() as u64,
            files_per_second: (!paces.is_empty()).then(|| paces.iter().sum()),
            tasks: it.tasks.iter().map(|task| Task::of(task, view)).collect(),
        }
    }
}

impl Task {
    fn of(it: &TaskView, view: &View) -> Self {
        Self {
            window: it.window,
            revision: it.revision,
            partition: it.partition,
            attempt: it.attempt,
            rows_done: it.rows,
            rows: view.rows_of(it),
            files_per_second: it.rows_per_second,
        }
    }
}

/// The machine in `worker-HOST-PROCESS-RANDOM`.
fn host(worker: &str) -> Option<String> {
    let (_role, rest) = worker.split_once('-')?;
    let mut from_the_end = rest.rsplitn(3, '-');
    let (random, process) = (from_the_end.next()?, from_the_end.next()?);
    let is_ours = random.len() == 8 && process.chars().all(|digit| digit.is_ascii_digit());
    from_the_end.next().filter(|host| is_ours && !host.is_empty()).map(str::to_owned)
}

pub(super) fn human(result: &WorkersResult) -> String {
    let mut text = lines(&result.workers, result.at).join("\n") + "\n";
    if let Some(listening) = result.listening {
        text.push_str(&format!("{} listen for tasks, by the broker.\n", grouped(listening)));
    }
    text
}

/// A table: a line per worker, and one for each further task of it.
pub(super) fn lines(workers: &[Worker], at: Timestamp) -> Vec<String> {
    if workers.is_empty() {
        return vec!["No worker was heard of in the last 15 minutes.".to_owned()];
    }
    let longest = |of: fn(&Worker) -> usize| workers.iter().map(of).max().unwrap_or_default();
    let name = longest(|it| it.worker.chars().count()).clamp(6, 60);
    let host_width = longest(|it| it.host.as_deref().unwrap_or("-").chars().count()).clamp(4, 40);
    let head = format!(
        "{:<name$}  {:<host_width$}  {:<20}  {:>5}  {:>7}  {:>9}  {}",
        "worker", "host", "since", "slots", "heard", "files/s", "partitions"
    );
    let mut lines = vec![head];
    for it in workers {
        let mut tasks = it.tasks.iter().map(Task::line);
        let first = tasks.next().unwrap_or_else(|| "idle".to_owned());
        let pace = it.files_per_second.map_or_else(|| "-".to_owned(), |pace| format!("{pace:.1}"));
        let since = it.since.map_or_else(|| "-".to_owned(), to_the_second);
        let host = it.host.as_deref().unwrap_or("-");
        let heard = format!("{} s", at.seconds_since(it.heard_at).max(0));
        lines.push(format!(
            "{:<name$}  {host:<host_width$}  {since:<20}  {:>5}  {heard:>7}  {pace:>9}  {first}",
            it.worker, it.slots_busy
        ));
        let indent = name + host_width + 53;
        lines.extend(tasks.map(|task| format!("{:indent$}{task}", "")));
    }
    lines
}

pub(super) fn to_the_second(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

impl Task {
    /// `2024-12-02T00:00:00Z #4: 1,200 of 5,000 rows, attempt 2`
    fn line(&self) -> String {
        let rows = match self.rows {
            Some(rows) => format!("{} of {} rows", grouped(self.rows_done), grouped(rows)),
            None => format!("{} rows", grouped(self.rows_done)),
        };
        let mut text = format!("{} #{}: {rows}", self.window, self.partition);
        if self.revision > 0 {
            text.push_str(&format!(", revision {}", self.revision));
        }
        if self.attempt > 1 {
            text.push_str(&format!(", attempt {}", self.attempt));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::view;
    use super::*;

    #[test]
    fn the_machine_is_read_from_the_name() {
        let host = |name: &str| host(name);
        assert_eq!(host("worker-node-7.example-1234-0a1b2c3d").as_deref(), Some("node-7.example"));
        assert_eq!(host("worker-1234-0a1b2c3d"), None);
        assert_eq!(host("somebody"), None);
    }

    #[test]
    fn a_person_sees_a_table_and_a_program_stable_keys() {
        let told = result("http://one:8080", &view()).expect("it leads");
        insta::assert_snapshot!(human(&told));
        insta::assert_snapshot!(serde_json::to_string_pretty(&told).expect("JSON"));
        let nobody = View { workers: Some(Vec::new()), ..view() };
        let told = human(&result("http://one:8080", &nobody).expect("it leads"));
        assert!(told.starts_with("No worker was heard of"), "{told}");
    }

    #[test]
    fn a_standby_says_who_is_to_be_asked() {
        let standby = View { workers: None, ..view() };
        let told = result("http://two:8080", &standby).expect_err("it does not know").to_string();
        assert!(told.contains("coordinator-a-1-0a1b2c3d does") && told.contains("--url"), "{told}");
        let nobody = View { workers: None, lease: None, ..view() };
        let told = result("http://two:8080", &nobody).expect_err("it does not know").to_string();
        assert!(told.contains("try again"), "{told}");
    }
}
