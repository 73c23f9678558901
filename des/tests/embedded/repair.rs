//! Late rows, damage, and what `verify` and `replay` make of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Made, Place, text};

fn archived() -> Place {
    let mut place = Place::new();
    place.fill(6..10, 5);
    place.load();
    place.migrate();
    place
}

fn windows(place: &Place) -> Vec<Value> {
    place.json("ls")["windows"].as_array().expect("windows").clone()
}

/// `verify` and `verify --deep` find this one object damaged or missing.
#[track_caller]
fn assert_found(place: &Place, words: &str, object: &str, count: &str) {
    let found = place.des(&format!("{words} --output json")).expect(3).json();
    assert_eq!(found[count], 1, "{found}");
    let named = |it: &Value| it["object"] == object;
    assert!(found["problems"].as_array().expect("problems").iter().all(named), "{found}");
    let human = place.des(words).expect(3).text();
    assert!(human.contains(object), "{human}");
}

#[test]
fn late_rows_are_found_by_replay_and_packed_once() {
    let mut place = archived();
    // No run looks for late rows by itself.
    place.set("coordinator.recheck_after", 0);
    let late = [place.file("late one", 7), place.file("late two", 7)];
    // At exactly midnight a row belongs to the window that ends there.
    let midnight = place.time(8, chrono::TimeDelta::zero());
    let midnight = place.file_at("late at midnight", &midnight, text("late", 70));
    place.load();
    let before = place.objects();
    assert_eq!(place.migrate()["windows"], 0, "the watermark is past them");
    place.get(&late[0].uid, &late[0].created_at).expect(4);

    let end = place.midnight(8);
    let done = place.json(&format!("replay --window {end} --reason late"));
    assert_eq!(done["replayed"], json!([end]), "{done}");
    assert_eq!((&done["windows"], &done["files_archived"]), (&json!(1), &json!(3)), "{done}");
    for file in late.iter().chain([&midnight]) {
        place.assert_archived(file);
    }
    let revisions: Vec<_> =
        windows(&place).into_iter().filter(|it| it["end"] == end.as_str()).collect();
    assert_eq!(revisions.len(), 2, "{revisions:?}");
    assert_eq!((&revisions[1]["revision"], &revisions[1]["files"]), (&json!(1), &json!(3)));
    let after = place.objects();
    assert!(
        before.iter().all(|(name, hash)| after.get(name) == Some(hash)),
        "objects never change"
    );
    assert_eq!(place.watermark(), place.cutoff());

    let again = place.json(&format!("replay --window {end}"));
    assert_eq!((&again["windows"], &again["files_archived"]), (&json!(0), &json!(0)), "{again}");
    let all = place.json(&format!("replay --from {} --to {}", place.midnight(6), place.cutoff()));
    assert_eq!(all["replayed"].as_array().map(Vec::len), Some(4), "{all}");
    assert_eq!(all["windows"], 0, "{all}");
    assert_eq!(place.objects(), after, "no new object, nothing changed");
    assert_eq!(place.verify_deep()["files"], 23);
    let actions = "SELECT count(*) FROM des_audit_log WHERE action = 'replay'";
    assert_ne!(place.sql().value(actions), "0");
}

/// Six files of one day, the third of which is gone.
fn archived_but_one() -> (Place, Vec<Made>) {
    let mut place = Place::new();
    let made = place.fill(9..10, 6);
    place.load();
    std::fs::remove_file(&made[2].path).expect("removed");
    assert_eq!(place.migrate()["files_failed"], 1);
    (place, made)
}

