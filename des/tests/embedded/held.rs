//! Held windows: what holds one, and how it goes on: released, or repaired and tried again.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Made, Place};

/// 30 files of one day, of which the first so many are gone, and 3 of the next.
fn place_with_missing(missing: usize) -> (Place, Vec<Made>) {
    let mut place = Place::new();
    let made = place.fill(8..9, 30);
    for file in made.iter().take(missing) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(9..10, 3);
    // What more than half of a partition's missing files look like is believed at once.
    place.load().set("coordinator.max_attempts", 1);
    (place, made)
}

/// Runs until the window that ends at midnight 9 is held; what the run says.
#[track_caller]
fn held(place: &Place, failed: usize) -> Value {
    let done = place.des("migrate --mode single --output json").expect(1).json();
    let reason = done["held"][0]["reason"].as_str().expect("a held window");
    assert!(reason.contains(&format!("{failed} of 30 files failed")), "{done}");
    assert_eq!(done["held"][0]["end"], place.midnight(9).as_str(), "{done}");
    assert_eq!(place.watermark(), place.midnight(8), "{done}");
    let stats = place.json("stats");
    let expected = json!([place.midnight(9), 0, 30, failed]);
    let shown =
        ["end", "revision", "rows", "files_failed"].map(|key| stats["held"][0][key].clone());
    assert_eq!(json!(shown), expected, "{stats}");
    done
}

/// Actor, reason and target of what the audit log has of an action.
fn audited(place: &Place, action: &str) -> Vec<Vec<String>> {
    let sql = format!(
        "SELECT from_value, to_value, coalesce(reason, 'no reason') FROM des_audit_log \
         WHERE action = '{action}' AND actor <> '' ORDER BY id"
    );
    place.sql().query(&sql)
}

#[test]
fn a_held_window_is_released_with_its_failed_files_as_error_rows() {
    let (place, made) = place_with_missing(11);
    held(&place, 11);
    let end = place.midnight(9);
    let summary = place.json(&format!("errors --summary --window {end}"));
    assert_eq!((&summary["files"], &summary["held"]), (&json!(0), &json!(11)), "{summary}");
    let told = place.des("errors").expect(0).text();
    assert!(told.starts_with("11 files failed in windows that are held"), "{told}");
    assert!(told.ends_with("\nNo file is recorded as failed here.\n"), "{told}");
    let listed = |words: &str| {
        let text = place.des(&format!("errors --held --output json {words}")).expect(0).text();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        rows.collect::<Vec<_>>()
    };
    let all = listed("");
    let uids: BTreeSet<_> = all.iter().map(|row| row["uid"].as_str().expect("a uid")).collect();
    assert_eq!(uids, made.iter().take(11).map(|file| file.uid.as_str()).collect());
    for row in &all {
        let at = ["reason", "window", "revision", "partition"].map(|key| row[key].clone());
        assert_eq!(json!(at), json!(["missing", end, 0, 0]), "{row}");
    }
    assert_eq!(listed(&format!("--limit 4 --window {end}")), all[..4]);
    assert_eq!(listed("--reason changed"), [] as [Value; 0]);
    assert_eq!(listed(&format!("--window {}", place.midnight(10))), [] as [Value; 0]);
    let human = place.des("errors --held --limit 4").expect(0).text();
    assert!(human.ends_with(" partition 0\n7 more are not shown: --limit.\n"), "{human}");
    let words = format!("release --window {end} --output json --reason deleted-by-their-owner");
    let released = place.des(&words).expect(0).json();
    let expected = json!({
        "window": end, "revision": 0, "rows": 30, "files_failed": 11, "partitions": 1,
        "action": "release",
    });
    assert_eq!(released, expected);
    let log = [[
        "held: 11 of 30 files failed",
        &format!("window {}", key(&end)),
        "deleted-by-their-owner",
    ]
    .map(str::to_owned)
    .to_vec()];
    assert_eq!(audited(&place, "release"), log);
    assert!(place.errors().is_empty(), "nothing is settled before the window is");

    let done = place.migrate();
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(22), &json!(11)),
        "{done}"
    );
    assert_eq!(place.watermark(), place.cutoff());
    assert_eq!(place.errors().len(), 11);
    assert_eq!(place.json("stats")["held"], json!([]));
    for file in &made[11..] {
        place.assert_archived(file);
    }
    place.verify_deep();
    place.des(&words).expect(2).says(["is not held: no window is"]);
}

