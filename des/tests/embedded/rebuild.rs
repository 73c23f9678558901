//! A ledger that is lost, or older than the store, and made again from the store.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Made, Place, RESTORE, Step, steps};

const COMMITTED: &str = "SELECT window_start, window_end, revision, row_count, digest, replaces, \
     files_archived, files_failed, shards, bytes_raw, bytes_stored, certificate FROM des_windows \
     WHERE state = 'committed' ORDER BY window_end, revision";
const ERRORS: &str = "SELECT uid, created_at, file_location, reason, detail, window_end, revision, \
     resolved_at IS NULL FROM des_migration_errors ORDER BY uid, revision";

/// What the ledger knows and the store can prove.
fn known(place: &Place) -> (Vec<Vec<String>>, Vec<Vec<String>>, String, Value) {
    let stats = place.json("stats");
    let origin = stats["origin"].clone();
    (place.sql().query(COMMITTED), place.sql().query(ERRORS), place.watermark(), origin)
}

/// Days 2 to 6 archived, with a late row, a file that failed, and one that failed at first; days 7
/// to 9 not due yet.
fn place() -> (Place, Vec<Made>) {
    let mut place = Place::new();
    place.set("database.lag_days", 10);
    let mut made = place.fill(2..10, 4);
    let (failed, repaired) = (made.remove(9), made.remove(8));
    place.load();
    std::fs::remove_file(&failed.path).expect("removed");
    std::fs::remove_file(&repaired.path).expect("removed");
    assert_eq!(place.migrate()["files_failed"], 2);
    std::fs::write(&repaired.path, &repaired.bytes).expect("written");
    made.push(repaired);
    made.push(place.file("late", 4));
    place.load();
    assert_eq!(place.json(&format!("replay --window {}", place.midnight(5)))["windows"], 1);
    (place, made)
}

fn is_lost(place: &Place) -> bool {
    !place.sql().tables().iter().any(|table| table.contains("des_"))
}

fn lose(place: &Place) {
    for step in steps(RESTORE) {
        if let Step::Sql(sql) = step {
            place.sql().execute(&sql);
        }
    }
    assert!(is_lost(place));
}

#[test]
fn the_drill_is_gone_through() {
    let (mut place, made) = place();
    let (windows, errors, watermark, origin) = known(&place);
    assert_eq!((windows.len(), errors.len(), &watermark), (6, 2, &place.midnight(7)));
    let before = place.objects();
    // The new row's lag is the configuration's, so that there is something to go on with.
    place.set("database.lag_days", 7);
    for step in steps(RESTORE) {
        match step {
            Step::Sql(sql) => place.sql().execute(&sql),
            Step::Yaml(yaml) => panic!("the drill configures nothing: {yaml}"),
            Step::Des(words, code) => {
                let run = place.des(&words).expect(code);
                if code != 0 {
                    assert!(format!("{run}").contains("des rebuild-ledger"), "{run}");
                }
                if words.starts_with("rebuild-ledger --dry-run") {
                    assert!(is_lost(&place), "a dry run makes nothing");
                    assert!(run.text().contains(&watermark), "{run}");
                }
                if words.starts_with("rebuild-ledger --reason") {
                    let now = known(&place);
                    assert_eq!(
                        now,
                        (windows.clone(), errors.clone(), watermark.clone(), origin.clone())
                    );
                    assert_eq!(place.objects(), before, "the store is only read");
                }
            }
        }
    }
    assert_eq!(place.watermark(), place.cutoff(), "it went on");
    let after = place.objects();
    let is_kept = |(name, hash): (&String, &String)| after.get(name) == Some(hash);
    assert!(before.iter().all(is_kept), "nothing that was archived is touched");
    let uids: Vec<_> = place.listed().into_iter().map(|(uid, _, _)| uid).collect();
    assert_eq!(uids.len(), made.len(), "every file once: {uids:?}");
    made.iter().for_each(|file| place.assert_archived(file));
    assert_eq!(place.json("stats")["failed_files"], 1);
    assert_eq!(place.json("gc --dry-run")["receipts"]["objects"], 0);
    // Certificates of later leaders are above those that are there.
    let epochs: BTreeMap<String, u64> = after
        .keys()
        .filter_map(|name| {
            let (key, epoch) = name.strip_suffix(".json")?.split_once("-e")?;
            Some((key.to_owned(), epoch.parse().ok()?))
        })
        .collect();
    let earlier = |key: &String| before.keys().any(|name| name.starts_with(&format!("{key}-e")));
    let highest = epochs.iter().filter(|(key, _)| earlier(key)).map(|(_, epoch)| epoch).max();
    let lowest = epochs.iter().filter(|(key, _)| !earlier(key)).map(|(_, epoch)| epoch).min();
    assert!(highest < lowest, "{epochs:?}");
    // Leaders that certified nothing may have used epochs above the highest certificate's.
    assert!(lowest.copied() > highest.map(|highest| highest + 1_000_000), "{epochs:?}");
    let again = place.json("rebuild-ledger");
    assert_eq!((&again["changed"], &again["windows_recorded"]), (&json!(false), &json!(0)));
    let log = place.json("audit");
    let entries = log["entries"].as_array().expect("entries");
    let rebuilt = entries.last().expect("the first thing that it knows");
    assert_eq!(
        (&rebuilt["action"], &rebuilt["reason"]),
        (&json!("rebuild-ledger"), &json!("drill"))
    );
}