#[test]
fn what_failed_stays_written_down_until_it_is_archived() {
    let (mut place, made) = archived_but_one();
    let before = place.objects();
    let replay = format!("replay --window {}", place.cutoff());
    // A failed file alone is no reason for another revision.
    assert_eq!(place.json(&replay)["windows"], 0);
    assert_eq!(place.objects(), before);
    assert_eq!(place.json("stats")["failed_files"], 1);

    let first = place.file("late one", 9);
    place.load();
    let done = place.json(&replay);
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(1), &json!(1)), "{done}");
    place.assert_archived(&first);
    assert_eq!(place.json("stats")["failed_files"], 1, "it is still not archived");
    assert_eq!(place.des("ls --failed").expect(0).text().lines().count(), 1, "once");
    place.get(&made[2].uid, &made[2].created_at).expect(4).says(["is not archived: missing"]);

    std::fs::write(&made[2].path, &made[2].bytes).expect("written");
    place.file("late two", 9);
    place.load();
    let done = place.json(&replay);
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(2), &json!(0)), "{done}");
    place.assert_archived(&made[2]);
    assert_eq!(place.json("stats")["failed_files"], 0);
    assert_eq!(place.des("ls --failed").expect(0).text(), "");
    assert_eq!(place.verify_deep()["files"], 8);
    assert_eq!(place.listed().len(), 8, "every file once");
}

/// Of two rows with one uid and one created_at the first failed: it is that one which is taken up.
#[test]
fn of_twins_the_right_one_is_taken_up_again() {
    let mut place = Place::new();
    let at = place.time(9, chrono::TimeDelta::hours(1));
    let twins = [("first", 40), ("second", 50)]
        .map(|(name, size)| place.file_at("twins", &at, text(name, size)));
    place.load();
    std::fs::remove_file(&twins[0].path).expect("removed");
    place.migrate();
    std::fs::write(&twins[0].path, &twins[0].bytes).expect("written");
    place.file("late", 9);
    place.load();
    let done = place.json(&format!("replay --window {}", place.cutoff()));
    assert_eq!(done["files_archived"], 2, "{done}");
    let sizes: Vec<_> = place.listed().into_iter().map(|(_, _, size)| size).collect();
    assert_eq!(sizes, [300, 40, 50]);
}

/// The shard that holds each file, as `ls` knows it.
fn shards(place: &Place) -> BTreeMap<String, String> {
    let listed = place.des("ls --files --output json").expect(0).text();
    let files = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let text = |it: &Value| it.as_str().expect("a text").to_owned();
    files.map(|file| (text(&file["uid"]), text(&file["shard"]))).collect()
}

fn shard_of(place: &Place, uid: &str) -> (String, PathBuf) {
    let shard = shards(place).remove(uid).expect("it is listed");
    let path = place.archive().join(&shard);
    (shard, path)
}

#[test]
fn a_shard_that_is_gone_is_found_and_made_again() {
    let mut place = archived();
    let (shard, path) = shard_of(&place, "day7-0");
    std::fs::remove_file(&path).expect("removed");
    for words in ["verify", "verify --deep"] {
        assert_found(&place, words, &shard, "missing");
    }
    assert_repaired(&mut place, 20);
}

#[test]
fn a_flipped_byte_is_found_and_repaired() {
    // At the front, in the middle, and at the very end.
    for place_in_file in [0, 1, 2] {
        let mut place = archived();
        let (shard, path) = shard_of(&place, "day7-0");
        let mut bytes = std::fs::read(&path).expect("the shard");
        let at = (bytes.len() - 1) * place_in_file / 2;
        bytes[at] ^= 0x40;
        std::fs::write(&path, bytes).expect("written");
        place.json("verify");
        assert_found(&place, "verify --deep", &shard, "damaged");
        assert_repaired(&mut place, 20);
    }
}

#[test]
fn a_shard_that_was_cut_off_is_found_and_repaired() {
    let mut place = archived();
    let (shard, path) = shard_of(&place, "day7-0");
    let bytes = std::fs::read(&path).expect("the shard");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    for words in ["verify", "verify --deep"] {
        assert_found(&place, words, &shard, "damaged");
    }
    assert_repaired(&mut place, 20);
}

