//! Processes that end in the middle: killed, drained, or signalled twice.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Made, Place, Running, text};

/// What a run that is stopped has to begin within.
const SOON: Duration = Duration::from_secs(40);
const FILES: usize = 10 * 12;

/// Files that take a while: large ones, compressed hard, a window a day, some of them gone.
fn slow_place() -> (Place, Vec<Made>) {
    let mut place = Place::new();
    place
        .set("packer.compression", json!({ "level": 19 }))
        .set("coordinator.lease_ttl", "1s")
        .set("worker.drain_timeout", "4s");
    let mut made = Vec::new();
    for day in 0..10 {
        for number in 0..12 {
            let uid = format!("day{day}-{number}");
            let at = place.time(day, chrono::TimeDelta::minutes(1 + number));
            made.push(place.file_at(&uid, &at, prose(&uid, 60_000)));
        }
    }
    let gone = made.split_off(made.len() - 2);
    for file in gone {
        std::fs::remove_file(file.path).expect("removed");
    }
    place.load();
    (place, made)
}

/// Text that is work to compress.
fn prose(seed: &str, size: usize) -> Vec<u8> {
    let words = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    let mut words = std::io::Read::bytes(words);
    let mut prose = Vec::with_capacity(size + 8);
    while prose.len() < size {
        let word = words.next().expect("endless").expect("readable");
        prose.extend_from_slice(&text(&format!("{}", word % 61), 24)[9..9 + usize::from(word % 7)]);
        prose.push(b' ');
    }
    prose
}

/// Starts a run and waits until it has written its first shards.
fn begun(place: &Place) -> Running {
    let mut run = place.start("migrate --mode single --output json");
    run.run_until(SOON, || place.shards().len() > 3);
    run
}

/// Every row is in the archive or written down, once; every byte is right.
#[track_caller]
fn assert_complete(place: &Place, made: &[Made], done: &Value) {
    assert_eq!(place.watermark(), place.cutoff(), "{done}");
    let sound = place.verify_deep();
    assert_eq!(sound["files"], made.len(), "{sound}");
    let missing = |uid: &str| (uid.to_owned(), "missing".to_owned());
    assert_eq!(place.errors(), [missing("day9-10"), missing("day9-11")]);
    assert_eq!(made.len() + 2, FILES);
    let mut expected: Vec<_> = made.iter().map(|file| file.uid.clone()).collect();
    expected.sort();
    let listed: Vec<_> = place.listed().into_iter().map(|(uid, _, _)| uid).collect();
    assert_eq!(listed, expected, "every file once");
    for file in made.iter().step_by(29) {
        place.assert_archived(file);
    }
}

#[test]
fn after_a_kill_the_next_run_completes_it() {
    let (place, made) = slow_place();
    // More than once, at different moments.
    for _ in 0..2 {
        let before = place.shards().len();
        let mut run = place.start("migrate --mode single");
        run.run_until(SOON, || place.shards().len() > before + 3);
        run.signal(Signal::KILL);
        assert_eq!(run.end(SOON).signal, Some(9));
        assert_ne!(place.watermark(), place.cutoff(), "it was killed too late to prove anything");
    }
    let unfinished: u64 = place
        .sql()
        .value("SELECT count(*) FROM des_windows WHERE state = 'open'")
        .parse()
        .expect("a number");
    assert!(unfinished > 0, "a window was under way");
    let done = place.migrate();
    assert_complete(&place, &made, &done);
    // What is left is what a run without a kill would have left, and staging files at most.
    let before = place.objects();
    assert_eq!(place.migrate()["windows"], 0);
    assert_eq!(place.objects(), before);
}

#[test]
fn a_drained_run_ends_in_time_and_the_next_one_completes_it() {
    let (place, made) = slow_place();
    let run = begun(&place);
    let began = std::time::Instant::now();
    run.signal(Signal::TERM);
    let run = run.end(SOON);
    // The drain timeout, and time for a busy machine to end a process.
    assert!(began.elapsed() < Duration::from_secs(4 + 6), "{run}");
    let run = run.expect(0).says(["stopping: finishing or giving back"]);
    let stopped = run.json();
    assert_ne!(place.watermark(), place.cutoff(), "it was stopped too late to prove anything");
    assert_eq!(stopped["archived_until"], place.watermark().as_str(), "{stopped}");
    let holder = place.sql().value("SELECT coalesce(holder, 'nobody') FROM des_lease");
    assert_eq!(holder, "nobody", "the lease was given back");

    let done = place.migrate();
    assert_complete(&place, &made, &done);
}

#[test]
fn a_second_signal_ends_at_once_and_other_settings_do_not_matter() {
    let mut place = Place::new();
    place.set("worker.drain_timeout", "300s").set("coordinator.lease_ttl", "1s");
    place.set("packer.compression", json!({ "level": 22 }));
    // One task that takes long, and a drain that would wait for it.
    for number in 0..64 {
        let at = place.time(9, chrono::TimeDelta::minutes(1 + number));
        let uid = format!("{number}");
        place.file_at(&uid, &at, prose(&uid, 100_000));
    }
    place.load();
    let mut run = place.start("migrate --mode single");
    let planned = place.archive().join("_des/manifests");
    run.run_until(SOON, || planned.is_dir());
    run.run_until(SOON, || place.sql().value("SELECT count(*) FROM des_partitions") == "1");
    std::thread::sleep(Duration::from_millis(300));
    run.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(200));
    assert!(run.is_running(), "the drain waits for the task");
    let began = std::time::Instant::now();
    run.signal(Signal::TERM);
    run.end(SOON).expect(130);
    assert!(began.elapsed() < Duration::from_secs(5), "at once");
    // The open window goes on with the settings that it was planned with.
    place.set("packer.compression", json!({ "level": 1 })).set("packer.max_shard_size", 200_000);
    assert_eq!(place.migrate()["files_archived"], 64);
    assert_eq!(place.verify_deep()["files"], 64);
}

#[test]
fn a_service_that_is_stopped_ends_well() {
    let mut place = Place::new();
    place.fill(8..10, 3);
    place.load();
    let mut run = place.start("migrate --mode continuous --interval 3600");
    run.run_until(SOON, || place.archive().exists() && place.shards().len() >= 6);
    let done = || place.sql().value("SELECT count(*) FROM des_windows WHERE state <> 'committed'");
    run.run_until(SOON, || done() == "0" && place.watermark() == place.cutoff());
    run.signal(Signal::TERM);
    let run = run.end(SOON).expect(0);
    assert!(run.text().contains("files archived"), "each cycle's result is told:\n{run}");
    place.verify_deep();
}

#[test]
fn two_runs_at_a_time_share_nothing_but_the_result() {
    let mut place = Place::new();
    place.set("coordinator.lease_ttl", "1s");
    let made = place.fill(0..10, 6);
    place.load();
    let runs = [(); 3].map(|()| place.start("migrate --mode single --output json"));
    let done = runs.map(|run| run.end(Duration::from_secs(60)).expect(0).json());
    let archived: u64 = done.iter().map(|it| it["files_archived"].as_u64().expect("files")).sum();
    assert_eq!(archived, made.len() as u64, "{done:?}");
    assert_eq!(place.listed().len(), made.len(), "every file once");
    assert_eq!(place.verify_deep()["files"], made.len());
}
