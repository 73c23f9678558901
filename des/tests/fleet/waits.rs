//! What fails beside the leader's loop is waited out there: a catalog that is away keeps no open
//! window, and a store that refuses for a while loses nothing.

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::buckets::{Fault, Requests, Trouble};
use crate::lines::Line;
use crate::setup::Fleet;
use crate::told::explained;

const REFUSED: Fault = Fault::Refused(403, "AccessDenied");

#[test]
fn open_windows_commit_while_the_catalog_is_away() {
    const IN_FLIGHT: i64 = 4;
    let mut fleet = Fleet::new(400);
    let direct = fleet.database_url();
    let (before, rest) = direct.split_once('@').expect("a URL with a user");
    let (host, database) = rest.split_once('/').expect("a URL with a database");
    let (line, address) = Line::to(host.parse().expect("an address"));
    let by_line = format!("{before}@{address}/{database}");
    fleet.configure("watermark", "config_db_url", json!(direct));
    fleet.configure("database", "url", json!(by_line));
    fleet.configure("coordinator", "windows_in_flight", json!(IN_FLIGHT));
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(open) == Some(IN_FLIGHT.to_string()));
    let epoch = fleet.epoch();

    line.cut();
    let _worker = fleet.start("worker");
    let committed = "SELECT count(*) FROM des_windows WHERE state = 'committed'";
    coordinator.run_until(LIMIT, || fleet.value(committed) == IN_FLIGHT.to_string());
    let watermark = fleet.watermark();
    let address = address.to_string();
    explained(&fleet, &mut coordinator, &["cannot pass the window that ends at", &address]);
    assert_eq!((fleet.watermark(), fleet.epoch()), (watermark, epoch));

    line.mend();
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    let told = fleet.des("explain").expect(0).text();
    assert!(told.starts_with("Nothing is due"), "{told}");
    fleet.assert_everything_is_there();
    fleet.assert_committed_once();
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["trying again", &address]);
}

#[test]
fn a_pass_that_may_not_read_its_certificate_for_a_while_is_not_dropped() {
    let (bucket, trouble) = Trouble::with(Requests::READS_OF_CERTIFICATES);
    let mut fleet = Fleet::over(bucket, 200);
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let late = fleet.add_late_file(3);
    let epoch = fleet.epoch();
    trouble.begin(REFUSED);
    std::thread::scope(|scope| {
        let words =
            format!("reconcile --from {} --to {}", fleet.window_end(2), fleet.window_end(3));
        let fleet = &fleet;
        let reconciled = scope.spawn(move || fleet.des(&words));
        let told = ["was asked for and waits", "_des/certificates/", "403"];
        explained(fleet, &mut coordinator, &told);
        // What has nothing to do with it goes on.
        assert_eq!(fleet.epoch(), epoch);
        trouble.end();
        reconciled.join().expect("it ran").expect(0);
    });
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    fleet.assert_archived(&late);
    let told = fleet.des("explain").expect(0).text();
    assert!(told.starts_with("Nothing is due"), "{told}");
}

#[test]
fn manifests_and_receipts_that_may_not_be_read_for_a_while_cost_no_attempts() {
    let (bucket, trouble) = Trouble::with(Requests::READS_OF_MANIFESTS_AND_RECEIPTS);
    let mut fleet = Fleet::over(bucket, 400);
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("coordinator", "max_attempts", json!(2));
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) > 1 FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(open).as_deref() == Some("true"));
    let epoch = fleet.epoch();
    let worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() > 3);
    trouble.begin(REFUSED);
    let setbacks = "SELECT coalesce(max(setbacks), 0) > 3 FROM des_partitions";
    coordinator.run_until(LIMIT, || fleet.value(setbacks) == "true");
    let told = fleet.des("explain").expect(0).text();
    assert!(told.contains("403"), "{told}");
    trouble.end();
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.value("SELECT sum(attempts) FROM des_partitions"), "0", "files' fault?");
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    worker.signal(Signal::TERM);
    worker.end(LIMIT).expect(0);
    coordinator.signal(Signal::TERM);
    let run = coordinator.end(LIMIT).expect(0);
    for text in ["planned anew", "split into two"] {
        assert!(!run.stderr.contains(text), "{run}");
    }
}
