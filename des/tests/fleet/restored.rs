//! A ledger that is restored to an older point under a fleet that runs.

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
    coordinator.signal(rustix::process::Signal::TERM);
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
