//! `des sync-archived`: a column of the table says which files are archived, and of no other.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Made, Place};
use crate::throttle::now_hours;

const LIMIT: Duration = Duration::from_secs(90);

/// A table with a column for it, and files that are archived; besides one below the first watermark,
/// one that is too young, and one that is gone. Those that are archived, and the one that is gone.
fn place(files: usize) -> (Place, Vec<Made>, Made) {
    let mut place = Place::new();
    let first = place.midnight(5);
    place.set("watermark.default_archived_until", first).set("coordinator.max_attempts", 1);
    place.file("uncovered", 3);
    let young = place.time(11, TimeDelta::hours(1));
    place.file_at("young", &young, b"young".to_vec());
    let mut made = place.fill(6..10, files / 4);
    place.load();
    let gone = made.remove(2);
    std::fs::remove_file(&gone.path).expect("removed");
    place.sql().execute("ALTER TABLE files ADD COLUMN archived BOOLEAN NOT NULL DEFAULT 0");
    let url = format!("sqlite:///{}", place.catalog().display());
    let section = json!({ "url": url, "column": "archived", "max_rows_per_second": 1_000_000 });
    place.set("sync_archived", section);
    place.json("migrate --mode single --accept-below 1");
    (place, made, gone)
}

fn marked(place: &Place) -> Vec<String> {
    let rows = place.sql().query("SELECT uid FROM files WHERE archived ORDER BY uid");
    rows.into_iter().flatten().collect()
}

fn uids(made: &[Made]) -> Vec<String> {
    let mut uids: Vec<_> = made.iter().map(|it| it.uid.clone()).collect();
    uids.sort();
    uids
}

/// A row that appears late, like that of `made`, with a file.
fn add_late(place: &Place, made: &Made, uid: &str) {
    let late = format!("{}-{uid}", made.path.display());
    std::fs::copy(&made.path, &late).expect("copied");
    place.sql().execute(&format!(
        "INSERT INTO files SELECT '{uid}', created_at, '{late}', size_bytes, 0 FROM files \
         WHERE uid = '{}' LIMIT 1",
        made.uid
    ));
}

fn rest(place: &Place) -> Vec<Vec<String>> {
    place.sql().query("SELECT uid, created_at, file_location, size_bytes FROM files ORDER BY 1, 3")
}

#[test]
fn exactly_what_certificates_prove_is_marked() {
    let (place, made, gone) = place(20);
    add_late(&place, &made[3], "late");
    // As one that is archived, in uid and created_at, but for its location.
    add_late(&place, &made[4], &made[4].uid);
    let (before, rows) = (place.everything(), rest(&place));
    let counted = place.json("sync-archived --dry-run");
    assert_eq!((&counted["marked"], &counted["failed"]), (&json!(19), &json!(1)), "{counted}");
    assert_eq!(counted["dry_run"], true);
    let human = place.des("sync-archived --dry-run").expect(0).text();
    assert!(human.contains("rows that would be set") && human.contains("Nothing was changed"));
    assert_eq!(place.everything(), before, "a dry run changes nothing");

    let done = place.json("sync-archived --reason reports");
    assert_eq!((&done["marked"], &done["failed"]), (&json!(19), &json!(1)), "{done}");
    assert_eq!(done["archived_until"], place.cutoff(), "{done}");
    assert_eq!(marked(&place), uids(&made), "neither late, nor failed, nor uncovered, nor young");
    let twins = "SELECT count(*) FROM files WHERE archived AND file_location LIKE '%-day%'";
    assert_eq!(place.sql().value(twins), "0", "the late twin is in no shard");
    assert_eq!(rest(&place), rows, "nothing else of a row is changed");
    let again = place.json("sync-archived");
    assert_eq!((&again["passes"], &again["rows"]), (&json!(0), &json!(0)), "{again}");
    let log = place.sql().query(
        "SELECT coalesce(from_value, ''), to_value, coalesce(reason, '') FROM des_audit_log \
         WHERE action = 'sync-archived' ORDER BY id",
    );
    let goal = format!("files.archived = true up to {}", place.cutoff());
    let passes = done["passes"].as_u64().expect("passes");
    let end = format!("19 rows marked, {passes} passes done");
    assert_eq!(log, [["", goal.as_str(), "reports"], [goal.as_str(), end.as_str(), ""]]);

    // Later passes archive what was late and what had failed: now they are proven.
    place.json("reconcile --all");
    std::fs::write(&gone.path, &gone.bytes).expect("it is back");
    place.json("retry-failed --all");
    assert_eq!(place.json("sync-archived")["marked"], 3);
    let all = "SELECT count(*) FROM files WHERE NOT archived";
    assert_eq!(place.sql().value(all), "2", "the young one and the uncovered one");

    // What somebody took back is set again only where that is asked for.
    place.sql().execute("UPDATE files SET archived = 0");
    assert_eq!(place.json("sync-archived")["marked"], 0);
    assert_eq!(place.json("sync-archived --again --dry-run")["marked"], 22);
    assert_eq!(place.json("sync-archived --again")["marked"], 22);
    assert_eq!(place.sql().value(all), "2");
    place.verify_deep();
}