/// `replay` makes the damage of day 7 good from the sources.
#[track_caller]
fn assert_repaired(place: &mut Place, files: usize) {
    let before = place.objects();
    let done = place.json(&format!("replay --window {}", place.midnight(8)));
    // The sources are what they were: the shard is whole again under its own name.
    assert_eq!((&done["windows"], &done["found"]["objects_restored"]), (&json!(0), &json!(1)));
    let mut names: Vec<_> = before.into_keys().collect();
    names.retain(|name| !place.objects().contains_key(name));
    assert_eq!(names, Vec::<String>::new());
    let sound = place.verify_deep();
    assert_eq!(sound["files"], files, "{sound}");
    assert_eq!(place.listed().len(), files, "every file once");
    let files = place
        .sql()
        .query("SELECT uid, created_at, file_location FROM files WHERE uid LIKE 'day7-%'");
    for row in files {
        let got = place.get(&row[0], &row[1]).expect(0);
        assert_eq!(got.stdout, std::fs::read(&row[2]).expect("the source"), "{}", row[0]);
    }
    let before = place.objects();
    let again = place.json(&format!("replay --window {}", place.midnight(8)));
    assert_eq!(again["windows"], 0, "{again}");
    assert_eq!(place.objects(), before);
}

#[test]
fn what_was_repaired_may_be_damaged_again() {
    let mut place = archived();
    let late = place.file("late", 7);
    place.load();
    place.json(&format!("replay --window {}", place.midnight(8)));
    for _ in 0..3 {
        let (shard, path) = shard_of(&place, "day7-0");
        std::fs::remove_file(&path).expect("removed");
        assert_found(&place, "verify", &shard, "missing");
        assert_repaired(&mut place, 21);
        place.assert_archived(&late);
    }
}

/// A day of 40 files, some of which share a shard with `made[0]`: those, and that shard.
fn of_one_shard() -> (Place, Vec<Made>, Vec<Made>, PathBuf) {
    let mut place = Place::new();
    let made = place.fill(9..10, 40);
    place.load();
    place.migrate();
    let (shard, path) = shard_of(&place, &made[0].uid);
    let shards = shards(&place);
    let mut inside = made.clone();
    inside.retain(|file| shards[&file.uid] == shard);
    assert!(inside.len() > 2, "the shard holds several files");
    (place, made, inside, path)
}

/// Users delete rows of files that they know to be in the archive.
#[test]
fn what_the_catalog_has_no_more_is_repaired_too() {
    let (place, made, inside, path) = of_one_shard();
    std::fs::remove_file(&path).expect("removed");
    // One source is another now, so that the shard cannot be the same again.
    std::fs::write(&inside[0].path, text("changed", 300)).expect("written");
    place.sql().execute("DELETE FROM files");
    let replay = format!("replay --window {}", place.cutoff());
    let done = place.json(&replay);
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(inside.len()), &json!(0)),
        "{done}"
    );
    for file in made.iter().filter(|file| file.uid != inside[0].uid) {
        place.assert_archived(file);
    }
    let got = place.get(&inside[0].uid, &inside[0].created_at).expect(0);
    assert_eq!(got.stdout, text("changed", 300));
    assert_eq!(place.verify_deep()["files"], 40);
    assert_eq!(place.listed().len(), 40, "every file once");
    assert_eq!(place.errors(), []);
    let before = place.objects();
    assert_eq!(place.json(&replay)["windows"], 0);
    assert_eq!(place.objects(), before);
}

