//! A worker that loses its mount, while another one has it: real mounts, in a mount namespace of the
//! worker's own.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::buckets::{Fault, Requests, Trouble};
use crate::process::Running;
use crate::scrape::Scrape;
use crate::setup::Fleet;
use crate::told::{counted, explained};
use crate::{LIMIT, note};

/// Setbacks of workers without a mount, none of which counts against anything.
const SETBACKS: &str = "des_partition_setbacks_total{class=\"mount\",counted=\"nothing\"}";

/// What a worker is started with, so that what is mounted for it is mounted for nobody else.
const ALONE: [&str; 4] = ["unshare", "--mount", "--propagation", "private"];

/// Whether this machine lets us mount anything; it is said if not.
fn may_mount() -> bool {
    let [unshare, options @ ..] = ALONE;
    let mut command = Command::new(unshare);
    command.args(options).args(["mount", "-t", "tmpfs", "des-test", "/mnt"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let may = status.is_ok_and(|status| status.success());
    if !may {
        note("NOT RUN: nothing can be mounted here: no worker loses its mount");
    }
    may
}

/// Has an empty directory stand where the fleet's sources are, for this process alone.
fn lose_sources(fleet: &Fleet, worker: &Running) {
    let namespace = format!("--mount=/proc/{}/ns/mnt", worker.pid());
    let mut command = Command::new("nsenter");
    command.args([namespace.as_ref(), OsStr::new("mount"), "-t".as_ref(), "tmpfs".as_ref()]);
    command.arg("des-test").arg(fleet.sources());
    assert!(command.status().expect("it runs").success(), "{command:?}");
}

/// Has it see the sources again.
fn find_sources(fleet: &Fleet, worker: &Running) {
    let namespace = format!("--mount=/proc/{}/ns/mnt", worker.pid());
    let mut command = Command::new("nsenter");
    command.args([namespace.as_ref(), OsStr::new("umount")]).arg(fleet.sources());
    assert!(command.status().expect("it runs").success(), "{command:?}");
}

#[test]
fn a_worker_that_gets_its_mount_back_goes_on() {
    if !may_mount() {
        return;
    }
    let fleet = Fleet::new(300);
    fleet.json("init");
    let mut worker = fleet.start_under(&ALONE, "worker");
    // By then it has seen where its roots are.
    worker.told("worker ready worker=", LIMIT);
    lose_sources(&fleet, &worker);
    let mut coordinator = fleet.start("coordinator");
    let told = ["mount: the source root ", "is its file system still mounted?"];
    explained(&fleet, &mut coordinator, &told);
    counted(&mut coordinator, SETBACKS, 2.0);
    find_sources(&fleet, &worker);
    fleet.wait_until_archived(LIMIT);
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    assert_eq!(fleet.value("SELECT sum(attempts) FROM des_partitions"), "0", "files' fault?");
    worker.signal(Signal::TERM);
    worker.end(LIMIT).expect(0).says(["is its file system still mounted?"]);
}

/// The names of the workers that wrote the receipts which certificates name.
fn workers_of_receipts(fleet: &Fleet) -> Vec<String> {
    let receipts = fleet.value("SELECT string_agg(receipt, ' ') FROM des_partitions");
    let worker = |receipt: &str| match &fleet.document(&[receipt])["worker"] {
        Value::String(name) => name.clone(),
        other => panic!("{receipt} names no worker: {other}"),
    };
    receipts.split(' ').map(worker).collect()
}

/// The sources may be gone before the worker takes a task, or when it has found them there and is
/// about to read.
#[test]
fn a_worker_that_loses_its_mount_leaves_the_files_to_others() {
    if !may_mount() {
        return;
    }
    for partition_rows in [5, 1_000] {
        let (bucket, trouble) = Trouble::with(Requests::READS_OF_MANIFESTS);
        let mut fleet = Fleet::over(bucket, 120);
        fleet.configure("coordinator", "partition_rows", json!(partition_rows));
        // All at a time: what came back often waits for up to a minute.
        fleet.configure("coordinator", "windows_in_flight", json!(10));
        fleet.configure("worker", "slots", json!(1));
        let mut unlucky = fleet.start_under(&ALONE, "worker");
        // It has looked at its roots, and reads no file before it has its manifest.
        trouble.begin(Fault::FirstHangs);
        let mut coordinator = fleet.start("coordinator");
        let open = "SELECT count(*) FROM des_windows WHERE state = 'open'";
        coordinator.run_until(LIMIT, || fleet.try_value(open).is_some_and(|it| it != "0"));
        unlucky.run_until(LIMIT, || trouble.met() > 0);
        lose_sources(&fleet, &unlucky);
        trouble.end();

        let told = ["mount: the source root ", "is its file system still mounted?"];
        explained(&fleet, &mut coordinator, &told);
        counted(&mut coordinator, SETBACKS, 2.0);
        let busy = Scrape::of(&mut unlucky);
        assert!(busy.value("des_worker_tasks_total{result=\"mount\"}") >= 2.0);
        assert_eq!(fleet.shards(), 0, "it has nothing to archive");
        let failed = "SELECT count(*) FROM des_migration_errors";
        assert_eq!(fleet.value(failed), "0", "files are not missing because a worker misses them");

        let lucky = fleet.start("worker");
        let name = format!("-{}-", lucky.pid());
        fleet.wait_until_archived(LIMIT);
        assert!(unlucky.is_running(), "it listens all the time");
        fleet.assert_everything_is_there();
        fleet.assert_tables_say_so();
        fleet.assert_committed_once();
        let workers = workers_of_receipts(&fleet);
        assert!(workers.iter().all(|it| it.contains(&name)), "{name}: {workers:?}");
        unlucky.signal(Signal::TERM);
        unlucky.end(LIMIT).expect(0).says(["is its file system still mounted?"]);
    }
}
