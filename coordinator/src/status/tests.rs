use std::sync::Arc;

use backends::ledger::{AcceptedReceipt, AuditEntry, Purpose, WindowState, WindowTotals};
use protocol::message::{PartitionAddress, Progress};
use protocol::{Tally, Window};
use serde_json::{Value, json};

use super::*;
use crate::explain::Partitions;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a date")
}

fn window() -> Window {
    Window::new(at("2024-12-10"), at("2024-12-11")).expect("a window")
}

fn record(state: WindowState) -> WindowRecord {
    WindowRecord {
        window: window(),
        revision: 0,
        state,
        rows: Tally { rows: 1_000, ..Tally::default() },
        replaces: Vec::new(),
        totals: WindowTotals::default(),
        certificate: None,
        purpose: Purpose::Scan,
        findings: None,
        released: None,
        splits_before: 0,
        state_since: None,
        partition_rows: None,
    }
}

fn partition(number: u32) -> PartitionRecord {
    PartitionRecord {
        partition: number,
        manifest: String::new(),
        manifest_size: 0,
        first_row: None,
        rows: Tally { rows: 100, ..Tally::default() },
        setbacks: 0,
        attempts: 0,
        interruptions: 0,
        not_before: None,
        trouble: None,
        first_look: None,
        under_way_by: None,
        accepted: None,
    }
}

fn accepted(number: u32, files_failed: u64) -> PartitionRecord {
    let receipt = AcceptedReceipt { receipt: "r".to_owned(), receipt_size: 1, files_failed };
    PartitionRecord {
        accepted: Some(receipt),
        // What it was about before does not matter any more.
        trouble: Some(("store".to_owned(), "503".to_owned())),
        ..partition(number)
    }
}

/// One of each state, and a part of one that was split.
fn partitions() -> Vec<PartitionRecord> {
    let retrying = PartitionRecord {
        setbacks: 3,
        attempts: 2,
        interruptions: 1,
        not_before: Some(at("2024-12-20T10:00:08")),
        trouble: Some(("store".to_owned(), "503 Slow Down".to_owned())),
        ..partition(3)
    };
    let part = PartitionRecord { first_row: Some(50), ..partition(6) };
    let over = PartitionRecord { not_before: Some(at("2024-12-20T09:59")), ..partition(0) };
    vec![over, partition(1), partition(2), retrying, accepted(4, 0), accepted(5, 7), part]
}

/// Partition 1 is published, partition 2 as well and being worked on, and so is 4, which is done.
fn live(now: Timestamp) -> Live {
    let mut live = Live::default();
    let key = record(WindowState::Open).key();
    live.publishes([(key, 1), (key, 2)].into());
    for partition in [2, 4] {
        let address = PartitionAddress {
            archive: "3b241101-e2bb-4255-8caf-4136c566a962".parse().expect("an id"),
            job: "default".parse().expect("a job"),
            window: window(),
            revision: 0,
            partition,
            manifest_hash: protocol::ContentHash::of(b"a manifest"),
        };
        let worker = "worker-a-1".parse().expect("a name");
        let (version, rows, bytes) = (Progress::VERSION, 40, 4_000);
        let sign = Progress { version, address, attempt: 1, worker, rows, bytes, reading: None };
        live.heard(&sign, now);
    }
    live
}

fn facts(windows: &[(WindowRecord, Vec<PartitionRecord>)]) -> Facts {
    let now = at("2024-12-20T10:00");
    let windows: Vec<_> = windows
        .iter()
        .map(|(record, partitions)| crate::explain::window_facts(record, partitions, now))
        .collect();
    Facts {
        now: Some(now),
        watermark: Some(Watermark {
            archived_until: at("2024-12-10"),
            left_at: at("2024-12-10"),
            origin: at("2024-12-01"),
            lag_days: 7,
            target: at("2024-12-13"),
            pending_files: None,
            open_transaction: None,
            uncovered_files: None,
        }),
        lease: Some(Lease {
            holder: "coordinator-a-1".to_owned(),
            epoch: 3,
            expires_at: at("2024-12-20T10:00:12"),
            expired: false,
            since: None,
            age_seconds: None,
        }),
        broker: Some(Broker { tasks: 1, workers: 2, dead_letters: 0 }),
        open_windows: windows.len() as u64,
        windows,
        ..Facts::default()
    }
}

fn parts(windows: Vec<(WindowRecord, Vec<PartitionRecord>)>) -> Parts {
    let (facts, job) = (facts(&windows), "default".to_owned());
    Parts { job, facts, windows, ..Parts::default() }
}

fn status(parts: Parts) -> Status {
    let leading = (Role::Leading, Ok("leading".to_owned()));
    // Its own clock is not the ledger's.
    Status::new(parts, leading, at("2024-12-20T10:00:30"))
}

