//! Files that cannot be archived: each is written down with its reason, none stops the others, and
//! too many of them hold their window.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use chrono::TimeDelta;
use serde_json::json;

use crate::support::{Place, Running, as_nobody, text};

fn make_fifo(path: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("a FIFO");
}

/// `get` says that the file is not archived, and why.
#[track_caller]
fn assert_not_archived(place: &Place, uid: &str, created_at: &str, reason: &str) {
    let told = format!("is not archived: {reason}");
    for when in [created_at, &created_at[..10]] {
        place.get(uid, when).expect(4).says([&told]);
    }
}

#[test]
fn every_reason_is_written_down_and_told() {
    let mut place = Place::new();
    let (files, outside) = (place.path("files"), place.path("outside"));
    place
        .set("source", json!({ "roots": [files, "/dev"] }))
        .set("database.size_column", "size_bytes");
    std::fs::create_dir(&outside).expect("made");
    std::fs::write(outside.join("secret"), b"secret").expect("written");
    symlink(outside.join("secret"), files.join("link")).expect("linked");
    symlink(&outside, files.join("linked directory")).expect("linked");
    symlink(files.join("loop"), files.join("loop")).expect("linked");
    make_fifo(&files.join("fifo"));
    std::fs::create_dir(files.join("directory")).expect("made");
    std::fs::write(files.join("short"), b"12345").expect("written");

    let at = place.time(8, TimeDelta::hours(3));
    let long_uid = "u".repeat(65_536);
    let expected = [
        ("gone", json!(files.join("nothing here")), "missing"),
        ("below a file", json!(files.join("short/below")), "missing"),
        ("a directory", json!(files.join("directory")), "is_directory"),
        ("a fifo", json!(files.join("fifo")), "not_regular"),
        ("a device", json!("/dev/null"), "not_regular"),
        ("a link", json!(files.join("link")), "outside_roots"),
        (
            "through a linked directory",
            json!(files.join("linked directory/secret")),
            "outside_roots",
        ),
        ("dot dot", json!(files.join("../outside/secret")), "outside_roots"),
        ("elsewhere", json!(outside.join("secret")), "outside_roots"),
        ("a loop", json!(files.join("loop")), "invalid_location"),
        ("another size", json!(files.join("short")), "size_mismatch"),
        ("no location", json!(null), "no_location"),
        ("an empty location", json!(""), "no_location"),
        (&long_uid, json!(files.join("short")), "uid_too_long"),
    ];
    for (uid, location, _) in &expected {
        let size = if *uid == "another size" { json!(6) } else { json!(null) };
        place.row(json!([uid, at, location, size]));
    }
    // Relative locations are below the first root; a size that nobody knows is not compared.
    place.row(json!(["relative", at, "short", null]));
    let sound = place.fill(8..10, 20);
    place.load().set("coordinator.max_failed_files", expected.len());

    let done = place.migrate();
    assert_eq!(done["files_failed"], expected.len(), "{done}");
    assert_eq!(done["files_archived"], sound.len() + 1, "{done}");
    assert_eq!(place.json("stats")["failed_files"], expected.len());
    let mut written: Vec<_> =
        expected.iter().map(|(uid, _, reason)| (shown(uid), (*reason).to_owned())).collect();
    written.sort();
    assert_eq!(
        place.errors().into_iter().map(|(uid, why)| (shown(&uid), why)).collect::<Vec<_>>(),
        written
    );
    let text_of_location = "SELECT file_location FROM des_migration_errors WHERE uid = 'gone'";
    assert_eq!(
        place.sql().value(text_of_location),
        files.join("nothing here").display().to_string()
    );

    for (uid, _, reason) in &expected {
        assert_not_archived(&place, uid, &at, reason);
    }
    let listed = place.des("ls --failed --output json").expect(0).text();
    let listed = listed.lines().map(serde_json::from_str::<serde_json::Value>);
    let mut listed: Vec<_> = listed
        .map(|row| row.expect("one JSON object a line"))
        .map(|row| (shown(row["uid"].as_str().expect("uid")), row["reason"].clone()))
        .map(|(uid, reason)| (uid, reason.as_str().expect("a reason").to_owned()))
        .collect();
    listed.sort();
    assert_eq!(listed, written);
    let human = place.des("ls --failed").expect(0).text();
    assert!(human.contains("gone\t") && human.contains("\tmissing\t"), "{human}");
    assert!(place.des(&format!("ls --failed --to {}", place.midnight(8))).text().is_empty());
    let words = format!("get gone --created-at {at} --output json");
    let told = place.des(&words).expect(4).json();
    assert_eq!((&told["archived"], &told["reason"]), (&json!(false), &json!("missing")), "{told}");
    for file in sound.iter().step_by(10) {
        place.assert_archived(file);
    }
    assert_eq!(place.get("relative", &at).expect(0).stdout, b"12345");
    assert_eq!(place.verify_deep()["files"], sound.len() + 1);
}

/// A long uid as tests show it: its beginning and its length are what is kept.
fn shown(uid: &str) -> String {
    uid.chars().take(40).collect()
}

