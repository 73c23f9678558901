//! What is known at this moment, and nowhere written down: what workers were heard to do, what is
//! published, what was accepted minute by minute. For whoever watches; nothing is decided by it.
//! Pure: `now` is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::message::{Outcome, PartitionAddress, Progress, Reading};
use protocol::{PartitionId, Timestamp, WindowKey, WorkerId};
use serde::Serialize;

/// Minutes of which sums are kept.
pub const MINUTES: usize = 60;
/// Workers that are remembered.
const WORKERS_KNOWN: usize = 500;
/// Tasks of one worker that are remembered; slots are few.
const TASKS_OF_A_WORKER: usize = 64;
/// A worker of which nothing was heard for so long is forgotten, in microseconds.
const FORGET_AFTER: i64 = 15 * MINUTE;
/// Signs come every second; a task without one for so long is not being worked on, in microseconds.
const SILENT_AFTER: i64 = 30_000_000;
/// A sign may come so much later than the answer that ended its task, in microseconds: they travel on
/// two ways.
const OVERTAKEN_FOR: i64 = 5_000_000;
/// Signs over which a pace is measured.
const PACE_OVER: usize = 10;
const MINUTE: i64 = 60_000_000;
const MICROS: f64 = 1e6;

type At = (WindowKey, PartitionId);

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    workers: BTreeMap<WorkerId, Heard>,
    published: BTreeSet<At>,
    /// Since when, and rows of accepted partitions by minute since the epoch, the newest last.
    accepted: Option<(Timestamp, VecDeque<(i64, u64)>)>,
}

#[derive(Clone, Debug)]
struct Heard {
    since: Timestamp,
    at: Timestamp,
    tasks: BTreeMap<At, Doing>,
    /// The last tasks that it answered: when, and which attempt at what.
    answered: VecDeque<(Timestamp, At, u32)>,
}

impl Heard {
    /// Whether a sign that comes now is of a task that was answered just before.
    fn is_over(&self, task: At, attempt: u32, now: Timestamp) -> bool {
        let since = now.saturating_add_micros(-OVERTAKEN_FOR);
        self.answered.iter().any(|it| it.0 >= since && (it.1, it.2) == (task, attempt))
    }
}

/// A task as its worker told of it.
#[derive(Clone, Debug)]
struct Doing {
    /// When this attempt was heard of first.
    since: Timestamp,
    /// When, how many rows, how many bytes.
    signs: VecDeque<(Timestamp, u64, u64)>,
    attempt: u32,
    reading: Option<Reading>,
}

/// A worker, as long as something is heard of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: String,
    /// When this process heard of it first, by the coordinator's clock.
    pub since: Timestamp,
    /// When it last gave a sign, by the coordinator's clock.
    pub heard_at: Timestamp,
    /// What it is working on.
    pub tasks: Vec<TaskStatus>,
}

/// A task that is being executed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskStatus {
    /// End of its window.
    pub window: Timestamp,
    /// The pass.
    pub revision: u16,
    /// The partition.
    pub partition: PartitionId,
    /// The attempt, from 1.
    pub attempt: u32,
    /// When this process heard of this attempt first, by the coordinator's clock.
    pub since: Timestamp,
    /// Rows read so far.
    pub rows: u64,
    /// Raw bytes read so far.
    pub bytes: u64,
    /// Rows a second over the last ten signs; null before the second.
    pub rows_per_second: Option<f64>,
    /// Raw bytes a second.
    pub bytes_per_second: Option<f64>,
    /// When its worker last told of it, by the coordinator's clock.
    pub heard_at: Timestamp,
    /// The file that it has been reading for suspiciously long.
    pub reading: Option<Reading>,
}

/// Files of accepted partitions, minute by minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throughput {
    /// Since when this process counts; null before anything was accepted.
    pub since: Option<Timestamp>,
    /// When the last of the minutes began; null before anything was accepted.
    pub minute: Option<Timestamp>,
    /// Files of the last 60 minutes, the current one last.
    pub files: Vec<u64>,
}

/// Tasks on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tasks {
    /// Published, and not answered.
    pub(crate) published: u64,
    /// Of which workers gave signs of life lately.
    pub(crate) heard: u64,
}

impl Tasks {
    /// How many workers hold unacked, which AMQP does not tell, where `waiting` tasks are in the queue:
    /// what was published and does not wait. While all that waits is `taken_out`, as in a pause, only
    /// signs of life tell what workers had by then.
    pub(crate) const fn unacked(self, waiting: u64, taken_out: bool) -> u64 {
        if taken_out { self.heard } else { self.published.saturating_sub(waiting) }
    }
}