fn states(status: &Status) -> Vec<(u32, PartitionState)> {
    let each = &status.windows[0].each_partition;
    each.iter().map(|it| (it.partition, it.state)).collect()
}

#[test]
fn every_partition_has_the_state_that_is_known_of_it() {
    use PartitionState::{
        Accepted, AcceptedWithFailures, Published, Retrying, Running, ToDo, Waiting,
    };
    let windows = vec![(record(WindowState::Open), partitions())];
    let live = Some(live(at("2024-12-20T10:00:30")));
    let led = status(Parts { live, ..parts(windows.clone()) });
    let expected = [Waiting, Published, Running, Retrying, Accepted, AcceptedWithFailures, Waiting];
    assert_eq!(states(&led), (0..).zip(expected).collect::<Vec<_>>());
    let each = serde_json::to_value(&led.windows[0].each_partition).expect("JSON");
    assert_eq!(each[0], json!({"partition": 0, "state": "waiting", "rows": 100}));
    assert_eq!(
        each[2],
        json!({"partition": 2, "state": "running", "rows": 100, "rows_read": 40,
            "worker": "worker-a-1"})
    );
    assert_eq!(
        each[3],
        json!({"partition": 3, "state": "retrying", "rows": 100, "setbacks": 3, "attempts": 2,
            "interruptions": 1, "not_before": "2024-12-20T10:00:08Z",
            "trouble": "store: 503 Slow Down"})
    );
    assert_eq!(
        each[5],
        json!({"partition": 5, "state": "accepted_with_failures", "rows": 100, "files_failed": 7})
    );
    assert_eq!(each[6]["part"], true);
    let slowest = |status: &Status| {
        let it = status.windows[0].facts.slowest.as_ref().expect("some are not done");
        (it.partition, it.worker.clone(), it.since)
    };
    let since = Some(at("2024-12-20T10:00:30"));
    assert_eq!(slowest(&led), (2, Some("worker-a-1".to_owned()), since));

    // Who does not lead knows what the ledger knows, and says so.
    let other = status(parts(windows));
    let expected = [ToDo, ToDo, ToDo, Retrying, Accepted, AcceptedWithFailures, ToDo];
    assert_eq!(states(&other), (0..).zip(expected).collect::<Vec<_>>());
    assert_eq!(slowest(&other), (3, None, None), "the one that came back most often");
    assert_eq!((other.workers, other.throughput), (None, None));
}

#[test]
fn the_backlog_has_the_ledgers_figures_beside_the_brokers() {
    let windows = vec![(record(WindowState::Open), partitions())];
    let figures =
        Figures { pending_files: Some(12_345), backlog_seconds: Some(60.5), ..Figures::default() };
    let status = status(Parts { figures: Some(Arc::new(figures)), ..parts(windows) });
    let expected = json!({
        "pending_files": 12_345, "seconds": 60.5, "partitions_to_do": 5,
        "partitions_backing_off": 1,
        "broker": {"tasks": 1, "workers": 2, "dead_letters": 0},
    });
    assert_eq!(serde_json::to_value(status.backlog).expect("JSON"), expected);
    assert_eq!(status.lag_seconds, Some(3 * 86_400));
}

#[test]
fn partitions_beyond_what_there_is_room_for_are_counted_only() {
    let many = |from: u32| (from..from + 1_500).map(partition).collect::<Vec<_>>();
    let windows = vec![
        (record(WindowState::Open), many(0)),
        (WindowRecord { revision: 1, ..record(WindowState::Open) }, many(0)),
        (WindowRecord { revision: 2, ..record(WindowState::Open) }, many(0)),
    ];
    let status = status(parts(windows));
    let told: Vec<_> = status.windows.iter().map(|it| it.each_partition.len()).collect();
    assert_eq!(told, [1_500, 500, 0]);
    assert!(status.windows.iter().all(|it| it.facts.partitions.all == 1_500));
    assert_eq!(status.backlog.partitions_to_do, 4_500);
}

#[test]
fn texts_of_others_are_cut_between_characters() {
    let long = "zażółć ".repeat(200);
    let entry = AuditEntry {
        actor: "ada@console".to_owned(),
        action: "pause".to_owned(),
        from: None,
        to: None,
        reason: Some(long.clone()),
    };
    let audit = vec![AuditRecord { at: at("2024-12-20"), entry }];
    let troubled = PartitionRecord { trouble: Some(("source".to_owned(), long)), ..partition(0) };
    let windows = vec![(record(WindowState::Open), vec![troubled])];
    let status = status(Parts { audit, ..parts(windows) });
    let reason = status.audit[0].reason.as_deref().expect("a reason");
    assert_eq!((reason.chars().count(), reason.ends_with('…')), (TEXT_TOLD + 1, true));
    let troubled = status.windows[0].facts.troubled.as_ref().expect("trouble");
    assert_eq!(troubled.detail.chars().count(), TEXT_TOLD + 1);
    let each = status.windows[0].each_partition[0].trouble.as_ref().expect("trouble");
    assert_eq!(each.chars().count(), TEXT_TOLD + 1);
}

