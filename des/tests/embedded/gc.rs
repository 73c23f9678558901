//! What `gc` removes, and what it never touches.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Place, text};

const TWO_HOURS: Duration = Duration::from_secs(2 * 3_600);
const HASH: &str = "0123456789abcdef";

/// A place whose objects are old enough for `gc` after [`age`].
fn place() -> Place {
    let mut place = Place::new();
    place.set("coordinator.gc_grace", "1h");
    place
}

fn archived() -> Place {
    let mut place = place();
    place.fill(6..10, 5);
    place.load();
    place.migrate();
    place
}

/// Makes the file look as if it was written two hours ago.
fn age(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("it opens");
    file.set_modified(SystemTime::now() - TWO_HOURS).expect("it grows old");
}

fn age_everything(place: &Place) {
    for name in place.objects().keys().filter(|name| !name.ends_with('/')) {
        age(&place.archive().join(name));
    }
}

/// A file in the archive's directory, ten bytes long and old.
fn plant(place: &Place, name: &str) {
    let path = place.archive().join(name);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(&path, b"0123456789").expect("written");
    age(&path);
}

/// Files of the archive without the directories, which stay when they are empty.
fn files(place: &Place) -> BTreeMap<String, String> {
    let mut files = place.objects();
    files.retain(|name, _| !name.ends_with('/'));
    files
}

/// The end of a window of ours, as names carry it.
fn end(place: &Place, day: u64) -> String {
    place.midnight(day).replace(['-', ':'], "")
}

fn removed(report: &Value) -> Vec<u64> {
    ["certificates", "receipts", "shards", "manifests", "staging", "kept_young"]
        .map(|kind| report[kind]["objects"].as_u64().expect(kind))
        .into()
}

#[test]
fn a_certificate_inside_a_stretch_that_was_skipped_later_is_in_nobodys_way() {
    let place = archived();
    // A leader wrote the certificate of the window and was killed before it committed; then an
    // operator skipped over it and the next one.
    place.json(&format!("adjust --set-date {} --allow-skip", place.midnight(12)));
    age_everything(&place);
    let before = files(&place);
    let certificate = |epoch| format!("_des/certificates/{}-r0000-e{epoch}.json", end(&place, 11));
    let never_committed = certificate("0000000000");
    plant(&place, &never_committed);
    assert_eq!(removed(&place.json("gc")), [1, 0, 0, 0, 0, 0]);
    assert_eq!(files(&place), before);

    // One that was written after the skip is of another time than the ledger.
    let later = certificate("0000009999");
    plant(&place, &later);
    place.des("gc").expect(1).says([later.as_str(), "des rebuild-ledger"]);
    assert!(files(&place).contains_key(&later));
}

