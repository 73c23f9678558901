//! A file system that stops answering, as a dead file server's does.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use serde_json::json;

use crate::support::Place;

const LIMIT: Duration = Duration::from_secs(120);

/// A file system in user space whose server never says a word. Every look at it hangs until this
/// is dropped.
struct DeadMount {
    server: Option<File>,
    at: PathBuf,
}

impl DeadMount {
    /// # Errors
    /// Where this machine does not let us mount anything.
    fn new(at: PathBuf) -> Result<Self, Errno> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let server =
            device.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NODEV))?;
        std::fs::create_dir(&at).expect("made");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let data = CString::new(data).expect("no NUL");
        mount("des-test", &at, "fuse", MountFlags::empty(), Some(data.as_c_str()))?;
        Ok(Self { server: Some(server), at })
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        // With its server gone it answers everything with an error, and lets go of whoever waits.
        drop(self.server.take());
        unmount(&self.at, UnmountFlags::DETACH).expect("unmounted");
    }
}

/// Mounts, or says that this machine does not let us.
fn dead_mount(place: &Place) -> Option<DeadMount> {
    match DeadMount::new(place.path("dead")) {
        Ok(dead) => Some(dead),
        Err(refused @ (Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::NODEV)) => {
            // Past the test harness, which shows only what failing tests print.
            let note =
                format!("NOT RUN: nothing can be mounted here ({refused}): no mount is dead\n");
            std::io::Write::write_all(&mut std::io::stderr(), note.as_bytes()).expect("stderr");
            None
        }
        Err(error) => panic!("mounting: {error}"),
    }
}

/// Whoever reads the file gets no further, and is killed: the moment does not matter.
#[test]
fn a_file_over_which_the_process_dies_is_isolated_and_given_up() {
    let mut place = Place::new();
    place.set("coordinator.lease_ttl", "1s").set("coordinator.max_attempts", 2);
    let sound = place.fill(8..9, 7);
    let Some(dead) = dead_mount(&place) else { return };
    let at = place.time(8, chrono::TimeDelta::hours(3));
    place.row(json!(["poison", at, place.path("dead/file"), null]));
    place.load();
    let mut kills = 0;
    let done = loop {
        assert!(kills < 30, "it is never isolated");
        let mut run = place.start("migrate --mode single --output json");
        let of_it = format!("%-{}-%", run.pid());
        let stuck = || {
            let tables = place.sql().tables();
            let rows = match tables.iter().any(|table| table == "des_partitions") {
                true => place.sql().query(&format!(
                    "SELECT partition FROM des_partitions WHERE under_way_by LIKE '{of_it}' \
                     AND receipt IS NULL"
                )),
                false => Vec::new(),
            };
            rows.into_iter().next()
        };
        // What is sound is read within moments; what is still worked on then is not.
        let mut seen = None;
        while run.is_running() {
            let now = stuck();
            if now.is_some() && now == seen {
                break;
            }
            seen = now;
            std::thread::sleep(Duration::from_millis(700));
        }
        if !run.is_running() {
            break run.end(LIMIT).expect(0).json();
        }
        run.signal(Signal::KILL);
        run.end(LIMIT);
        kills += 1;
    };
    drop(dead);
    // 8 rows are halved 3 times: 2 kills of the whole, 2 of each part, 3 of the row.
    assert!(kills >= 2 + 2 + 3, "{kills} kills");
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(7), &json!(1)), "{done}");
    assert_eq!(place.errors(), [("poison".to_owned(), "gave_up".to_owned())]);
    let detail = place.sql().value("SELECT detail FROM des_migration_errors");
    assert!(detail.contains("interrupted 3 times") && detail.contains("ended while"), "{detail}");
    sound.iter().for_each(|file| place.assert_archived(file));
    assert_eq!(place.verify_deep()["files"], 7);
}

#[test]
fn a_read_that_hangs_is_told_and_keeps_no_run_from_ending() {
    let mut place = Place::new();
    place.set("worker.drain_timeout", "4s").set("coordinator.lease_ttl", "1s");
    let sound = place.fill(8..9, 3);
    let Some(dead) = dead_mount(&place) else { return };
    let location = place.path("dead/file");
    let at = place.time(8, chrono::TimeDelta::hours(3));
    place.row(json!(["behind it", at, location, null]));
    place.load();
    let mut run = place.start("migrate --mode single");
    let explain = || place.des("explain").text();
    let told = ["has been reading", "dead/file", "behind it", "since 20", "file system"];
    run.run_until(LIMIT, || {
        let explained = explain();
        let sentence = explained.lines().next().unwrap_or_default();
        told.iter().all(|text| sentence.contains(text))
    });
    run.signal(Signal::TERM);
    let ended = run.end(LIMIT).says(["given back while something of it hangs"]).says(told);
    // It still hangs: nobody has answered. That it ended all the same is the point.
    assert!(dead.server.is_some(), "{ended}");
    assert_eq!(place.watermark(), place.midnight(8), "{ended}");

    drop(dead);
    let done = place.migrate();
    assert_eq!((&done["files_archived"], &done["files_failed"]), (&json!(3), &json!(1)), "{done}");
    let interruptions = "SELECT sum(interruptions) FROM des_partitions";
    assert_eq!(place.sql().value(interruptions), "0", "it was given back");
    sound.iter().for_each(|file| place.assert_archived(file));
}