#[test]
fn the_tone_is_what_the_sentence_says() {
    let told = |change: fn(&mut Facts)| {
        let mut facts = facts(&[(record(WindowState::Open), partitions())]);
        change(&mut facts);
        (tone(&facts), facts.sentence())
    };
    let says = |change: fn(&mut Facts), tone: Tone, sentence: &str| {
        let told = told(change);
        assert!(told.0 == tone && told.1.contains(sentence), "{told:?}");
    };
    says(|_| {}, Tone::Moving, "is moving");
    says(|it| it.lease = None, Tone::Trouble, "nobody leads");
    says(|it| it.watermark = None, Tone::Trouble, "no archive");
    says(|it| it.behind = Some("older".to_owned()), Tone::Trouble, "must not move");
    says(|it| it.windows[0].held = true, Tone::Held, "is held");
    let nobody =
        |it: &mut Facts| it.broker = Some(Broker { tasks: 5, workers: 0, dead_letters: 0 });
    says(nobody, Tone::Trouble, "no worker listens");
    let waits = |it: &mut Facts| {
        it.windows[0].partitions = Partitions { all: 2, accepted: 1, to_do: 0, backing_off: 1 };
    };
    says(waits, Tone::Trouble, "waits");
    let stopped = |it: &mut Facts| it.throttled = Some(throttled("query"));
    says(stopped, Tone::Throttled, "nothing new has been begun since 2024-12-20T08");
    let spaced_out = |it: &mut Facts| it.throttled = Some(throttled("files_per_second"));
    says(spaced_out, Tone::Moving, "; the limit says so");
    let paused = |it: &mut Facts| {
        it.windows[0].held = true;
        let (since, by) = (at("2024-12-20T08:00"), "ada".to_owned());
        it.paused = Some(PauseFacts {
            since,
            by,
            reason: "backup".to_owned(),
            until: None,
            all_jobs: false,
        });
    };
    says(paused, Tone::Paused, "ada paused the archive");
    let away = |it: &mut Facts| it.trouble("store", "refused".to_owned());
    says(away, Tone::Trouble, "while the store does not answer: refused");
    let idle = |it: &mut Facts| {
        (it.open_windows, it.windows) = (0, Vec::new());
        it.watermark = it.watermark.map(|it| Watermark { target: it.archived_until, ..it });
    };
    says(idle, Tone::Idle, "Nothing is due");
}

fn throttled(kind: &str) -> ThrottledFacts {
    let (kind, reason) = (kind.to_owned(), "the limit says so".to_owned());
    ThrottledFacts { since: at("2024-12-20T08:00"), kind, reason }
}

/// What whoever reads the JSON relies on: no key may go, or come to mean something else.
#[test]
fn the_keys_are_those_of_the_paper() {
    let windows = vec![(record(WindowState::Held), partitions())];
    let now = at("2024-12-20T10:00:30");
    let mut live = live(now);
    live.accepted(100, now);
    let entry = AuditEntry {
        actor: "ada".to_owned(),
        action: "pause".to_owned(),
        from: None,
        to: None,
        reason: None,
    };
    let audit = vec![AuditRecord { at: at("2024-12-20"), entry }];
    let mut all = status(Parts { audit, live: Some(live), ..parts(windows) });
    all.errors = vec![Reason { reason: "missing".to_owned(), files: 7 }];
    all.troubles = vec![Trouble { what: "store".to_owned(), text: "refused".to_owned() }];
    all.throttled = Some(throttled("query"));
    let told = serde_json::to_value(&all).expect("JSON");
    let mut keys = Vec::new();
    collect(&told, "", &mut keys);
    let paper = include_str!("../../../docs/page.md");
    let missing: Vec<_> = keys.iter().filter(|key| !paper.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "not in docs/page.md: {missing:?}");
    assert!(keys.len() > 60, "{keys:?}");
}

/// `a.b` for a key in an object, `a[].b` for one in a list of objects.
fn collect(value: &Value, prefix: &str, keys: &mut Vec<String>) {
    let mut note = |key: String, value: &Value| {
        if !keys.contains(&key) {
            keys.push(key.clone());
        }
        collect(value, &key, keys);
    };
    match value {
        Value::Object(entries) => {
            for (name, item) in entries {
                let dot = if prefix.is_empty() { "" } else { "." };
                note(format!("{prefix}{dot}{name}"), item);
            }
        }
        Value::Array(items) => {
            for item in items.iter().filter(|item| item.is_object()) {
                collect(item, &format!("{prefix}[]"), keys);
            }
        }
        _ => {}
    }
}
