//! Files over which workers die, files that one worker alone misses, and windows that are held while
//! a coordinator leads.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::broker::Broker;
use crate::s3_server::{S3Server, Setup};
use crate::setup::{Fleet, Made};

/// The window that these tests put their files in.
const DAY: i64 = 6;

/// `count` sound files of the window.
fn sound_files(fleet: &mut Fleet, count: usize) -> Vec<Made> {
    let file = |number| fleet.add_file(&format!("sound-{number}"), DAY, b"sound");
    (0..count).map(file).collect()
}

/// Exactly what the certificate of the window says, from the bucket alone.
fn certificate(fleet: &Fleet) -> serde_json::Value {
    let end = fleet.window_end(DAY).replace(['-', ':'], "");
    fleet.document(&["_des/certificates/", &end])
}

/// The upload of one file never ends, and whoever is at it is killed: the moment does not matter.
#[test]
fn a_file_that_kills_its_workers_is_isolated_and_given_up() {
    let setup = Setup { stuck_writes: Some("_bigFiles/"), ..Setup::default() };
    let mut fleet = Fleet::over(S3Server::start(setup).expect("a server"), 0);
    fleet.configure("packer", "big_file_threshold", json!("1KiB"));
    fleet.configure("coordinator", "max_attempts", json!(2));
    fleet.configure("worker", "slots", json!(1));
    let sound = sound_files(&mut fleet, 11);
    let poison = fleet.add_file("poison", DAY, &[7; 2_000]);
    let mut coordinator = fleet.start("coordinator");
    let (mut worker, mut kills) = (fleet.start("worker"), 0);
    loop {
        coordinator.run_until(LIMIT, || fleet.stuck_writes() > kills || settled(&fleet));
        if fleet.stuck_writes() == kills {
            break;
        }
        kills = fleet.stuck_writes();
        worker.signal(Signal::KILL);
        worker.end(LIMIT);
        worker = fleet.start("worker");
    }
    // 12 rows are halved 4 times: 2 kills of the whole, 2 of each half, 3 of the row.
    assert!((2 + 2 * 2 + 3..=2 + 2 * 4 + 3).contains(&kills), "{kills} kills");

    let reasons =
        fleet.value("SELECT string_agg(uid || ' ' || reason, ', ') FROM des_migration_errors");
    assert_eq!(reasons, "poison gave_up");
    let detail = fleet.value("SELECT detail FROM des_migration_errors");
    assert!(detail.contains("interrupted 3 times") && detail.contains("interrupted:"), "{detail}");
    for made in &sound {
        fleet.assert_archived(made);
    }
    fleet.assert_refused(&poison, "is not archived: gave_up");

    // The archive explains itself: parts of one manifest, which together are all of it.
    let certificate = certificate(&fleet);
    let partitions = certificate["partitions"].as_array().expect("partitions");
    let mut ranges: Vec<_> = partitions
        .iter()
        .map(|partition| {
            assert_eq!(partition["manifest"], partitions[0]["manifest"], "{certificate:#}");
            let number = |key: &str| partition["range"][key].as_u64().expect("a range");
            (number("first"), number("rows"))
        })
        .collect();
    ranges.sort_unstable();
    let end = ranges.iter().fold(0, |end, (first, rows)| {
        assert_eq!(*first, end, "{ranges:?}");
        first + rows
    });
    assert_eq!((end, ranges.len() > 3), (12, true), "{ranges:?}");
    let verified = fleet.json("verify --deep");
    assert_eq!((&verified["files"], &verified["damaged"]), (&json!(11), &json!(0)), "{verified}");

    // A replay reads the manifest that the parts share, and finds every row settled.
    let before = fleet.objects();
    let replayed = fleet.json(&format!("replay --window {}", fleet.window_end(DAY)));
    assert_eq!(replayed["windows"], 0, "{replayed}");
    assert_eq!(fleet.objects(), before);

    // What is damaged of it is made again out of its part of the manifest, under its own name, and
    // without the file over which workers die.
    let (end, stuck) = (fleet.window_end(DAY), fleet.stuck_writes());
    let contents = |fleet: &Fleet| fleet.contents(".des");
    let (whole, shards) = (contents(&fleet), before.keys().filter(|it| it.ends_with(".des")));
    let shards: Vec<_> = shards.collect();
    assert!(shards.len() > 2, "{shards:?}");
    fleet.damage(&shards);
    assert_ne!(contents(&fleet), whole);
    let replayed = fleet.json(&format!("replay --window {end}"));
    assert_eq!(replayed["found"]["objects_restored"], shards.len(), "{replayed}");
    assert_eq!((&replayed["windows"], &replayed["held"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(contents(&fleet), whole, "the same bytes under the same names");
    assert_eq!(fleet.objects(), before);
    assert_eq!(fleet.stuck_writes(), stuck, "nobody went near the file over which workers die");
    let verified = fleet.json("verify --deep");
    assert_eq!((&verified["files"], &verified["damaged"]), (&json!(11), &json!(0)), "{verified}");
}

fn settled(fleet: &Fleet) -> bool {
    let all = "SELECT count(*) > 0 AND bool_and(state = 'committed') FROM des_windows \
               WHERE row_count > 0";
    fleet.try_value(all).as_deref() == Some("true")
}

#[test]
fn missing_files_are_looked_for_by_another_worker_where_there_is_one() {
    let mut fleet = Fleet::new(0);
    // As many windows as make it no chance.
    for day in 1..=5 {
        fleet.add_file(&format!("sound-{day}"), day, b"sound");
        fleet.add_row(&format!("missing-{day}"), day, 5);
    }
    fleet.json("init");
    let broker = Broker::of(&fleet);
    let mut first = fleet.start("worker");
    let _second = fleet.start("worker");
    first.run_until(LIMIT, || broker.consumers("tasks") == Some(2));
    let mut coordinator = fleet.start("coordinator");
    let missing = "SELECT count(*) FROM des_migration_errors WHERE reason = 'missing'";
    let all = || fleet.try_value(missing).as_deref() == Some("5");
    coordinator.run_until(LIMIT, || settled(&fleet) && all());
    for day in 1..=5 {
        let of_day = |column: &str| {
            let end = fleet.window_end(day);
            fleet.value(&format!("SELECT {column} FROM des_partitions WHERE window_end = '{end}'"))
        };
        let (first, receipt) = (of_day("first_look"), of_day("receipt"));
        assert!(first.starts_with("worker-"), "{first}");
        assert_ne!(fleet.document(&[&receipt])["worker"], first.as_str(), "{receipt}");
    }
}

#[test]
fn a_leading_coordinator_carries_out_a_retry_and_a_release() {
    let mut fleet = Fleet::new(0);
    let sound = sound_files(&mut fleet, 20);
    let missing: Vec<_> =
        (0..12).map(|number| fleet.add_row(&format!("missing-{number}"), DAY, 5)).collect();
    let mut coordinator = fleet.start("coordinator");
    // A worker that is alone has the second look, too.
    let _worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.is_held_with(12));
    let end = fleet.window_end(DAY);
    std::fs::write(&missing[0].path, b"found").expect("written");
    fleet.json(&format!("retry --window {end}"));
    coordinator.run_until(LIMIT, || fleet.is_held_with(11));
    let released = fleet.json(&format!("release --window {end} --reason gone"));
    assert_eq!(released["files_failed"], 11, "{released}");
    coordinator.run_until(Duration::from_secs(60), || settled(&fleet));
    assert_eq!(fleet.json("stats")["failed_files"], 11);
    sound.iter().chain(&missing[..1]).for_each(|made| fleet.assert_archived(made));
    let log = "SELECT string_agg(action || ' ' || reason, ', ' ORDER BY id) FROM des_audit_log \
               WHERE action IN ('retry', 'release') AND reason IS NOT NULL";
    assert_eq!(fleet.value(log), "release gone");
}
