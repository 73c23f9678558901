//! What a run archives, what it says about it, and that every file comes back byte by byte.

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::support::{LAG_DAYS, Made, Place, Running, incompressible, text};

#[track_caller]
fn assert_keys(object: &Value, expected: &[&str]) {
    let found: Vec<&str> =
        object.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Files of every kind that tables of files hold, over five days.
fn all_kinds(place: &mut Place) -> Vec<Made> {
    let at = |place: &Place, day, seconds| place.time(day, TimeDelta::seconds(seconds));
    let noon = at(place, 5, 43_200);
    let mut made = vec![
        // Midnight belongs to the window that it ends, and to the day that it begins.
        place.file_at("first instant of a day", &at(place, 6, 0), text("a", 400)),
        place.file_at("last instant of a day", &at(place, 6, -1), text("b", 400)),
        place.file_at("exactly the cutoff", &at(place, 10, 0), text("c", 400)),
        place.file_at(
            "to the microsecond",
            &place.time(7, TimeDelta::microseconds(1)),
            text("d", 1),
        ),
        place.file_at("zażółć/gęślą jaźń 🗄️\n", &noon, text("e", 700)),
        place.file_at("-rf", &noon, text("f", 700)),
        place.file_at("' OR 1=1; --", &noon, text("g", 700)),
        place.file_at(&"u".repeat(65_535), &noon, text("h", 700)),
        place.file_at("empty", &noon, Vec::new()),
        place.file_at("incompressible", &noon, incompressible("i", 40_000)),
        place.file_at("at the threshold", &noon, incompressible("j", 50_000)),
        place.file_at("one byte over it", &noon, incompressible("k", 50_001)),
        place.file_at("far over it", &noon, text("l", 3_000_000)),
        // The same content twice is one big file.
        place.file_at("far over it, too", &noon, text("l", 3_000_000)),
        // One uid: twice on one day, and on others.
        place.file_at("versions", &at(place, 5, 100), text("m1", 100)),
        place.file_at("versions", &at(place, 5, 200), text("m2", 200)),
        place.file_at("versions", &at(place, 8, 100), text("m3", 300)),
        place.file_at("versions", &at(place, 9, 100), Vec::new()),
    ];
    let number = place.file_at("0", &noon, text("n", 33));
    let number = Made { uid: "9007199254740993".to_owned(), ..number };
    place.row(json!([9_007_199_254_740_993_i64, number.created_at, number.path, 33]));
    made.push(number);
    made.push(place.file_at("007", &noon, text("o", 34)));
    made
}

#[test]
fn every_kind_of_file_comes_back_byte_by_byte() {
    let mut place = Place::new();
    place.set("packer.big_file_threshold", 50_000).set("database.size_column", "size_bytes");
    let made = all_kinds(&mut place);
    // Same uid, same created_at, two files: both are kept, and either may be asked for.
    let twice = place.time(8, TimeDelta::seconds(500));
    let twins = [
        place.file_at("twins", &twice, text("p1", 50)),
        place.file_at("twins", &twice, text("p2", 60)),
    ];
    place.load();
    let rows = place.sql().query("SELECT uid, created_at, size_bytes FROM files");

    let done = place.migrate();
    assert_keys(
        &done,
        &[
            "windows",
            "files_archived",
            "files_failed",
            "shards",
            "bytes_raw",
            "bytes_stored",
            "archived_until",
            "seconds",
        ],
    );
    assert_eq!(done["files_archived"], rows.len(), "{done}");
    assert_eq!(done["files_failed"], 0, "{done}");
    assert_eq!(done["archived_until"], place.cutoff().as_str());
    let raw: u64 = rows.iter().map(|row| row[2].parse::<u64>().expect("a size")).sum();
    // A big file's content is counted, and stored, once per window.
    assert_eq!(done["bytes_raw"], raw - 3_000_000, "{done}");
    assert_eq!(done["shards"], place.shards().len(), "{done}");
    let stored: u64 = stored_bytes(&place);
    assert_eq!(done["bytes_stored"], stored, "{done}");

    for file in &made {
        place.assert_archived(file);
        let day = &file.created_at[..10];
        let of_day = place.get(&file.uid, day).expect(0).stdout;
        let versions =
            made.iter().filter(|it| it.uid == file.uid && it.created_at.starts_with(day));
        let contents: Vec<_> = versions.map(|it| &it.bytes).collect();
        assert!(contents.contains(&&of_day), "{} on {day}: other bytes", file.uid);
    }
    let twin = place.get("twins", &twice).expect(0).stdout;
    assert!(twins.iter().any(|it| it.bytes == twin));

    let mut expected: Vec<_> = rows
        .iter()
        .map(|row| (row[0].clone(), shortest(&row[1]), row[2].parse().expect("a size")))
        .collect();
    expected.sort();
    assert!(place.listed() == expected, "`ls --files` lists other files than the catalog");
}

/// A time as `des` prints it: no more digits than it takes, three at a time.
fn shortest(created_at: &str) -> String {
    created_at.replace(".000000Z", "Z")
}

fn stored_bytes(place: &Place) -> u64 {
    let folders = [place.archive(), place.archive().join("_bigFiles")];
    let entries = folders.iter().flat_map(|it| std::fs::read_dir(it).expect("a directory"));
    let files = entries.map(|it| it.expect("an entry").metadata().expect("its size"));
    files.filter(std::fs::Metadata::is_file).map(|it| it.len()).sum()
}

#[test]
fn numbers_say_what_is_there() {
    let mut place = Place::new();
    place.set("database.size_column", "size_bytes");
    place.fill(5..10, 4);
    place.load();
    place.json("init");

    let stats = place.json("stats");
    for key in [
        "archived_until",
        "origin",
        "target_cutoff",
        "lag_days",
        "lag_seconds",
        "pending_files",
        "pending_bytes",
        "uncovered_files",
        "failed_files",
    ] {
        assert!(stats.get(key).is_some(), "{key} is missing: {stats}");
    }
    assert_eq!(stats["archived_until"], place.midnight(5).as_str(), "{stats}");
    assert_eq!(stats["target_cutoff"], place.cutoff().as_str(), "{stats}");
    assert_eq!(stats["lag_days"], LAG_DAYS, "{stats}");
    assert_eq!(stats["lag_seconds"], 5 * 86_400, "{stats}");
    assert_eq!((&stats["pending_files"], &stats["pending_bytes"]), (&json!(20), &json!(6_000)));
    let oldest = stats["oldest_pending"].as_str().expect("a time");
    assert!(oldest > &*place.midnight(5) && oldest < &*place.midnight(6), "{stats}");
    for unknown in ["pace", "eta", "n_bits_advice"] {
        assert_eq!(stats[unknown], Value::Null, "nothing is committed yet: {stats}");
    }

    let done = place.migrate();
    assert_eq!((&done["windows"], &done["files_archived"]), (&json!(5), &json!(20)), "{done}");
    let stats = place.json("stats");
    assert_eq!((&stats["pending_files"], &stats["pending_bytes"]), (&json!(0), &json!(0)));
    assert_eq!((&stats["lag_seconds"], &stats["open_windows"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!((&stats["oldest_pending"], &stats["pace"]["files"]), (&Value::Null, &json!(20)));
    assert_eq!(stats["pace"]["pending_seconds"], 0, "{stats}");
    assert!(stats["pace"]["files_per_second"].as_f64().is_some_and(|it| it > 0.0), "{stats}");
    assert_eq!(stats["n_bits_advice"], Value::Null, "there is nothing less than 4: {stats}");
    assert_eq!(place.watermark(), place.cutoff(), "the row that the seed's queries read");

    for words in ["verify", "verify --deep"] {
        let found = place.json(words);
        assert_keys(&found, &["files", "shards", "bytes", "damaged", "missing", "problems"]);
        assert_eq!((&found["files"], &found["shards"]), (&json!(20), &done["shards"]), "{found}");
        assert_eq!(found["bytes"], done["bytes_stored"], "{found}");
        assert_eq!((&found["damaged"], &found["missing"]), (&json!(0), &json!(0)), "{found}");
    }

    let listed = place.json("ls");
    let windows = listed["windows"].as_array().expect("windows");
    assert_eq!(windows.len(), 5, "{listed}");
    for (window, day) in windows.iter().zip(5..) {
        assert_eq!(window["start"], place.midnight(day).as_str(), "{window}");
        assert_eq!(window["end"], place.midnight(day + 1).as_str(), "{window}");
        assert_eq!((&window["files"], &window["failed"]), (&json!(4), &json!(0)), "{window}");
        assert_eq!(window["kind"], "packed", "{window}");
    }
}

#[test]
fn a_second_run_does_nothing() {
    let mut place = Place::new();
    place.fill(7..10, 5);
    place.load();
    place.migrate();
    let before = place.objects();
    let again = place.migrate();
    assert_eq!((&again["windows"], &again["files_archived"]), (&json!(0), &json!(0)), "{again}");
    assert_eq!(again["archived_until"], place.cutoff().as_str());
    assert_eq!(place.objects(), before);
}

#[test]
fn an_empty_table_moves_the_watermark_and_nothing_else() {
    let mut place = Place::new();
    let done = place.migrate();
    assert_eq!(done["files_archived"], 0, "{done}");
    assert_eq!(done["archived_until"], place.cutoff().as_str(), "{done}");
    place.verify_deep();
    // What is younger than the lag stays where it is.
    place.file("young", 10);
    place.load();
    assert_eq!(place.migrate()["files_archived"], 0);
    assert!(place.shards().is_empty());
}

#[test]
fn every_codec_and_size_reads_back() {
    for (codec, level) in [("none", 1), ("lz4", 1), ("zstd", 19)] {
        let mut place = Place::new();
        place
            .set("packer.compression", json!({ "codec": codec, "level": level }))
            .set("packer.max_shard_size", 2_000)
            .set("packer.n_bits", 5)
            .set("coordinator.partition_rows", 7)
            .set("coordinator.window_span", "12h");
        let made = place.fill(8..10, 20);
        place.load();
        let done = place.migrate();
        assert_eq!(done["files_archived"], 40, "{codec}: {done}");
        place.verify_deep();
        assert_eq!(place.listed().len(), 40, "{codec}");
        for file in made.iter().step_by(9) {
            place.assert_archived(file);
        }
    }
}

#[test]
fn get_writes_into_a_file_and_knows_what_it_does_not_know() {
    let mut place = Place::new();
    let made = place.fill(9..10, 2);
    place.load();
    place.migrate();
    let (file, to) = (&made[0], place.path("out"));
    let words = format!("get {} --created-at {} --to {}", file.uid, file.created_at, to.display());
    let told = place.json(&words);
    assert_eq!((&told["archived"], &told["bytes"]), (&json!(true), &json!(300)), "{told}");
    assert_eq!(std::fs::read(&to).expect("written"), file.bytes);

    let day = &file.created_at[..10];
    place.get("nobody", day).expect(4).says(["is not in the archive"]);
    // The right uid at another time is told, since that is the usual mistake.
    let near = format!("{day}T23:59:59Z");
    let shown = file.created_at.replace(".000000Z", "Z");
    place.get(&file.uid, &near).expect(4).says([shown.as_str()]);
    place.get(&file.uid, "yesterday").expect(2).says(["`yesterday` is not a date"]);
    let words = format!("get nobody --created-at {day} --output json");
    let told = place.des(&words).expect(4).json();
    assert_eq!((&told["archived"], &told["reason"]), (&json!(false), &Value::Null), "{told}");
}

#[test]
fn the_demo_proves_itself() {
    let place = Place::without_catalog();
    let limit = std::time::Duration::from_secs(90);
    let demo = |arguments: &[&str]| {
        let mut command = place.command();
        command.env("TMPDIR", place.path("files"));
        Running::start(command, [&["demo"], arguments].concat()).end(limit)
    };
    let done = demo(&["--files", "500", "--workers", "2", "--output", "json"]).expect(0).json();
    for key in ["windows", "shards", "bytes_raw", "bytes_stored", "archived_until", "seconds"] {
        assert!(done.get(key).is_some_and(|it| !it.is_null()), "{key} is missing: {done}");
    }
    assert_eq!((&done["files"], &done["files_archived"]), (&json!(500), &json!(500)), "{done}");
    assert_eq!((&done["mismatches"], &done["files_failed"]), (&json!(0), &json!(0)), "{done}");
    assert_eq!(done["rows_updated_in_source"], 0, "{done}");
    let left = std::fs::read_dir(place.path("files")).expect("a directory").count();
    assert_eq!(left, 0, "the demo cleans up after itself");

    let full = place.path("full");
    std::fs::create_dir(&full).expect("made");
    std::fs::write(full.join("precious"), b"x").expect("written");
    let full = full.display().to_string();
    demo(&["--files", "5", "--dir", &full]).expect(2).says(["is not empty", &full]);
    assert_eq!(std::fs::read_dir(&full).expect("a directory").count(), 1);

    let kept = place.path("kept").display().to_string();
    let human = demo(&["--files", "20", "--dir", &kept, "--keep"]).expect(0);
    assert!(human.text().contains("Every byte is right."), "{human}");
    let config = format!("{kept}/des.yaml");
    let verify = ["verify", "--deep", "--output", "json", "--config", &config];
    let found = Running::start(place.command(), verify).end(limit).expect(0).json();
    assert_eq!(found["files"], 20, "{found}");
}
