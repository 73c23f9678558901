//! `des sync-archived` on PostgreSQL: what S3's certificates prove is marked in the table.

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::setup::Fleet;

const MARKED: &str = "SELECT count(*) FROM archive.\"Files\" WHERE archived";

fn marked(fleet: &Fleet) -> u64 {
    fleet.value(MARKED).parse().expect("a number")
}

/// A fleet whose files are archived, whose processes have ended, and whose table has a column for it.
fn archived(files: usize) -> Fleet {
    let fleet = Fleet::new(files);
    fleet.execute("ALTER TABLE archive.\"Files\" ADD COLUMN archived boolean");
    let coordinator = fleet.start("coordinator");
    let worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    for it in [coordinator, worker] {
        it.signal(Signal::TERM);
        it.end(LIMIT).expect(0);
    }
    fleet
}

#[test]
fn the_tables_own_column_is_brought_up_to_the_watermark() {
    let mut fleet = archived(400);
    let late = fleet.add_late_file(5);
    fleet.configure("sync_archived", "url", json!(fleet.database_url()));
    fleet.configure("sync_archived", "column", json!("archived"));
    fleet.configure("sync_archived", "batch_rows", json!(10));
    fleet.configure("sync_archived", "max_rows_per_second", json!(20));
    let objects = fleet.objects();
    let counted =
        fleet.des_with("sync_archived.max_rows_per_second", "100000", "sync-archived --dry-run");
    let human = counted.expect(0).text();
    assert!(human.contains("rows that would be set") && human.contains("380"), "{human}");
    assert_eq!(fleet.value(MARKED), "0", "a dry run changes nothing");

    let mut running = fleet.begin("sync-archived --reason drill");
    running.run_until(LIMIT, || marked(&fleet) >= 60);
    running.signal(Signal::KILL);
    running.end(LIMIT);
    let before = marked(&fleet);
    assert!(before < 380, "it was killed midway: {before}");
    fleet.configure("sync_archived", "max_rows_per_second", json!(100_000));
    let done = fleet.json("sync-archived");
    assert!(
        marked(&fleet) == 380 && before + done["marked"].as_u64().expect("rows") >= 380,
        "{done}"
    );
    assert!(done["rows"].as_u64().expect("rows") < 380, "what was done is not looked for: {done}");
    let wrong = "SELECT count(*) FROM archive.\"Files\" f WHERE archived IS DISTINCT FROM \
                 (CASE WHEN uid = 'late' OR EXISTS (SELECT FROM des_migration_errors e \
                 WHERE e.uid = f.uid AND e.created_at = f.\"created at\") THEN NULL ELSE true END)";
    assert_eq!(fleet.value(wrong), "0", "neither the late row nor the 20 that failed");
    let done = fleet.json("reconcile --all --workers 1");
    assert_eq!(done["found"]["late_rows"], 1, "{done}");
    assert_eq!(fleet.json("sync-archived")["marked"], 1, "now it is proven");
    let all = "SELECT archived FROM archive.\"Files\" WHERE uid = 'late'";
    assert_eq!(fleet.value(all), "true", "{}", late.path.display());
    assert!(fleet.objects().len() > objects.len(), "the revision's");
    let log = "SELECT count(*) FROM des_audit_log WHERE action = 'sync-archived'";
    assert_eq!(fleet.value(log), "5", "begun, killed; begun and ended, twice");
}

#[test]
fn a_schedule_waits_for_the_source_database() {
    let mut fleet = archived(200);
    fleet.configure("sync_archived", "url", json!(fleet.database_url()));
    fleet.configure("sync_archived", "column", json!("archived"));
    fleet.configure("sync_archived", "every", json!("1s"));
    fleet.configure("throttle", "query", json!("SELECT jobs FROM archive.busy"));
    fleet.configure("throttle", "check_every", json!("1s"));
    let mut coordinator = fleet.start("coordinator");
    let waits = |for_what: &str| format!("marking archived files waits: {for_what}");
    let told = "what has to be asked first cannot be, which counts as wait:";
    coordinator.told(&waits(told), LIMIT);
    fleet.execute("CREATE TABLE archive.busy AS SELECT 5 AS jobs");
    let told = waits("the throttle query on the source database answers ");
    assert_eq!(coordinator.told(&told, LIMIT), "5,");
    assert_eq!(fleet.value(MARKED), "0");
    fleet.execute("UPDATE archive.busy SET jobs = 0");
    let all = "SELECT count(*) FROM archive.\"Files\" f WHERE NOT EXISTS (SELECT FROM \
               des_migration_errors e WHERE e.uid = f.uid AND e.created_at = f.\"created at\")";
    let all: u64 = fleet.value(all).parse().expect("a number");
    coordinator.run_until(LIMIT, || marked(&fleet) == all);
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0);
}