/// Root may read everything, so that as root this runs `des` as `nobody`.
#[test]
fn what_may_not_be_read_is_written_down() {
    let mut place = Place::new();
    let sound = place.fill(9..10, 20);
    let at = place.time(9, TimeDelta::hours(3));
    let locked = place.path("files").join("locked");
    std::fs::create_dir(&locked).expect("made");
    for (uid, path) in
        [("file", place.path("files").join("no")), ("in directory", locked.join("x"))]
    {
        std::fs::write(&path, b"x").expect("written");
        place.row(json!([uid, at, path, null]));
    }
    place.load();
    let forbid = |path: &Path| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).expect("forbidden");
    };
    let command = as_nobody(&place, || {
        forbid(&place.path("files").join("no"));
        forbid(&locked);
    });
    let config = place.config().display().to_string();
    let arguments = ["migrate", "--mode", "single", "--output", "json", "--config", &config];
    let done = Running::start(command, arguments).end(std::time::Duration::from_secs(60));
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o700)).expect("allowed again");
    let done = done.expect(0).json();
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(sound.len()), &json!(2)),
        "{done}"
    );
    let denied = |uid: &str| (uid.to_owned(), "no_permission".to_owned());
    assert_eq!(place.errors(), [denied("file"), denied("in directory")]);
    assert_not_archived(&place, "file", &at, "no_permission");
}

#[test]
fn without_roots_any_regular_file_will_do_and_nothing_else() {
    let mut place = Place::new();
    let at = place.time(9, TimeDelta::hours(3));
    let target = place.file_at("plain", &at, text("plain", 20));
    symlink(&target.path, place.path("link")).expect("linked");
    place.row(json!(["by link", at, place.path("link"), null]));
    place.row(json!(["a device", at, "/dev/null", null]));
    place.row(json!(["a terminal", at, "/dev/ptmx", null]));
    place.load();
    let done = place.migrate();
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(2), &json!(2)), "{done}");
    assert_eq!(place.get("by link", &at).expect(0).stdout, target.bytes);
    assert_not_archived(&place, "a device", &at, "not_regular");
}

/// `missing` of `all` files of one day are gone.
fn place_with_missing(missing: usize, all: usize) -> Place {
    let mut place = Place::new();
    for file in place.fill(8..9, all).iter().take(missing) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(9..10, 3);
    place.load();
    place
}

#[test]
fn a_window_with_too_many_failures_is_held() {
    let mut place = place_with_missing(11, 30);
    let run = place.des("migrate --mode single --output json").expect(1);
    let done = run.json();
    let held = done["held"].as_array().expect("the held windows");
    assert_eq!(held.len(), 1, "{done}");
    assert_eq!(held[0]["end"], place.midnight(9).as_str(), "{done}");
    let reason = held[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("11 of 30 files failed"), "{reason}");
    assert_eq!(place.watermark(), place.midnight(8), "the watermark stands before it");
    assert_eq!(place.json("stats")["held"].as_array().map(Vec::len), Some(1));
    let stats = place.des("stats").expect(0).text();
    assert!(stats.contains("held: the window that ends at"), "{stats}");
    assert!(place.errors().is_empty(), "nothing is settled before the window is");
    let human = place.des("migrate --mode single").expect(1).text();
    let told =
        format!("held: the window that ends at {}: 11 of 30 files failed", place.midnight(9));
    assert!(human.contains(&told), "{human}");

    // More is allowed: then it goes on.
    place.set("coordinator.max_failed_ratio", 0.4);
    let done = place.migrate();
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(22), &json!(11)),
        "{done}"
    );
    assert_eq!(place.watermark(), place.cutoff());
    assert_eq!(place.errors().len(), 11);
    place.verify_deep();
}

#[test]
fn a_window_with_few_failures_goes_on() {
    let place = place_with_missing(10, 30);
    let done = place.migrate();
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(23), &json!(10)),
        "{done}"
    );
    assert!(done.get("held").is_none(), "{done}");
}

#[test]
fn rows_that_no_window_can_hold_are_counted() {
    let mut place = Place::new();
    let file = place.file("sound", 9);
    let location = json!(file.path);
    for (uid, created_at) in [
        (json!(null), json!(file.created_at)),
        (json!(null), json!(null)),
        (json!("without a time"), json!(null)),
        (json!("without a time either"), json!(null)),
    ] {
        place.row(json!([uid, created_at, location, null]));
    }
    place.load();
    let done = place.migrate();
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(1), &json!(0)), "{done}");
    let stats = place.json("stats");
    // A row without either counts as one of them.
    let counted = [&stats["null_uid"], &stats["null_created_at"]].map(|it| it.as_u64());
    assert!(counted.iter().all(|it| it.is_some_and(|it| it >= 1)), "{stats}");
    assert_eq!(counted[0].zip(counted[1]).map(|(uid, time)| uid + time), Some(4), "{stats}");
    let human = place.des("stats").expect(0).text();
    assert!(human.contains("4 rows can never be archived"), "{human}");
    let check = place.des("migrate --check").expect(0).text();
    assert!(check.contains("4 rows can never be archived"), "{check}");
}