#[test]
fn an_older_ledger_is_completed() {
    an_older_ledger(false, "older than the archive");
}

/// The epochs tell nothing: one leader wrote everything, before the backup and after it.
#[test]
fn an_older_ledger_of_the_same_leader_is_completed() {
    an_older_ledger(true, "of which the ledger knows nothing");
}

fn an_older_ledger(same_leader: bool, told: &str) {
    let mut place = Place::new();
    place.set("watermark", json!({ "config_db_url": ledger_url(&place) }));
    place.set("database.lag_days", 10);
    let made = place.fill(3..10, 4);
    place.load();
    place.migrate();
    let (ledger, backup) = (place.path("ledger.db"), place.path("backup.db"));
    let sql = crate::support::Sql::new(&ledger);
    sql.execute(&format!("VACUUM INTO '{}'", backup.display()));
    sql.execute("UPDATE des_archive_config SET lag_days = 7");
    place.migrate();
    let windows = sql.query(COMMITTED);
    // A backup from before the last three windows is restored.
    std::fs::copy(&backup, &ledger).expect("restored");
    for more in ["ledger.db-wal", "ledger.db-shm"] {
        let _it_may_not_be_there = std::fs::remove_file(place.path(more));
    }
    if same_leader {
        sql.execute("UPDATE des_lease SET epoch = epoch + 1");
    }
    let before = place.objects();
    place.des("migrate").expect(2).says([told, "older than the archive", "des rebuild-ledger"]);
    place.des("gc").expect(2).says(["des rebuild-ledger"]);
    let check = place.des("migrate --check").expect(1).text();
    assert!(check.contains("older than the archive") && check.contains("des rebuild-ledger"));
    let done = place.json("rebuild-ledger --reason restored");
    assert_eq!(
        (&done["windows_known"], &done["windows_recorded"]),
        (&json!(4), &json!(3)),
        "{done}"
    );
    assert_eq!(done["archived_until"], place.cutoff().as_str(), "{done}");
    assert_eq!(sql.query(COMMITTED), windows);
    sql.execute("UPDATE des_archive_config SET lag_days = 7");
    assert_eq!(place.migrate()["windows"], 0);
    assert_eq!(place.objects(), before);
    assert_eq!(place.verify_deep()["files"], made.len());
}

fn ledger_url(place: &Place) -> String {
    format!("sqlite:///{}", place.path("ledger.db").display())
}

#[test]
fn a_ledger_file_that_is_gone_is_made_again() {
    let mut place = Place::new();
    place.set("watermark", json!({ "config_db_url": ledger_url(&place) }));
    place.fill(7..10, 4);
    place.load();
    place.migrate();
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _some_are_not_there = std::fs::remove_file(place.path(name));
    }
    place.des("migrate").expect(2).says(["des rebuild-ledger"]);
    assert_eq!(place.json("rebuild-ledger --dry-run")["changed"], false);
    assert!(!place.path("ledger.db").exists(), "a dry run makes nothing");
    assert_eq!(place.json("rebuild-ledger")["changed"], true);
    assert_eq!(place.migrate()["windows"], 0);
    assert_eq!(place.verify_deep()["files"], 12);
}

#[test]
fn a_gap_stops_the_watermark_and_is_closed() {
    let mut place = Place::new();
    let made = place.fill(5..10, 4);
    place.load();
    place.migrate();
    let end = place.midnight(7).replace(['-', ':'], "");
    let names: Vec<_> = place.objects().into_keys().collect();
    let gone = names.iter().find(|name| name.starts_with(&format!("_des/certificates/{end}")));
    let gone = gone.expect("the certificate of day 6");
    std::fs::remove_file(place.archive().join(gone)).expect("removed");
    // The ledger knows more than the store: that is no older ledger.
    place.des("rebuild-ledger").expect(2).says([gone.as_str(), "does not certify"]);
    lose(&place);
    let planned = place.des("rebuild-ledger --dry-run").expect(0).text();
    let told = format!("between {} and {}", place.midnight(6), place.midnight(7));
    assert!(planned.contains(&told), "{planned}");
    let done = place.json("rebuild-ledger");
    assert_eq!(done["archived_until"], place.midnight(6).as_str(), "{done}");
    assert_eq!(done["windows_after_gap"], 3, "{done}");
    let shards = place.shards();
    assert_eq!(place.migrate()["files_archived"], 4, "the window of the gap");
    assert_eq!(place.shards(), shards, "the same shards, and none twice");
    assert_eq!(place.watermark(), place.cutoff());
    assert_eq!(place.verify_deep()["files"], made.len());
}