/// A window's end and revision as objects are named by.
fn key(end: &str) -> String {
    format!("{}-r0000", end.replace(['-', ':'], ""))
}

#[test]
fn only_a_held_window_is_released_or_tried_again() {
    let (place, _made) = place_with_missing(11);
    held(&place, 11);
    let before = place.sql().query("SELECT * FROM des_windows ORDER BY window_end");
    let told = format!("is not held: held are those that end at {}", place.midnight(9));
    for words in ["release --reason x", "retry"] {
        for end in [place.midnight(8), place.midnight(10)] {
            place.des(&format!("{words} --window {end}")).expect(2).says([&told]);
        }
    }
    // A reason is needed for what gives files up, and not for reading them again.
    let end = place.midnight(9);
    place.des(&format!("release --window {end}")).expect(2).says(["--reason"]);
    assert_eq!(place.sql().query("SELECT * FROM des_windows ORDER BY window_end"), before);
    assert!(audited(&place, "release").is_empty() && audited(&place, "retry").is_empty());
}

#[test]
fn a_repaired_window_is_tried_again_and_loses_nothing() {
    let (place, made) = place_with_missing(20);
    held(&place, 20);
    // Half of the repair is not enough, and what is whole stays as it is.
    let repair = |files: &[Made]| {
        files.iter().for_each(|file| std::fs::write(&file.path, &file.bytes).expect("written"));
    };
    repair(&made[..5]);
    let end = place.midnight(9);
    let told = place.des(&format!("retry --window {end}")).expect(0).text();
    assert!(told.contains("Its failed files are read again"), "{told}");
    held(&place, 15);

    repair(&made);
    place.des(&format!("retry --window {end} --reason mounted")).expect(0);
    let done = place.migrate();
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(33), &json!(0)), "{done}");
    assert!(place.errors().is_empty());
    assert_eq!(place.verify_deep()["files"], 33);
    for file in &made {
        place.assert_archived(file);
    }
    let reasons: Vec<_> = audited(&place, "retry").into_iter().map(|row| row[2].clone()).collect();
    assert_eq!(reasons, ["no reason", "mounted"]);
}

#[test]
fn a_release_covers_what_had_failed_and_no_more() {
    let (place, made) = place_with_missing(11);
    held(&place, 11);
    let end = place.midnight(9);
    place.des(&format!("release --window {end} --reason x")).expect(0);
    // Before it commits, its shards are lost, and one more file is gone when it is done again.
    for shard in place.shards() {
        std::fs::remove_file(place.archive().join(shard)).expect("removed");
    }
    std::fs::remove_file(&made[11].path).expect("removed");
    let done = held(&place, 12);
    let reason = done["held"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("more than the 11 that it was released with"), "{reason}");
}

#[test]
fn a_file_that_cannot_be_read_for_the_machines_reasons_holds_up_nothing() {
    let mut place = Place::new();
    let sound = place.fill(8..10, 6);
    // Regular, and every read of it is an I/O error.
    let at = place.time(8, chrono::TimeDelta::hours(3));
    place.row(json!(["unreadable", at, "/proc/self/mem", null]));
    place.load().set("coordinator.max_attempts", 2);
    let run = place.des("migrate --mode single --output json").expect(0);
    let run = run.says(["cannot read /proc/self/mem: Input/output error"]);
    let done = run.json();
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(12), &json!(1)), "{done}");
    assert_eq!(place.errors(), [("unreadable".to_owned(), "unreadable".to_owned())]);
    let told = "is not archived: unreadable";
    place.get("unreadable", &at).expect(4).says([told]);
    for file in &sound {
        place.assert_archived(file);
    }
    // One that reads again is no failure: here it is tried once only, and there is no attempt left.
    let attempts = "SELECT attempts || ' ' || interruptions || ' ' || trouble_class \
                    FROM des_partitions WHERE files_failed > 0";
    assert_eq!(place.sql().value(attempts), "1 0 files");
    place.verify_deep();
}