fn key(address: &PartitionAddress) -> At {
    (WindowKey::new(address.window, address.revision), address.partition)
}

impl Live {
    /// Takes a sign of life.
    pub(crate) fn heard(&mut self, progress: &Progress, now: Timestamp) {
        let heard = self.worker(&progress.worker, now);
        let sign = (now, progress.rows, progress.bytes);
        let attempt = progress.attempt;
        if heard.is_over(key(&progress.address), attempt, now) {
            return;
        }
        let reading = progress.reading.clone();
        match heard.tasks.get_mut(&key(&progress.address)) {
            Some(doing) if doing.attempt == attempt => {
                if doing.signs.len() == PACE_OVER {
                    doing.signs.pop_front();
                }
                doing.signs.push_back(sign);
                doing.reading = reading;
            }
            _ => {
                if heard.tasks.len() < TASKS_OF_A_WORKER {
                    let signs = VecDeque::from([sign]);
                    let doing = Doing { since: now, signs, attempt, reading };
                    heard.tasks.insert(key(&progress.address), doing);
                }
            }
        }
    }

    /// Takes an answer: the task is over.
    pub(crate) fn answered(&mut self, outcome: &Outcome, now: Timestamp) {
        let at = key(&outcome.address);
        let heard = self.worker(&outcome.worker, now);
        heard.tasks.remove(&at);
        if heard.answered.len() == TASKS_OF_A_WORKER {
            heard.answered.pop_front();
        }
        heard.answered.push_back((now, at, outcome.attempt));
        self.published.remove(&at);
    }

    fn worker(&mut self, worker: &WorkerId, now: Timestamp) -> &mut Heard {
        if !self.workers.contains_key(worker) && self.workers.len() >= WORKERS_KNOWN {
            let oldest = self.workers.iter().min_by_key(|(_, it)| it.at);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                self.workers.remove(&oldest);
            }
        }
        let new =
            || Heard { since: now, at: now, tasks: BTreeMap::new(), answered: VecDeque::new() };
        let heard = self.workers.entry(worker.clone()).or_insert_with(new);
        heard.at = now;
        heard
    }

    /// Which partitions are published and not answered.
    pub(crate) fn publishes(&mut self, published: BTreeSet<At>) {
        self.published = published;
    }

    /// How many tasks are on their way.
    pub(crate) fn tasks(&self, now: Timestamp) -> Tasks {
        let heard = self.workers(now).iter().map(|worker| worker.tasks.len() as u64).sum();
        Tasks { published: self.published.len() as u64, heard }
    }

    pub(crate) fn is_published(&self, window: WindowKey, partition: PartitionId) -> bool {
        self.published.contains(&(window, partition))
    }

    /// Counts the rows of an accepted partition.
    pub(crate) fn accepted(&mut self, rows: u64, now: Timestamp) {
        let minute = now.as_micros().div_euclid(MINUTE);
        let (_since, minutes) = self.accepted.get_or_insert_with(|| (now, VecDeque::new()));
        match minutes.back_mut() {
            // A clock that was set back counts on in the minute that it had come to.
            Some((last, files)) if *last >= minute => *files += rows,
            _ => minutes.push_back((minute, rows)),
        }
        if minutes.len() > MINUTES {
            minutes.pop_front();
        }
    }

    /// Who works on what, and who was heard of lately.
    pub(crate) fn workers(&self, now: Timestamp) -> Vec<WorkerStatus> {
        let since = now.saturating_add_micros(-FORGET_AFTER);
        let known = self.workers.iter().filter(|(_, heard)| heard.at >= since);
        known
            .map(|(worker, heard)| {
                let tasks = heard.tasks.iter().filter_map(|(at, doing)| doing.status(*at, now));
                WorkerStatus {
                    worker: worker.to_string(),
                    since: heard.since,
                    heard_at: heard.at,
                    tasks: tasks.collect(),
                }
            })
            .collect()
    }

    pub(crate) fn throughput(&self, now: Timestamp) -> Throughput {
        let Some((since, minutes)) = &self.accepted else { return Throughput::default() };
        let newest = minutes.back().map_or(i64::MIN, |(minute, _)| *minute);
        let this = now.as_micros().div_euclid(MINUTE).max(newest);
        let first = this.saturating_sub(MINUTES as i64 - 1);
        let files = (first..=this).map(|minute| {
            minutes.iter().find(|(it, _)| *it == minute).map_or(0, |(_, files)| *files)
        });
        let minute = Timestamp::from_micros(this.saturating_mul(MINUTE));
        Throughput { since: Some(*since), minute, files: files.collect() }
    }
}

