//! Everything an operator does leaves a row in the audit log: who, when, what, from, to, why.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Made, Place};

/// Commands that only look, or archive what is due, which is what the ledger itself records.
const LEAVE_NO_ROW: [&str; 20] = [
    "demo",
    "migrate",
    "coordinator",
    "worker",
    "plan",
    "stats",
    "explain",
    "windows",
    "errors",
    "audit",
    "get",
    "ls",
    "verify",
    "config",
    "ready",
    "workers",
    "top",
    "completions",
    "man",
    "help",
];

/// What `des help` lists.
fn commands(place: &Place) -> BTreeSet<String> {
    let run = crate::support::Running::start(place.command(), ["help"]).end(LIMIT).expect(0);
    let text = run.text();
    let listed = text.split_once("Commands:\n").expect("commands").1;
    let listed = listed.split_once("\n\n").map_or(listed, |(listed, _)| listed);
    let first = |line: &str| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned);
    listed.lines().filter_map(first).filter(|word| !word.is_empty()).collect()
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Runs it with a reason of its own, and finds its row. `how` is the exit code and whether the row
/// says what was before, and what after.
#[track_caller]
fn audited(place: &Place, words: &str, how: (i32, bool, bool)) -> String {
    let (code, from, to) = how;
    let command = words.split(' ').next().expect("a command").to_owned();
    let reason = format!("because-of-{command}");
    place.des(&format!("{words} --reason {reason}")).expect(code);
    let log = place.json("audit --limit 5");
    let entries = log["entries"].as_array().expect("entries");
    let entry = entries.iter().find(|entry| entry["reason"] == reason.as_str());
    let entry = entry.unwrap_or_else(|| panic!("`{words}` left no row: {log:#}"));
    assert_eq!(entry["action"], command.as_str(), "{entry}");
    assert!(entry["actor"].as_str().is_some_and(|actor| actor.contains('@')), "{entry}");
    assert!(entry["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{entry}");
    assert_eq!((entry["from"] != Value::Null, entry["to"] != Value::Null), (from, to), "{entry}");
    command
}

/// A place whose first window will be held: 11 of its 30 files are gone.
fn place() -> (Place, Vec<Made>) {
    let mut place = Place::new();
    let made = place.fill(8..9, 30);
    for file in made.iter().take(11) {
        std::fs::remove_file(&file.path).expect("removed");
    }
    place.fill(9..10, 3);
    place.load().set("coordinator.max_attempts", 1);
    (place, made)
}

#[test]
fn every_command_that_changes_something_leaves_a_row() {
    let (mut place, made) = place();
    let (first, last) = (place.midnight(9), place.midnight(10));
    let mut known: BTreeSet<String> = LEAVE_NO_ROW.map(str::to_owned).into();
    let mut row = |place: &Place, words: &str, how| {
        assert!(known.insert(audited(place, words, how)), "{words}");
    };
    row(&place, "init", (0, false, true));
    row(&place, "pause", (0, false, true));
    row(&place, "resume", (0, true, false));
    row(&place, "throttle --max-files-per-second 9999999", (0, false, true));
    place.des("migrate").expect(1);
    row(&place, &format!("retry --window {first}"), (0, true, true));
    place.des("migrate").expect(1);
    row(&place, &format!("release --window {first}"), (0, true, true));
    place.migrate();

    std::fs::write(&made[0].path, &made[0].bytes).expect("it is back");
    row(&place, &format!("retry-failed --window {first}"), (0, false, true));
    row(&place, &format!("replay --window {last}"), (0, true, true));
    place.file("late", 9);
    place.load();
    row(&place, &format!("reconcile --from {first} --to {last}"), (0, true, true));
    row(&place, "gc", (0, false, true));
    row(&place, "adjust --days-offset -1", (0, true, true));
    place.migrate();
    place.sql().execute("ALTER TABLE files ADD COLUMN archived BOOLEAN");
    let url = format!("sqlite:///{}", place.catalog().display());
    place.set("sync_archived", serde_json::json!({ "url": url, "column": "archived" }));
    row(&place, "sync-archived", (0, false, true));
    let tables = "DROP TABLE des_archive_config; DROP TABLE des_archives; DROP TABLE des_windows; \
                  DROP TABLE des_partitions; DROP TABLE des_lease; DROP TABLE des_audit_log; \
                  DROP TABLE des_looks; DROP TABLE des_passes; DROP TABLE des_pauses; \
                  DROP TABLE des_throttles; DROP TABLE des_synced; \
                  DROP TABLE des_migration_errors; DROP TABLE _des_migrations";
    place.sql().execute(tables);
    row(&place, "rebuild-ledger", (0, false, true));

    let forgotten: Vec<_> = commands(&place).into_iter().filter(|it| !known.contains(it)).collect();
    assert!(forgotten.is_empty(), "do they leave a row? {forgotten:?}");
}
