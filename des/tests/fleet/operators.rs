//! What operators do to a fleet that runs, and what they are told.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::setup::Fleet;
use crate::{LIMIT, drill};

/// docs/restore-drill.md on PostgreSQL and S3, with workers that stay.
#[test]
fn a_lost_ledger_is_rebuilt_from_the_bucket() {
    const WINDOWS: &str = "SELECT string_agg(concat_ws(' ', window_start, window_end, revision, \
         row_count, digest, files_archived, files_failed, shards, bytes_stored, certificate), '; ' \
         ORDER BY window_end, revision) FROM des_windows WHERE state = 'committed'";
    const ERRORS: &str = "SELECT string_agg(concat_ws(' ', uid, created_at, file_location, reason, \
         detail, window_end, revision, resolved_at IS NULL), '; ' ORDER BY uid) \
         FROM des_migration_errors";
    let fleet = Fleet::new(600);
    let coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0);
    let known = || {
        let mut stats = fleet.json("stats");
        // How long windows took stands in no certificate.
        for measured in ["pace", "eta"] {
            stats.as_object_mut().expect("an object").remove(measured).expect("it is told");
        }
        (fleet.value(WINDOWS), fleet.value(ERRORS), stats)
    };
    let (before, epoch, objects) = (known(), fleet.epoch(), fleet.objects());
    assert_eq!(before.2["failed_files"], 20, "{}", before.2);
    for step in drill::steps(drill::RESTORE) {
        match step {
            drill::Step::Sql(sql) => fleet.execute(&sql),
            drill::Step::Yaml(yaml) => panic!("the drill configures nothing: {yaml}"),
            drill::Step::Des(words, code) => {
                let run = fleet.des(&words).expect(code);
                let told = code == 0 || format!("{run}").contains("des rebuild-ledger");
                assert!(told, "{run}");
                if words.starts_with("rebuild-ledger --reason") {
                    assert_eq!(known(), before);
                }
            }
        }
    }
    assert_eq!(known(), before, "there was nothing more to do");
    assert!(fleet.epoch() > epoch, "{} {epoch}", fleet.epoch());
    assert_eq!(fleet.objects(), objects, "nothing was packed twice");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
}

#[test]
fn gc_runs_beside_a_coordinator_and_disturbs_nobody() {
    let fleet = Fleet::new(300);
    let _coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let (epoch, before) = (fleet.epoch(), fleet.objects());
    let end = fleet.window_end(5).replace(['-', ':'], "");
    let hash = "0123456789abcdef";
    fleet.plant(&format!("_des/receipts/{end}-r0000/p000900-{hash}-{hash}.json"), 8);
    let shard = format!("{}_7F_{end}_r0000_0001-{hash}.des", &end[..8]);
    fleet.plant(&shard, 8);
    let young = format!("_des/manifests/{end}-r0000/p000900-{hash}.rows");
    fleet.plant(&young, 6);
    let planned = fleet.json("gc --dry-run");
    let count = |it: &Value, kind: &str| it[kind]["objects"].as_u64().expect("a count");
    assert_eq!((count(&planned, "receipts"), count(&planned, "shards")), (1, 1), "{planned}");
    // Besides, the receipts of partitions whose missing files were looked for a second time.
    assert!(count(&planned, "kept_young") > 1, "{planned}");
    assert_eq!(fleet.objects().len(), before.len() + 3, "a dry run removes nothing");
    let done = fleet.json("gc --reason test");
    assert_eq!((count(&done, "receipts"), count(&done, "shards")), (1, 1), "{done}");
    let mut after = fleet.objects();
    assert_eq!(after.remove(&format!("a/prefix/{young}")), Some(10), "it is young");
    assert_eq!(after, before);
    assert_eq!(fleet.epoch(), epoch, "nobody lost the lease");
    fleet.assert_everything_is_there();
}

/// Waits until the first sentence of `explain` says this.
#[track_caller]
fn explained(fleet: &Fleet, told: &str) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let facts = fleet.json("explain");
        if facts["explanation"].as_str().expect("a sentence").contains(told) {
            return facts;
        }
        assert!(Instant::now() < deadline, "`{told}` is never said: {facts:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn explain_says_what_a_fleet_waits_for() {
    let fleet = Fleet::new(300);
    explained(&fleet, "There is no archive yet");
    let coordinator = fleet.start("coordinator");
    let facts = explained(&fleet, "because no worker listens");
    assert_eq!(facts["broker"]["workers"], 0, "{facts:#}");
    assert_eq!(facts["lease"]["expired"], false, "{facts:#}");
    coordinator.signal(Signal::KILL);
    coordinator.end(LIMIT);
    let facts = explained(&fleet, "nobody leads: the lease of coordinator-");
    assert_eq!(facts["lease"]["expired"], true, "{facts:#}");

    let coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    Broker::of(&fleet).publish("outcomes", "des.outcome.v1", b"nonsense");
    fleet.wait_until_archived(LIMIT);
    let facts = explained(&fleet, "Nothing is due");
    assert_eq!(facts["errors"], json!([{ "reason": "missing", "files": 20 }]));
    assert_eq!(facts["broker"]["dead_letters"], 1, "{facts:#}");
    let human = fleet.des("explain").expect(0).text();
    assert!(human.contains("1 messages that nobody could read"), "{human}");

    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0);
    let run = fleet.des_with("broker.url", "amqp://des:wrong@127.0.0.1:1/%2f", "explain");
    let run = run.expect(0);
    assert!(run.text().starts_with("The watermark cannot move"), "{run}");
    assert!(run.text().contains("broker: ") && !run.text().contains("wrong"), "{run}");
}
