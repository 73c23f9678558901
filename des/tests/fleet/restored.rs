//! A ledger that is restored to an older point under a fleet that runs.

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::setup::Fleet;

/// What a backup of the ledger holds. The audit log can only be added to.
const TABLES: [&str; 6] = [
    "des_archive_config",
    "des_archives",
    "des_lease",
    "des_windows",
    "des_partitions",
    "des_migration_errors",
];

fn all(statements: impl Fn(&str) -> String) -> String {
    let statements: Vec<_> = TABLES.iter().map(|table| statements(table)).collect();
    format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}; COMMIT", statements.join("; "))
}

/// One leader, and so one epoch, before the backup and after it: the leader itself must notice, and
/// so must whoever leads next.
#[test]
fn a_ledger_that_goes_back_under_its_leader_is_led_with_by_nobody() {
    let mut fleet = Fleet::new(1_000);
    let now = fleet.window_end(10);
    fleet.configure("database", "lag_days", json!(11));
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let (epoch, older) = (fleet.epoch(), fleet.watermark());
    fleet.execute(&all(|table| format!("CREATE TABLE backup_of_{table} AS TABLE {table}")));
    fleet.execute("UPDATE des_archive_config SET lag_days = 7");
    coordinator.run_until(LIMIT, || fleet.watermark() > older);
    fleet.wait_until_archived(LIMIT);
    let (certificates, before) = (fleet.contents(".json"), fleet.objects());
    assert_eq!(fleet.epoch(), epoch, "one leader did all of it");

    fleet.execute(&all(|table| {
        format!("DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM backup_of_{table}")
    }));
    fleet.execute("UPDATE des_archive_config SET lag_days = 7");
    coordinator.run_until(LIMIT, || {
        fleet.des("explain").text().contains("of which the ledger knows nothing")
    });
    // Whoever leads looks first, and gives the lease back.
    coordinator.run_until(LIMIT, || fleet.epoch() > epoch + 1);
    assert_eq!(fleet.watermark(), older, "nothing was settled again");
    assert_eq!(fleet.objects(), before);
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["des rebuild-ledger"]);

    fleet.json("rebuild-ledger --reason restored");
    fleet.execute("UPDATE des_archive_config SET lag_days = 7");
    let _coordinator = fleet.start("coordinator");
    fleet.wait_until_archived(LIMIT);
    assert!(fleet.json("stats")["archived_until"].as_str() >= Some(now.as_str()));
    assert_eq!(fleet.contents(".json"), certificates, "no certificate was written again");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
}

/// It ends over its last step, when every window is recorded and the watermark is not.
#[test]
fn a_rebuilding_that_is_killed_midway_is_begun_again() {
    let mut fleet = Fleet::new(300);
    let (coordinator, worker) = (fleet.start("coordinator"), fleet.start("worker"));
    fleet.wait_until_archived(LIMIT);
    for process in [worker, coordinator] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
    let (windows, watermark) = (fleet.value("SELECT count(*) FROM des_windows"), fleet.watermark());
    fleet.execute(&all(|table| format!("DELETE FROM {table}")));
    fleet.execute("DELETE FROM des_looks; DELETE FROM des_passes");

    let held = fleet.hold("LOCK TABLE des_archives IN EXCLUSIVE MODE");
    let waits = "SELECT count(*) FROM pg_locks \
                 WHERE NOT granted AND relation = 'des_archives'::regclass";
    let mut killed = fleet.begin("rebuild-ledger --reason first");
    killed.run_until(LIMIT, || {
        fleet.value("SELECT count(*) FROM des_windows") == windows && fleet.value(waits) != "0"
    });
    killed.signal(Signal::KILL);
    assert_eq!(killed.end(LIMIT).signal, Some(9));
    fleet.commit(held);

    // What is half there is led with by nobody.
    let told = fleet.des("explain").expect(0).text();
    assert!(told.contains("Nothing can move") && told.contains("des rebuild-ledger"), "{told}");
    assert_eq!(fleet.value("SELECT count(*) FROM des_archive_config"), "0");
    let again = fleet.json("rebuild-ledger --reason again");
    assert_eq!((&again["changed"], &again["windows_recorded"]), (&json!(true), &json!(0)));
    assert_eq!(again["windows_known"].to_string(), windows, "{again}");
    assert_eq!(fleet.watermark(), watermark);
    let log = "SELECT string_agg(reason, ' ') FROM des_audit_log WHERE action = 'rebuild-ledger'";
    assert_eq!(fleet.value(log), "again", "what was not done is not in the log");

    fleet.assert_everything_is_there();

    let late = fleet.add_late_file(4);
    let (_coordinator, _worker) = (fleet.start("coordinator"), fleet.start("worker"));
    assert_eq!(fleet.json("reconcile --all")["different"].as_array().map(Vec::len), Some(1));
    fleet.assert_archived(&late);
    fleet.assert_tables_say_so();
}
