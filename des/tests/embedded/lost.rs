//! Objects of the archive's own that are lost before, or after, a window commits: manifests and
//! certificates.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::Place;

const LIMIT: Duration = Duration::from_secs(120);

/// The objects whose names begin so.
fn objects(place: &Place, begins: &str) -> Vec<PathBuf> {
    let names = place.objects().into_keys().filter(|name| name.starts_with(begins));
    names.map(|name| place.archive().join(name)).filter(|path| path.is_file()).collect()
}

fn compact(end: &str) -> String {
    end.replace(['-', ':'], "")
}

#[test]
fn a_certified_window_that_cannot_be_verified_is_told_and_keeps_nothing_else() {
    for (of_window, damaged) in [("_des/manifests/", false), ("_des/certificates/", true)] {
        let mut place = Place::new();
        place.fill(5..10, 3);
        place.load();
        place.migrate();
        place.json("adjust --days-offset -3");
        let end = place.midnight(8);
        let lost = objects(&place, &format!("{of_window}{}", compact(&end)));
        let path = lost.first().expect("an object");
        let bytes = std::fs::read(path).expect("an object");
        match damaged {
            true => std::fs::write(path, b"{}").expect("written"),
            false => std::fs::remove_file(path).expect("removed"),
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let way_out = format!("des adjust --set-date {end}");

        let run = place.des("migrate --mode single --output json").expect(1);
        let run = run.says([name.as_str(), way_out.as_str()]);
        assert_eq!(run.json()["held"][0]["end"], end.as_str(), "{run}");
        assert_eq!(place.watermark(), place.midnight(7));
        let held = place.json("stats")["held"][0].clone();
        assert_eq!(held["end"], end.as_str(), "{held}");
        assert!(held["reason"].as_str().expect("a reason").contains(&name), "{held}");
        let explained = place.des("explain").expect(0).text();
        let first = explained.lines().next().expect("a line");
        assert!(first.contains(&name) && first.contains(&way_out), "{explained}");
        for words in ["retry", "release --reason x"] {
            let told = [name.as_str(), "is certified", &way_out];
            place.des(&format!("{words} --window {end}")).expect(2).says(told);
        }
        // Another window is verified all the same.
        let replayed = place.json(&format!("replay --window {}", place.midnight(6)));
        assert_eq!(replayed["found"]["shards_checked"].as_u64().map(|it| it > 0), Some(true));

        if damaged {
            place.json(&format!("adjust --set-date {end}"));
        } else {
            std::fs::write(path, bytes).expect("put back");
        }
        place.migrate();
        assert_eq!(place.watermark(), place.cutoff());
        assert_eq!(place.json("stats")["held"], json!([]));
    }
}

/// A window of four partitions, one of which cannot be done yet: a process was killed over it.
fn open_window() -> Place {
    let mut place = Place::new();
    place.set("coordinator.partition_rows", 2).set("coordinator.max_attempts", 2);
    place.set("coordinator.lease_ttl", "1s");
    place.fill(8..9, 7);
    // Regular, and every read of it is an I/O error.
    let at = place.time(8, chrono::TimeDelta::hours(3));
    place.row(json!(["unreadable", at, "/proc/self/mem", null]));
    place.fill(9..10, 3);
    place.load();
    let mut run = place.start("migrate --mode single");
    let waits = "SELECT count(*) FROM des_partitions WHERE trouble_class = 'source'";
    let accepted = "SELECT count(*) FROM des_partitions WHERE receipt IS NOT NULL";
    let has_tables = || place.sql().tables().iter().any(|table| table == "des_partitions");
    run.run_until(LIMIT, has_tables);
    run.run_until(LIMIT, || place.sql().value(waits) == "1");
    // The others of its window, and those of the next one.
    run.run_until(LIMIT, || place.sql().value(accepted) == "5");
    run.signal(Signal::KILL);
    run.end(LIMIT);
    place
}

fn manifests(place: &Place, which: &str) -> Vec<PathBuf> {
    let end = compact(&place.midnight(9));
    let sql = format!("SELECT manifest FROM des_partitions WHERE {which} ORDER BY partition");
    let names = place.sql().query(&sql).into_iter().map(|row| row[0].clone());
    names.filter(|name| name.contains(&end)).map(|name| place.archive().join(name)).collect()
}

#[test]
fn an_open_window_whose_manifest_is_lost_is_planned_anew() {
    for which in [
        "partition = 0",
        "trouble_class = 'source'",
        "receipt IS NOT NULL AND partition > 0",
        "1 = 1",
    ] {
        let mut place = open_window();
        // The ledger knows what the window was cut with.
        place.set("coordinator.partition_rows", 5);
        let lost = manifests(&place, which);
        assert!(!lost.is_empty(), "{which}");
        for (number, path) in lost.iter().enumerate() {
            match number % 2 {
                0 => std::fs::remove_file(path).expect("removed"),
                _ => std::fs::write(path, b"no manifest").expect("written"),
            }
        }
        let run = place.des("migrate --mode single --output json").expect(0);
        let run = run.says(["planned anew"]);
        assert_eq!(run.json()["files_failed"], 1, "{which}: {run}");
        assert_eq!(place.errors(), [("unreadable".to_owned(), "unreadable".to_owned())]);
        assert_eq!(place.watermark(), place.cutoff());
        assert_eq!(place.verify_deep()["files"], 10, "{which}");
        // The same rows have the same manifests.
        assert!(lost.iter().all(|path| path.is_file()), "{which}");
        place.json(&format!("replay --window {}", place.midnight(9)));
    }
}

#[test]
fn a_plan_made_anew_takes_up_what_the_catalog_has_by_then() {
    let mut place = open_window();
    let lost = manifests(&place, "trouble_class = 'source'");
    std::fs::remove_file(&lost[0]).expect("removed");
    let late = place.file("late", 8);
    place.load();
    place.des("migrate --mode single").expect(0).says(["planned anew"]);
    place.assert_archived(&late);
    assert_eq!(place.verify_deep()["files"], 11);
    assert_eq!(place.listed().len(), 11, "every file once");
    let passes = "SELECT count(*) FROM des_windows WHERE revision > 0";
    assert_eq!(place.sql().value(passes), "0", "one pass took all of them");
}
