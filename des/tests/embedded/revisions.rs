//! Later passes over committed windows: restoring, reconciling, trying again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Made, Place, incompressible, text};

fn archived(files: usize) -> (Place, Vec<Made>) {
    let mut place = Place::new();
    let made = place.fill(8..10, files);
    place.load();
    place.migrate();
    (place, made)
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("the object");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

/// Shards, by name, with the number of the file that holds them: another one when they were written
/// again.
fn inodes(place: &Place) -> Vec<(String, u64)> {
    let inode = |name: String| {
        let file = std::fs::metadata(place.archive().join(&name)).expect("a shard");
        (name, file.ino())
    };
    place.shards().into_iter().map(inode).collect()
}

#[test]
fn what_is_damaged_is_restored_under_its_own_name_and_nothing_else_is_touched() {
    let (place, made) = archived(60);
    let before = place.objects();
    let shards = inodes(&place);
    let damaged = [1, 7, 20].map(|at: usize| shards[at].0.clone());
    flip(&place.archive().join(&damaged[0]));
    std::fs::remove_file(place.archive().join(&damaged[1])).expect("removed");
    std::fs::write(place.archive().join(&damaged[2]), b"short").expect("written");
    // The catalog needs not have the rows any more.
    place.sql().execute("DELETE FROM files");

    let replay = format!("replay --from {} --to {}", place.midnight(8), place.cutoff());
    let done = place.json(&format!("{replay} --reason disk"));
    let found = &done["found"];
    assert_eq!(found["objects_restored"], 3, "{done}");
    assert_eq!((&found["shards_checked"], &done["windows"]), (&json!(shards.len()), &json!(0)));
    assert_eq!((&found["vanished_rows"], &found["files_beyond_help"]), (&json!(120), &json!(0)));
    assert_eq!(place.objects(), before, "the same names and the same bytes");
    let untouched = |all: Vec<(String, u64)>| -> Vec<_> {
        all.into_iter().filter(|(name, _)| !damaged.contains(name)).collect()
    };
    assert_eq!(untouched(inodes(&place)), untouched(shards), "sound shards are not written again");
    assert_eq!(place.verify_deep()["files"], 120);
    place.assert_archived(&made[0]);
    let audit = "SELECT count(*) FROM des_audit_log WHERE action = 'replay' AND reason = 'disk'";
    assert_eq!(place.sql().value(audit), "1", "one of the act, of two windows");
    assert_eq!(place.json(&replay)["found"]["objects_restored"], 0);
}

/// A file that failed once is in no shard, also where it can be read now.
#[test]
fn a_shard_is_restored_as_it_was_certified() {
    let mut place = Place::new();
    let made = place.fill(9..10, 40);
    place.load();
    for file in &made[..3] {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.migrate();
    for file in &made[..3] {
        std::fs::write(&file.path, &file.bytes).expect("written");
    }
    let before = place.objects();
    for shard in place.shards() {
        std::fs::remove_file(place.archive().join(shard)).expect("removed");
    }
    let done = place.json(&format!("replay --window {}", place.cutoff()));
    assert_eq!(done["windows"], 0, "{done}");
    assert_eq!(place.objects(), before);
    assert_eq!(place.json("stats")["failed_files"], 3);
}

#[test]
fn a_big_file_is_restored_while_its_source_has_its_bytes() {
    let mut place = Place::new();
    place.set("packer.big_file_threshold", 1_000);
    let at = place.time(9, chrono::TimeDelta::hours(1));
    let big = place.file_at("big", &at, incompressible("big", 50_000));
    let at = place.time(9, chrono::TimeDelta::hours(2));
    place.file_at("other", &at, incompressible("other", 60_000));
    place.fill(9..10, 5);
    place.load();
    place.migrate();
    let before = place.objects();
    let object = before.keys().find(|name| {
        let whole = place.archive().join(name);
        name.starts_with("_bigFiles/") && std::fs::read(whole).is_ok_and(|it| it == big.bytes)
    });
    let object = object.expect("the big file").clone();
    let path = place.archive().join(&object);
    let replay = format!("replay --window {}", place.cutoff());
    flip(&path);
    assert_eq!(place.json(&replay)["found"]["objects_restored"], 1);
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(place.json(&replay)["found"]["objects_restored"], 1);
    assert_eq!(place.objects(), before);
    place.assert_archived(&big);

    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&big.path, text("changed", 50_000)).expect("written");
    let done = place.des(&format!("{replay} --output json")).expect(1).json();
    assert_eq!(done["found"]["files_beyond_help"], 1, "{done}");
    let named = &done["found"]["named"][0];
    assert_eq!((&named["uid"], &named["location"]), (&json!("big"), &json!(big.path)), "{done}");
    let human = place.des(&replay).expect(1).text();
    let at = big.created_at.trim_end_matches(['0', 'Z', '.']);
    assert!(human.contains(&format!("beyond help: {at}")) && human.contains(" big /"), "{human}");
    for words in ["verify", "verify --deep"] {
        let found = place.des(words).expect(3).text();
        assert!(found.contains(&object) && found.contains("uid \"big\""), "{found}");
    }
    // Where nobody can tell any more, its object is named.
    for shard in place.shards() {
        std::fs::remove_file(place.archive().join(shard)).expect("removed");
    }
    let found = place.des("verify").expect(3).text();
    assert!(found.contains(&object) && !found.contains("uid"), "{found}");
}

#[test]
fn what_failed_is_tried_again_at_the_location_that_the_catalog_has_now() {
    let mut place = Place::new();
    let made = place.fill(8..10, 6);
    place.load();
    let elsewhere = place.path("elsewhere");
    std::fs::rename(&made[2].path, &elsewhere).expect("moved");
    for lost in [3, 8] {
        std::fs::remove_file(&made[lost].path).expect("removed");
    }
    assert_eq!(place.migrate()["files_failed"], 3);
    let before = place.objects();
    let new = format!(
        "UPDATE files SET file_location = '{}' WHERE uid = '{}'",
        elsewhere.display(),
        made[2].uid
    );
    place.sql().execute(&new);

    let nowhere = place.des(&format!("retry-failed --window {}", place.midnight(3)));
    nowhere.expect(2).says(["no committed window ends at", place.midnight(9).as_str()]);
    let first = format!("retry-failed --window {}", place.midnight(9));
    let done = place.json(&format!("{first} --reason moved"));
    assert_eq!(done["retried"], json!([place.midnight(9)]), "{done}");
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!((&done["still_failed"], &done["found"]["retried_rows"]), (&json!(2), &json!(2)));
    place.assert_archived(&made[2]);
    let open = "SELECT uid || ' ' || revision FROM des_migration_errors WHERE resolved_at IS NULL \
                ORDER BY 1";
    let errors = |place: &Place| place.sql().query(open).concat();
    let expected = [format!("{} 1", made[3].uid), format!("{} 0", made[8].uid)];
    assert_eq!(errors(&place), expected, "with the newer reason");
    let audit = "SELECT reason FROM des_audit_log WHERE action = 'retry-failed'";
    assert_eq!(place.sql().value(audit), "moved");

    // A row that left the catalog stays written down, and is tried where it was.
    place.sql().execute(&format!("DELETE FROM files WHERE uid = '{}'", made[8].uid));
    assert_eq!(place.json("retry-failed --all --reason both")["still_failed"], 2);
    let audit =
        "SELECT count(*) || to_value FROM des_audit_log WHERE reason = 'both' GROUP BY to_value";
    assert_eq!(place.sql().value(audit), "1all", "of two windows");
    for lost in [3, 8] {
        std::fs::write(&made[lost].path, &made[lost].bytes).expect("written");
    }
    let done = place.json("retry-failed --all");
    assert_eq!((&done["files_archived"], &done["still_failed"]), (&json!(2), &json!(0)), "{done}");
    made[..2].iter().chain(&made[3..]).for_each(|file| place.assert_archived(file));
    assert_eq!(place.verify_deep()["files"], 12);
    let after = place.objects();
    assert!(before.iter().all(|(name, hash)| after.get(name) == Some(hash)));
    let human = place.des("retry-failed --all").expect(0).text();
    assert!(human.contains("No file is recorded as failed"), "{human}");
}

#[test]
fn many_failed_files_do_not_hold_a_pass_that_tries_them_again() {
    let mut place = Place::new();
    place.set("coordinator.max_failed_files", 100);
    let made = place.fill(9..10, 60);
    place.load();
    for file in &made[..25] {
        std::fs::remove_file(&file.path).expect("removed");
    }
    assert_eq!(place.migrate()["files_failed"], 25);
    place.set("coordinator.max_failed_files", 3);
    std::fs::write(&made[0].path, &made[0].bytes).expect("written");
    let done = place.json("retry-failed --all");
    assert_eq!((&done["files_archived"], &done["still_failed"]), (&json!(1), &json!(24)), "{done}");
    // A late row brings them along, and is archived all the same.
    let late = place.file("late", 9);
    place.load();
    let done = place.json("reconcile --all");
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(1), &json!(24)), "{done}");
    place.assert_archived(&late);
}