#[test]
fn one_that_was_killed_goes_on_where_it_was_and_none_is_faster_than_it_may() {
    let (mut place, made, _gone) = place(120);
    place.set("sync_archived.batch_rows", 5).set("sync_archived.max_rows_per_second", 10);
    let mut running = place.start("sync-archived");
    let count = |place: &Place| marked(place).len();
    running.run_until(LIMIT, || count(&place) >= 40);
    running.signal(Signal::KILL);
    running.end(LIMIT);
    let before = count(&place);
    assert!(before < made.len(), "it was killed midway: {before}");
    let finished = "SELECT count(*) FROM des_synced WHERE finished_at IS NOT NULL";
    assert_ne!(place.sql().value(finished), "0", "what is done is written down");

    place.set("sync_archived.max_rows_per_second", 40);
    let run = place.des("sync-archived --output json").expect(0);
    let (done, took) = (run.json(), run.took);
    let rows = done["rows"].as_u64().expect("rows");
    assert!(rows < made.len() as u64, "passes that were done are not gone through again: {done}");
    assert_eq!(done["marked"], made.len() - before, "{done}");
    assert_eq!(marked(&place), uids(&made));
    // Lower bound only: how long it takes beyond that, the machine decides.
    let least = Duration::from_millis((rows - 5) * 1_000 / 40);
    assert!(took >= least, "{rows} rows in {took:?}, at 40 a second");
}

#[test]
fn a_pause_holds_it_back() {
    let (place, made, _gone) = place(8);
    let checked = place.des("migrate --check").expect(0).text();
    assert!(checked.contains("files.archived = true may be set"), "{checked}");
    place.json("pause --reason backup");
    let run = place.des("sync-archived --output json").expect(1);
    let told = run.json();
    assert!(told["ended"].as_str().is_some_and(|why| why.contains("backup")), "{told}");
    assert_eq!((&told["marked"], marked(&place).len()), (&json!(0), 0));
    let human = place.des("sync-archived").expect(1).text();
    assert!(human.contains("Run it again"), "{human}");
    place.json("resume");
    assert_eq!(place.json("sync-archived")["marked"], made.len());
}

#[test]
fn a_throttle_holds_it_back() {
    let (mut place, made, _gone) = place(40);
    place.set("sync_archived.batch_rows", 2);
    let refused = |place: &Place, told: &str| {
        let run = place.des("sync-archived --output json").expect(1);
        let it = run.json();
        assert!(it["ended"].as_str().is_some_and(|why| why.contains(told)), "{told}: {it}");
        assert_eq!((&it["marked"], marked(place).len()), (&json!(0), 0));
    };
    // Hours of the configuration, then an operator's.
    place.set("throttle.not_between", now_hours());
    refused(&place, "nothing is to be begun between");
    place.json("throttle --not-between none --reason urgent");
    assert_eq!(place.json("sync-archived --dry-run")["marked"], made.len());
    place.set("throttle", json!({}));
    let said = format!("throttle --not-between {} --reason backup", now_hours());
    place.json(&said);
    refused(&place, "nothing is to be begun between");
    place.json("throttle --off --reason over");

    // What the source database says; what cannot be asked counts as wait.
    place.set("throttle.query", "SELECT active FROM maintenance");
    refused(&place, "which counts as wait");
    place.sql().execute("CREATE TABLE maintenance (active); INSERT INTO maintenance VALUES (3)");
    refused(&place, "answers 3, and more than 0 means wait");
    place.sql().execute("UPDATE maintenance SET active = 0");

    // The lower of both rates counts, and a new one at once.
    place.json("throttle --max-files-per-second 1 --reason month-end");
    let mut running = place.start("sync-archived --output json");
    running.run_until(LIMIT, || marked(&place).len() >= 2);
    assert!(marked(&place).len() < made.len(), "some are left");
    place.json("throttle --max-files-per-second 10 --reason less");
    let began = Instant::now();
    let left = made.len() - marked(&place).len();
    let done = running.end(LIMIT).expect(0).json();
    assert_eq!((done["marked"].as_u64(), marked(&place)), (Some(made.len() as u64), uids(&made)));
    let (took, least) = (began.elapsed(), (left as u64 - 4) * 1_000 / 10);
    assert!(took >= Duration::from_millis(least), "{left} rows in {took:?}, at 10 a second");
}

#[test]
fn a_schedule_marks_by_itself() {
    let (mut place, made, _gone) = place(8);
    place.set("sync_archived.every", "1s");
    let mut running = place.start("migrate --mode continuous --interval 1h");
    running.run_until(LIMIT, || marked(&place).len() == made.len());
    running.signal(Signal::TERM);
    running.end(LIMIT).expect(0);
    assert_eq!(marked(&place), uids(&made));
    let by = "SELECT DISTINCT actor LIKE 'coordinator-%' FROM des_audit_log \
              WHERE action = 'sync-archived'";
    assert_eq!(place.sql().value(by), "1");
}

#[test]
fn nothing_is_written_without_the_section_and_its_mistakes_are_named() {
    let (mut place, _made, _gone) = place(8);
    place.set("sync_archived.column", "archved");
    place.des("sync-archived").expect(1).says(["no column `archved`", "archived"]);
    let checked = place.des("migrate --check").expect(1).text();
    assert!(checked.contains("ERROR    column     ") && checked.contains("archved"), "{checked}");
    place.set("sync_archived.column", "uid");
    place.des("sync-archived").expect(1).says(["files are told by"]);
    place.set("sync_archived", json!({ "column": "archived" }));
    place.des("sync-archived").expect(2).says(["sync_archived.url", "required"]);
    place.set("sync_archived", json!(null));
    place.des("sync-archived").expect(2).says(["`sync_archived` is not there"]);
    assert!(marked(&place).is_empty());
}