#[test]
fn what_cannot_be_rebuilt_is_refused() {
    let mut place = Place::new();
    place.fill(7..10, 4);
    place.load();
    place.des("rebuild-ledger").expect(1).says(["does not exist", "store.url"]);
    place.migrate();
    let certificate = place.objects().into_keys().find(|it| it.ends_with("-e0000000001.json"));
    let certificate = certificate.expect("a certificate");
    let path = place.archive().join(&certificate);
    let bytes = std::fs::read(&path).expect("a certificate");
    lose(&place);
    std::fs::write(&path, b"{}").expect("written");
    let refused = |place: &Place, texts: &[&str]| {
        for words in ["rebuild-ledger", "rebuild-ledger --dry-run"] {
            let before = place.everything();
            place.des(words).expect(2).says(texts);
            assert_eq!(place.everything(), before, "{words}");
        }
    };
    refused(&place, &[&certificate, "nothing was changed"]);
    std::fs::write(&path, bytes).expect("written");
    // A watermark that survived, beyond what is certified: what lies between would be skipped.
    place.sql().execute(&format!(
        "CREATE TABLE des_archive_config (id INTEGER PRIMARY KEY, archived_until TEXT NOT NULL, \
         lag_days INTEGER NOT NULL); INSERT INTO des_archive_config VALUES (1, '{}', 3)",
        place.midnight(12)
    ));
    refused(&place, &[&place.midnight(12), &place.cutoff()]);
    place.sql().execute(&format!(
        "UPDATE des_archive_config SET archived_until = '{}'",
        place.midnight(8)
    ));
    assert_eq!(place.json("rebuild-ledger")["archived_until"], place.cutoff().as_str());
    assert_eq!(place.sql().value("SELECT lag_days FROM des_archive_config"), "3", "it rules");
    place.set("packer.n_bits", 8);
    refused(&place, &["was made with n_bits 4"]);
    place.set("packer.n_bits", 4).set("job", "another");
    refused(&place, &["belongs to job default"]);
}

#[test]
fn a_skip_is_believed_when_something_confirms_it() {
    let skipped = |and_more: bool| {
        let mut place = Place::new();
        place.fill(5..9, 3);
        place.load();
        place.json("init");
        let start = place.watermark();
        // Not where a window would end by itself, whose certificate would supersede this one.
        let to = place.midnight(7).replace("T00", "T06");
        let moved = place.json(&format!("adjust --set-date {to} --allow-skip"));
        let left = 12 - moved["skipped_files"].as_u64().expect("files");
        assert!(left < 12, "{moved}");
        if and_more {
            place.migrate();
        }
        let certificates = place.objects().into_keys();
        let mut skip = certificates.filter(|name| {
            name.starts_with("_des/certificates/")
                && std::fs::read_to_string(place.archive().join(name))
                    .is_ok_and(|text| text.contains("\"skipped\""))
        });
        let name = skip.next().expect("its certificate");
        lose(&place);
        (place, name, start, to, left)
    };
    // It may have been written by a command that died right after.
    let (place, name, start, to, _) = skipped(false);
    let told = place.des("rebuild-ledger --dry-run").expect(0).text();
    for text in [name.as_str(), "NOT BELIEVED", "--accept-skip", &to] {
        assert!(told.contains(text), "`{text}` is not said: {told}");
    }
    let done = place.json("rebuild-ledger");
    assert_eq!(done["archived_until"], start.as_str(), "{done}");
    assert_eq!(done["skips"][0]["verdict"], "unconfirmed", "{done}");
    assert_eq!(place.migrate()["files_archived"], 12, "nothing is lost by not believing it");
    // What came later tells that it never happened, whatever is said.
    lose(&place);
    for words in ["rebuild-ledger --dry-run", "rebuild-ledger --accept-skip --dry-run"] {
        let told = place.des(words).expect(0).text();
        assert!(told.contains("begins inside it") && told.contains(&name), "{told}");
    }
    let done = place.json("rebuild-ledger");
    assert_eq!(done["archived_until"], place.cutoff().as_str(), "{done}");
    // What was archived since lies around it, so that it keeps nothing from being collected.
    let collected = place.json("gc --dry-run");
    assert!(collected["kept_young"]["objects"].as_u64() >= Some(1), "{collected}");
    assert_eq!(place.verify_deep()["files"], 12);

    let (place, name, _, to, left) = skipped(false);
    let told = place.des("rebuild-ledger --accept-skip").expect(0).text();
    assert!(told.contains("BELIEVED AT YOUR WORD") && told.contains(&name), "{told}");
    assert_eq!(place.watermark(), to);
    assert_eq!(place.migrate()["files_archived"], left);

    let (place, ..) = skipped(true);
    let done = place.json("rebuild-ledger");
    assert_eq!(done["skips"][0]["verdict"], "confirmed", "{done}");
    assert_eq!(done["archived_until"], place.cutoff().as_str(), "{done}");
    assert_eq!(place.migrate()["files_archived"], 0);
}