#[test]
fn what_nothing_names_is_removed_and_nothing_else() {
    let mut place = place();
    place.set("packer.big_file_threshold", 1_000);
    let big = text("big", 5_000);
    // A big file that two windows share.
    let shared: Vec<_> = [6, 8]
        .map(|day| place.time(day, chrono::TimeDelta::hours(1)))
        .iter()
        .map(|at| place.file_at(&format!("big {at}"), at, big.clone()))
        .collect();
    let made = place.fill(6..10, 5);
    place.load();
    place.migrate();
    let late = place.file("late", 7);
    place.load();
    assert_eq!(place.json(&format!("replay --window {}", place.midnight(8)))["windows"], 1);
    age_everything(&place);
    let sound = files(&place);

    let key = format!("{}-r0000", end(&place, 8));
    let shard = format!("{}_7_{}_r0000_0003-{HASH}.des", &end(&place, 7)[..8], end(&place, 8));
    let garbage = [
        format!("_des/certificates/{key}-e0000000000.json"),
        format!("_des/receipts/{key}/p000009-{HASH}-{HASH}.json"),
        shard.clone(),
        format!("_des/manifests/{key}/p000009-{HASH}.rows"),
        format!("{shard}#1"),
        format!("_bigFiles/{}#2", "0a".repeat(32)),
    ];
    let next = end(&place, 8);
    let others = [
        // Of other packers, of other archives below, of nobody: not ours.
        format!("{}_7_0001.des", &end(&place, 7)[..8]),
        format!("{}_07_{next}_r0000_0001-{HASH}.des", &end(&place, 7)[..8]),
        format!("sub/_des/receipts/{key}/p000009-{HASH}-{HASH}.json"),
        "notes.txt".to_owned(),
        "notes.txt#1".to_owned(),
        format!("_des/receipts/{key}/notes.json"),
        "_des/certificates/notes.json".to_owned(),
        // Shards of other packers may name it.
        format!("_bigFiles/{}", "0b".repeat(32)),
        // The next revision may still be planned, and so may the next window.
        format!("_des/receipts/{}-r0002/p000000-{HASH}-{HASH}.json", end(&place, 8)),
        format!("_des/manifests/{}-r0000/p000000-{HASH}.rows", end(&place, 11)),
    ];
    let young = format!("_des/receipts/{key}/p000008-{HASH}-{HASH}.json");
    garbage.iter().chain(&others).for_each(|name| plant(&place, name));
    std::fs::write(place.archive().join(&young), b"slow").expect("written");

    let before = place.everything();
    let planned = place.json("gc --dry-run");
    assert_eq!(planned["dry_run"], true, "{planned}");
    assert_eq!(removed(&planned), [1, 1, 1, 1, 2, 1], "{planned}");
    assert_eq!(place.everything(), before, "a dry run changes nothing");
    let human = place.des("gc --dry-run").expect(0).text();
    assert!(human.contains("6 (60 B) would be removed. Nothing was changed."), "{human}");

    let done = place.json("gc --reason spring");
    assert_eq!(removed(&done), [1, 1, 1, 1, 2, 1], "{done}");
    assert_eq!((&done["shards"]["bytes"], &done["kept_young"]["bytes"]), (&json!(10), &json!(4)));
    let mut left = files(&place);
    for name in others.iter().chain([&young]) {
        assert!(left.remove(name).is_some(), "{name} was not ours to remove");
    }
    assert_eq!(left, sound);
    let audit = "SELECT action || ' ' || to_value || ' ' || reason || ' ' || (actor <> '') \
                 FROM des_audit_log ORDER BY id DESC LIMIT 1";
    assert_eq!(place.sql().value(audit), "gc 6 objects removed, 60 bytes spring 1");
    assert_eq!(removed(&place.json("gc")), [0, 0, 0, 0, 0, 1]);

    place.verify_deep();
    for file in made.iter().chain(&shared).chain([&late]) {
        place.assert_archived(file);
    }
    assert_eq!(place.json(&format!("replay --to {}", place.cutoff()))["windows"], 0);
}

#[test]
fn a_held_window_loses_nothing() {
    let mut place = place();
    for file in place.fill(8..9, 30).iter().take(11) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(9..10, 3);
    place.load();
    place.des("migrate").expect(1);
    // Its certificate may be there already: a leader may have been killed just before the commit.
    plant(&place, &format!("_des/certificates/{}-r0000-e0000000001.json", end(&place, 9)));
    age_everything(&place);
    let before = files(&place);
    assert_eq!(place.json("gc")["certificates"]["objects"], 0);
    assert_eq!(files(&place), before);

    place.set("coordinator.max_failed_ratio", 0.5);
    let done = place.migrate();
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(22), &json!(11)));
    // The one that was planted is superseded now.
    assert_eq!(place.json("gc")["certificates"]["objects"], 1);
    assert_eq!(place.verify_deep()["files"], 22);
}

#[test]
fn an_interrupted_window_loses_nothing_and_its_leftovers_go_later() {
    let mut place = place();
    place.set("packer.compression", json!({ "level": 19 })).set("coordinator.lease_ttl", "1s");
    let made: Vec<_> = (0..40)
        .map(|number| {
            let at = place.time(number % 10, chrono::TimeDelta::minutes(1));
            place.file_at(&format!("{number}"), &at, text(&format!("{number}"), 400_000))
        })
        .collect();
    // One is looked for twice, so that the run cannot be over before it is killed.
    std::fs::remove_file(&made[39].path).expect("removed");
    place.load();
    let mut run = place.start("migrate --mode single");
    run.run_until(Duration::from_secs(60), || place.shards().len() > 3);
    run.signal(Signal::KILL);
    run.end(Duration::from_secs(60));
    assert_ne!(place.watermark(), place.cutoff(), "it was killed too late to prove anything");
    age_everything(&place);
    // Staging files are what it may have left: they are nobody's.
    let objects = |place: &Place| {
        let mut files = files(place);
        files.retain(|name, _| !name.contains('#'));
        files
    };
    let before = objects(&place);
    place.json("gc");
    assert_eq!(objects(&place), before, "everything may still be needed");
    place.migrate();
    age_everything(&place);
    place.json("gc");
    assert_eq!(place.verify_deep()["files"], 39);
    let certified: usize = place.json("ls")["windows"]
        .as_array()
        .expect("windows")
        .iter()
        .map(|window| usize::try_from(window["shards"].as_u64().expect("shards")).expect("few"))
        .sum();
    assert_eq!(place.shards().len(), certified, "what nothing names is gone");
}