/// Neither row nor source: such a file is named, for ever, until its source is there again.
#[test]
fn what_is_beyond_help_is_named_and_nothing_else_is_lost_with_it() {
    let (mut place, made, inside, path) = of_one_shard();
    let gone = &inside[1];
    let shard = path.file_name().expect("a name").to_string_lossy().into_owned();
    std::fs::remove_file(&path).expect("removed");
    std::fs::remove_file(&gone.path).expect("removed");
    place.sql().execute("DELETE FROM files");
    let replay = format!("replay --window {}", place.cutoff());
    let done = place.des(&format!("{replay} --output json")).expect(1).json();
    let found = &done["found"];
    assert_eq!((&found["files_beyond_help"], &found["shards_repaired"]), (&json!(1), &json!(0)));
    assert_eq!(found["named"][0]["finding"], "beyond_help", "{done}");
    assert_eq!(found["named"][0]["uid"], gone.uid, "{done}");
    assert_eq!(place.errors(), [(gone.uid.clone(), "missing".to_owned())]);
    let others = || made.iter().filter(|file| file.uid != gone.uid);
    others().for_each(|file| place.assert_archived(file));
    assert_found(&place, "verify", &shard, "missing");

    // Again, and with a late row: nothing is packed twice, and the file stays written down.
    let before = place.objects();
    let human = place.des(&replay).expect(1).text();
    assert!(human.contains(&format!("beyond help: {}", gone.created_at.replace(".000000", ""))));
    assert!(human.contains(&gone.path.display().to_string()), "{human}");
    assert_eq!(place.objects(), before);
    let late = place.file("late", 9);
    place.load();
    place.des(&replay).expect(1);
    place.assert_archived(&late);
    assert_eq!(place.json("stats")["failed_files"], 1);
    place.get(&gone.uid, &gone.created_at).expect(1).says([shard.as_str()]);

    // Its source comes back, changed, so that the shard cannot be the same again: it is given up for
    // those that hold all of it.
    std::fs::write(&gone.path, &gone.bytes).expect("written");
    std::fs::write(&inside[0].path, text("changed", 300)).expect("written");
    let retried = place.json("retry-failed --all");
    assert_eq!((&retried["files_archived"], &retried["still_failed"]), (&json!(1), &json!(0)));
    let done = place.json(&replay);
    assert_eq!(done["found"]["shards_repaired"], 1, "{done}");
    made.iter().for_each(|file| place.assert_archived(file));
    assert_eq!(place.listed().len(), 41, "every file once");
    assert_eq!(place.json("stats")["failed_files"], 0);
    place.json(&replay);
    place.verify_deep();
}

/// A customer may have deleted the sources: what the damaged shard still holds is all there is.
#[test]
fn without_sources_a_damaged_shard_still_gives_what_is_whole() {
    let mut place = Place::new();
    place.set("packer.compression", json!({ "codec": "none" }));
    let made = place.fill(9..10, 50);
    place.load();
    place.migrate();
    let (shard, path) = shard_of(&place, "day9-0");
    let shards = shards(&place);
    let others: Vec<_> = made[1..].iter().filter(|file| shards[&file.uid] == shard).collect();
    let mut bytes = std::fs::read(&path).expect("the shard");
    let at = bytes.windows(300).position(|it| it == made[0].bytes).expect("it is in there");
    bytes[at + 20] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    assert!(others.len() > 1, "the shard holds several files");
    let intact = |place: &Place| {
        place.get(&made[0].uid, &made[0].created_at).stdout.is_empty()
            && others.iter().all(|file| place.get(&file.uid, &file.created_at).stdout == file.bytes)
    };
    assert!(intact(&place));
    for file in &made {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.des(&format!("replay --window {}", place.cutoff()));
    assert!(intact(&place), "what could be read before the replay can be read after it");
    assert_found(&place, "verify --deep", &shard, "damaged");
}

#[test]
fn damage_to_papers_and_big_files_is_found() {
    let mut place = Place::new();
    place.set("packer.big_file_threshold", 1_000);
    place.file_at("big", &place.time(9, chrono::TimeDelta::hours(1)), text("big", 5_000));
    place.fill(9..10, 3);
    place.load();
    place.migrate();
    for folder in ["_bigFiles", "_des/manifests", "_des/receipts"] {
        let objects = place.objects();
        let name = objects.keys().find(|it| it.starts_with(folder) && !it.ends_with('/'));
        let name = name.expect("an object");
        let path = place.archive().join(name);
        let bytes = std::fs::read(&path).expect("read");
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        std::fs::write(&path, flipped).expect("written");
        assert_found(&place, "verify --deep", name, "damaged");
        std::fs::remove_file(&path).expect("removed");
        assert_found(&place, "verify", name, "missing");
        std::fs::write(&path, bytes).expect("written");
        place.verify_deep();
    }
    let certificates = place.archive().join("_des/certificates");
    let entry = std::fs::read_dir(certificates).expect("them").next().expect("one").expect("read");
    std::fs::write(entry.path(), b"{}").expect("written");
    let found = place.des("verify --output json").expect(3).json();
    assert_eq!(found["damaged"], 1, "{found}");
}