#[test]
fn reconcile_finds_what_is_late_vanished_and_moved_and_takes_nothing_away() {
    let (mut place, made) = archived(5);
    let first = place.json("reconcile --all");
    assert_eq!((&first["compared"], &first["different"]), (&json!(2), &json!([])), "{first}");
    let before = place.objects();
    let late = place.file("late", 8);
    place.load();
    // As many rows as before: only the digest tells.
    place.sql().execute(&format!("DELETE FROM files WHERE uid = '{}'", made[1].uid));
    let dry = place.json("reconcile --all --dry-run");
    let end = place.midnight(9);
    assert_eq!(dry["different"], json!([{ "end": end, "rows_then": 5, "rows_now": 5 }]), "{dry}");
    let human = place.des("reconcile --all --dry-run").expect(0).text();
    assert!(human.contains(&end) && human.contains("Nothing was changed"), "{human}");
    assert_eq!(place.objects(), before);
    place.get(&late.uid, &late.created_at).expect(4);

    let range = format!("reconcile --from {} --to {end}", place.midnight(8));
    let done = place.json(&format!("{range} --reason check"));
    assert_eq!((&done["compared"], &done["windows"]), (&json!(1), &json!(1)), "{done}");
    let found = &done["found"];
    assert_eq!((&found["late_rows"], &found["vanished_rows"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!(found["named"][0]["uid"], made[1].uid, "{done}");
    assert_eq!(found["shards_checked"], 0, "no shard is read for it");
    place.assert_archived(&late);
    place.assert_archived(&made[1]);
    let audit = "SELECT reason FROM des_audit_log WHERE action = 'reconcile'";
    assert_eq!(place.sql().value(audit), "check");
    assert_eq!(place.json("reconcile --all")["different"], json!([]));

    let sql = format!("UPDATE files SET file_location = '/new' WHERE uid = '{}'", made[7].uid);
    place.sql().execute(&sql);
    assert_eq!(place.json("reconcile --all")["different"], json!([]), "the same rows");
    place.sql().execute("DELETE FROM files");
    let done = place.json("reconcile --all");
    assert_eq!((&done["found"]["vanished_rows"], &done["windows"]), (&json!(11), &json!(0)));
    assert_eq!(place.verify_deep()["files"], 11);
}

#[test]
fn what_was_skipped_is_not_reconciled() {
    let mut place = Place::new();
    place.set("watermark.default_archived_until", place.midnight(8));
    place.fill(8..10, 3);
    place.load();
    place.des("init").expect(0);
    place.json(&format!("adjust --set-date {} --allow-skip", place.midnight(9)));
    place.migrate();
    let done = place.json("reconcile --all");
    assert_eq!((&done["compared"], &done["skipped"]), (&json!(1), &json!(1)), "{done}");
    assert_eq!(place.listed().len(), 3);
}

/// A service finds late rows by itself: at first by their number, later by their digest.
#[test]
fn a_service_looks_at_committed_windows_again() {
    let (mut place, made) = archived(4);
    place.set("coordinator.recheck_after", "3s");
    let late = place.file("late", 9);
    place.load();
    let mut service = place.start("migrate --mode continuous --interval 1");
    let limit = Duration::from_secs(60);
    let passes =
        |place: &Place| place.sql().value("SELECT count(*) FROM des_windows WHERE revision > 0");
    service.run_until(limit, || passes(&place) == "1" && place.shards().len() > 1);
    let rechecked = "SELECT count(*) FROM des_looks WHERE rechecked_at IS NOT NULL";
    service.run_until(limit, || place.sql().value(rechecked) != "0");
    // Nothing more to be done: every window is looked at until it is as it was.
    let windows = "SELECT count(*) FROM des_looks WHERE rechecked_at IS NULL";
    service.run_until(limit, || place.sql().value(windows) == "0");
    service.signal(Signal::TERM);
    service.end(limit).expect(0);
    place.assert_archived(&late);
    place.assert_archived(&made[0]);
    assert_eq!(passes(&place), "1");
    let audit = "SELECT count(*) FROM des_audit_log WHERE action = 'reconcile'";
    assert_eq!(place.sql().value(audit), "1");
}