#[test]
fn a_requested_replay_keeps_what_it_may_take_up() {
    let place = archived();
    let micros = chrono::DateTime::parse_from_rfc3339(&place.midnight(8)).expect("a time");
    let micros = micros.timestamp_micros();
    place.sql().execute(&format!(
        "INSERT INTO des_windows (job, window_end, revision, window_start, state, row_count, \
         digest, replaces) VALUES ('default', {micros}, 1, {micros} - 86400000000, 'requested', 0, \
         '{}', '[]')",
        "0".repeat(32)
    ));
    plant(&place, &format!("_des/manifests/{}-r0001/p000000-{HASH}.rows", end(&place, 8)));
    age_everything(&place);
    let before = files(&place);
    assert_eq!(removed(&place.json("gc")), [0; 6]);
    assert_eq!(files(&place), before);
}

#[test]
fn leftovers_of_a_window_that_was_skipped_go() {
    let mut place = place();
    for file in place.fill(7..8, 30) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(5..6, 3);
    place.load();
    place.set("coordinator.max_failed_files", 0).set("coordinator.max_attempts", 1);
    place.des("migrate").expect(1);
    let skip = format!("adjust --set-date {} --allow-skip", place.midnight(9));
    assert_eq!(place.json(&skip)["skipped_files"], 30);
    age_everything(&place);
    let report = place.json("gc");
    assert!(report["manifests"]["objects"].as_u64() > Some(0), "{report}");
    let inside = format!("{}-r0000", end(&place, 8));
    assert!(!files(&place).keys().any(|name| name.contains(&inside)));
    assert_eq!(place.verify_deep()["files"], 3);
}

/// `gc` refuses, says which certificate and why, and removes nothing.
#[track_caller]
fn assert_refused(place: &Place, texts: &[&str]) {
    for words in ["gc", "gc --dry-run"] {
        let before = place.objects();
        place.des(words).expect(2).says(texts).says(["nothing is removed"]);
        assert_eq!(place.objects(), before);
    }
    let log = "SELECT count(*) FROM des_audit_log WHERE action = 'gc'";
    assert_eq!(place.sql().value(log), "0", "what was not done is not written down");
}

#[test]
fn certificates_that_cannot_be_read_stop_everything() {
    let place = archived();
    let key = format!("{}-r0000", end(&place, 8));
    plant(&place, &format!("_des/receipts/{key}/p000009-{HASH}-{HASH}.json"));
    let names: Vec<_> =
        files(&place).into_keys().filter(|it| it.starts_with("_des/certificates")).collect();
    let (first, other) = (place.archive().join(&names[0]), place.archive().join(&names[1]));
    let bytes = std::fs::read(&first).expect("a certificate");

    std::fs::remove_file(&first).expect("removed");
    assert_refused(&place, &[&names[0], "it is not there"]);
    std::fs::write(&first, b"{}").expect("written");
    assert_refused(&place, &[&names[0], "not a valid certificate"]);
    std::fs::copy(&other, &first).expect("copied");
    assert_refused(&place, &[&names[0], "another window"]);
    std::fs::write(&first, &bytes).expect("written");

    // Unknown to the ledger: of a pass that it has not, and of a later epoch than it has.
    for unknown in [
        format!("_des/certificates/{}-r0001-e0000000001.json", end(&place, 8)),
        format!("_des/certificates/{}-r0000-e0000000009.json", end(&place, 8)),
    ] {
        plant(&place, &unknown);
        assert_refused(&place, &[&unknown, "des rebuild-ledger"]);
        std::fs::remove_file(place.archive().join(&unknown)).expect("removed");
    }
    place.sql().execute("DELETE FROM des_archives");
    let before = place.objects();
    place.des("gc").expect(2).says(["des rebuild-ledger"]);
    assert_eq!(place.objects(), before);
}