impl Doing {
    fn status(&self, (window, partition): At, now: Timestamp) -> Option<TaskStatus> {
        let (heard_at, rows, bytes) = *self.signs.back()?;
        if heard_at < now.saturating_add_micros(-SILENT_AFTER) {
            return None;
        }
        let first = *self.signs.front()?;
        let pace = |from: u64, to: u64| pace(heard_at.as_micros() - first.0.as_micros(), from, to);
        Some(TaskStatus {
            window: window.end,
            revision: window.revision,
            partition,
            attempt: self.attempt,
            since: self.since,
            rows,
            bytes,
            rows_per_second: pace(first.1, rows),
            bytes_per_second: pace(first.2, bytes),
            heard_at,
            reading: self.reading.clone(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn pace(micros: i64, from: u64, to: u64) -> Option<f64> {
    let pace = to.saturating_sub(from) as f64 * MICROS / micros as f64;
    (micros > 0).then(|| (pace * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use protocol::message::TaskResult;
    use protocol::{Job, Window};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn progress(worker: &str, partition: u32, rows: u64) -> Progress {
        let window = Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window");
        Progress {
            version: Progress::VERSION,
            address: PartitionAddress {
                archive: "3b241101-e2bb-4255-8caf-4136c566a962".parse().expect("an id"),
                job: "default".parse::<Job>().expect("a job"),
                window,
                revision: 0,
                partition,
                manifest_hash: protocol::ContentHash::of(b"a manifest"),
            },
            attempt: 1,
            worker: worker.parse().expect("a name"),
            rows,
            bytes: rows * 100,
            reading: None,
        }
    }

    fn outcome(worker: &str, partition: u32) -> Outcome {
        let Progress { address, attempt, worker, .. } = progress(worker, partition, 0);
        Outcome { version: 1, address, attempt, worker, result: TaskResult::Returned }
    }

    #[test]
    fn a_workers_pace_is_that_of_its_last_signs_and_an_answer_ends_its_task() {
        let mut live = Live::default();
        let begin = at("2024-12-20T10:00");
        for second in 0..20 {
            let now = begin.saturating_add_micros(second * 1_000_000);
            // Slow at first, then fifty rows a second.
            let rows = u64::try_from(second).expect("positive").saturating_sub(5) * 50;
            live.heard(&progress("one", 4, rows), now);
        }
        let now = at("2024-12-20T10:00:20");
        let told = live.workers(now);
        let [worker] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((worker.worker.as_str(), worker.heard_at), ("one", at("2024-12-20T10:00:19")));
        let [task] = worker.tasks.as_slice() else { panic!("{told:?}") };
        assert_eq!((task.partition, task.rows, task.bytes), (4, 700, 70_000));
        assert_eq!(task.since, begin, "also when more signs came than are kept");
        assert_eq!((task.rows_per_second, task.bytes_per_second), (Some(50.0), Some(5_000.0)));

        live.answered(&outcome("one", 4), now);
        let told = live.workers(now);
        assert_eq!((told[0].tasks.len(), told[0].heard_at), (0, now), "it is known, and idle");
        assert!(live.workers(at("2024-12-20T10:16")).is_empty(), "it was not heard of for long");
    }

    #[test]
    fn a_task_without_signs_is_not_being_worked_on_and_another_attempt_begins_anew() {
        let mut live = Live::default();
        live.heard(&progress("one", 4, 500), at("2024-12-20T10:00"));
        assert_eq!(live.workers(at("2024-12-20T10:00:29"))[0].tasks.len(), 1);
        assert!(live.workers(at("2024-12-20T10:00:31"))[0].tasks.is_empty());
        let again = Progress { attempt: 2, ..progress("one", 4, 10) };
        live.heard(&again, at("2024-12-20T10:00:40"));
        let task = &live.workers(at("2024-12-20T10:00:40"))[0].tasks[0];
        assert_eq!((task.attempt, task.rows, task.rows_per_second), (2, 10, None));
        assert_eq!(task.since, at("2024-12-20T10:00:40"));
    }

    #[test]
    fn a_sign_that_its_answer_overtook_brings_no_task_back() {
        let mut live = Live::default();
        let tasks = |live: &Live, now: &str| live.workers(at(now))[0].tasks.len();
        live.heard(&progress("one", 4, 500), at("2024-12-20T10:00"));
        live.answered(&outcome("one", 4), at("2024-12-20T10:00:01"));
        live.heard(&progress("one", 4, 500), at("2024-12-20T10:00:02"));
        assert_eq!(tasks(&live, "2024-12-20T10:00:02"), 0, "it is over");
        assert_eq!(live.workers(at("2024-12-20T10:00:02"))[0].heard_at, at("2024-12-20T10:00:02"));
        // Others of its tasks, the same one's next attempt, and what is under way for longer than
        // a message takes, are none of that.
        live.heard(&progress("one", 5, 10), at("2024-12-20T10:00:02"));
        assert_eq!(tasks(&live, "2024-12-20T10:00:02"), 1);
        live.heard(&Progress { attempt: 2, ..progress("one", 4, 10) }, at("2024-12-20T10:00:03"));
        assert_eq!(tasks(&live, "2024-12-20T10:00:03"), 2);
        live.answered(&Outcome { attempt: 2, ..outcome("one", 4) }, at("2024-12-20T10:00:04"));
        live.heard(&Progress { attempt: 2, ..progress("one", 4, 10) }, at("2024-12-20T10:00:10"));
        assert_eq!(tasks(&live, "2024-12-20T10:00:10"), 2, "the same attempt was published again");
        for partition in 0..1_000 {
            live.answered(&outcome("one", partition), at("2024-12-20T10:01"));
        }
        assert_eq!(live.workers[&"one".parse().expect("a name")].answered.len(), TASKS_OF_A_WORKER);
    }

    #[test]
    fn memory_is_bounded() {
        let mut live = Live::default();
        for number in 0..WORKERS_KNOWN as i64 + 10 {
            let now = at("2024-12-20T10:00").saturating_add_micros(number);
            live.heard(&progress(&format!("worker-{number}"), 0, 0), now);
        }
        let now = at("2024-12-20T10:00:01");
        let told = live.workers(now);
        assert_eq!(told.len(), WORKERS_KNOWN);
        assert!(told.iter().all(|it| it.worker != "worker-0"), "the oldest goes first");
        for partition in 0..1_000 {
            live.heard(&progress("one", partition, 0), now);
        }
        let told = live.workers(now);
        let one = told.iter().find(|it| it.worker == "one").expect("it is known");
        assert_eq!(one.tasks.len(), TASKS_OF_A_WORKER);
    }

    #[test]
    fn what_is_published_and_does_not_wait_is_unacked() {
        let mut live = Live::default();
        let now = at("2024-12-20T10:00");
        let address = progress("one", 4, 0).address;
        live.publishes((0..6).map(|number| (key(&address).0, number)).collect());
        live.heard(&progress("one", 4, 10), now);
        let tasks = live.tasks(now);
        assert_eq!(tasks, Tasks { published: 6, heard: 1 });
        assert_eq!([4, 6, 9].map(|waiting| tasks.unacked(waiting, false)), [2, 0, 0]);
        assert_eq!(tasks.unacked(0, true), 1, "the others were taken out of the queue");
        live.answered(&outcome("one", 4), now);
        assert_eq!(live.tasks(now), Tasks { published: 5, heard: 0 });
    }

    #[test]
    fn an_hour_is_kept_minute_by_minute() {
        let mut live = Live::default();
        assert_eq!(live.throughput(at("2024-12-20T10:00")), Throughput::default());
        for minute in 0..200 {
            let now = at("2024-12-20T10:00").saturating_add_micros(minute * MINUTE + 1);
            live.accepted(1, now);
            live.accepted(u64::try_from(minute).expect("positive"), now);
        }
        let told = live.throughput(at("2024-12-20T13:21:30"));
        assert_eq!(told.minute, Some(at("2024-12-20T13:21")));
        assert_eq!((told.files.len(), told.since), (60, Some(at("2024-12-20T10:00:00.000001"))));
        let last: Vec<_> = told.files.iter().rev().take(4).collect();
        assert_eq!(last, [&0, &0, &200, &199], "nothing for two minutes");
        assert_eq!(told.files[0], 143);
        // The clock was set back.
        live.accepted(7, at("2024-12-20T12:00"));
        assert_eq!(live.throughput(at("2024-12-20T12:00")).files[59], 207);
    }
}
