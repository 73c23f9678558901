//! Disks without space, really full ones: the archive's, and the one that a worker spools to. It is
//! waited out, with the real reason for whoever asks, and nothing half-written can be seen.

use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::{ContentHash, names};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::json;

use crate::support::{Place, Running, incompressible};

const LIMIT: Duration = Duration::from_secs(120);
const NO_SPACE: &str = "No space left on device";

/// A file system of a few megabytes. Unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// # Errors
    /// Where this machine does not let us mount anything.
    fn mount(at: PathBuf, bytes: u64) -> Result<Self, Errno> {
        std::fs::create_dir(&at).expect("made");
        mount("des-test", &at, "tmpfs", MountFlags::empty(), Some(size(bytes).as_c_str()))?;
        Ok(Self(at))
    }

    fn grow(&self, bytes: u64) {
        mount_remount(&self.0, MountFlags::empty(), size(bytes).as_c_str()).expect("it grows");
    }

    /// A file that takes all the space that there is. What it is cut short by is free again.
    fn fill(&self) -> File {
        let mut ballast = File::create(self.0.join("ballast")).expect("made");
        loop {
            match ballast.write_all(&[7; 4096]) {
                Ok(()) => {}
                Err(full) => {
                    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
                    return ballast;
                }
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).expect("unmounted");
    }
}

fn size(bytes: u64) -> CString {
    CString::new(format!("size={bytes}")).expect("no NUL")
}

/// Mounts, or says that this machine does not let us.
fn small_disk(at: PathBuf, bytes: u64) -> Option<SmallDisk> {
    match SmallDisk::mount(at, bytes) {
        Ok(disk) => Some(disk),
        Err(refused @ (Errno::PERM | Errno::ACCESS | Errno::NODEV)) => {
            // Past the test harness, which shows only what failing tests print.
            let note =
                format!("NOT RUN: nothing can be mounted here ({refused}): no disk is full\n");
            std::io::stderr().write_all(note.as_bytes()).expect("stderr");
            None
        }
        Err(error) => panic!("mounting: {error}"),
    }
}

/// Waits until `des explain` says all of this in its first line.
#[track_caller]
fn explained(place: &Place, run: &mut Running, told: &[&str]) {
    run.run_until(LIMIT, || {
        let explained = place.des("explain").text();
        let sentence = explained.lines().next().unwrap_or_default();
        told.iter().all(|text| sentence.contains(text))
    });
}

/// Every object that bears its hash in its name has those very bytes.
#[track_caller]
fn assert_nothing_is_torn(archive: &Path) {
    let mut left = vec![archive.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let name = path.strip_prefix(archive).expect("below it").display().to_string();
            let Some(hash) = names::content_hash(&name) else { continue };
            // A write that has failed takes its staging file away.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            assert!(ContentHash::of(&bytes) == hash, "{name} is torn");
        }
    }
}

#[test]
fn a_full_archive_is_waited_out_and_shows_nothing_half_written() {
    let mut place = Place::new();
    let Some(disk) = small_disk(place.archive(), 8 << 20) else { return };
    let mut files = place.fill(7..8, 5);
    for number in 0..20 {
        let uid = format!("large-{number}");
        let at = place.time(8, chrono::TimeDelta::minutes(10 + number));
        files.push(place.file_at(&uid, &at, incompressible(&uid, 100_000)));
    }
    files.extend(place.fill(9..10, 3));
    // What the second window finds room for is not to be in the way of the first one.
    place.load().set("coordinator.windows_in_flight", 1);
    place.json("init");

    // Not one byte is left: the first window cannot even be planned.
    let ballast = disk.fill();
    let mut run = place.start("migrate --mode single --output json");
    let first = place.midnight(8);
    explained(&place, &mut run, &[NO_SPACE, "cannot pass the window that ends at", &first]);
    assert!(place.watermark() < first, "{}", place.watermark());
    assert!(place.shards().is_empty());

    // Half a megabyte: the first window finds room, and the second, of two, does not.
    let filled = ballast.metadata().expect("a size").len();
    ballast.set_len(filled - (512 << 10)).expect("cut short");
    explained(&place, &mut run, &[NO_SPACE, "store: ", &place.midnight(9)]);
    assert_eq!(place.watermark(), first, "the watermark stands before it");
    assert_nothing_is_torn(&place.archive());
    place.assert_archived(&files[0]);
    place.get(&files[5].uid, &files[5].created_at).expect(4);
    let verified = place.verify_deep();
    assert_eq!(
        (&verified["files"], &verified["damaged"], &verified["missing"]),
        (&json!(5), &json!(0), &json!(0)),
        "{verified}"
    );

    drop(ballast);
    std::fs::remove_file(place.archive().join("ballast")).expect("removed");
    let run = run.end(LIMIT).expect(0).says([NO_SPACE]);
    let done = run.json();
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(files.len()), &json!(0)),
        "{done}"
    );
    assert_eq!(place.watermark(), place.cutoff());
    assert_eq!(place.sql().value("SELECT sum(attempts) FROM des_partitions"), "0", "files' fault?");
    assert_nothing_is_torn(&place.archive());
    let staged: Vec<_> = place.objects().into_keys().filter(|it| it.contains('#')).collect();
    assert!(staged.is_empty(), "what could not be written is still there: {staged:?}");
    files.iter().for_each(|file| place.assert_archived(file));
    assert_eq!(place.verify_deep()["files"], files.len());
    assert!(place.des("explain").text().starts_with("Nothing is due"));
}

#[test]
fn a_full_spool_is_waited_out_and_told() {
    let mut place = Place::new();
    let spool = place.path("spool");
    let Some(disk) = small_disk(spool.clone(), 256 << 10) else { return };
    // Little memory, and files that it cannot hold.
    place.set("worker.spool_dir", json!(spool)).set("worker.memory", "32MiB");
    let mut files = place.fill(7..8, 5);
    for number in 0..40 {
        let uid = format!("large-{number}");
        let at = place.time(8, chrono::TimeDelta::minutes(10 + number));
        files.push(place.file_at(&uid, &at, incompressible(&uid, 400_000)));
    }
    place.load();
    let mut run = place.start("migrate --mode single --output json");
    let told = [NO_SPACE, "local", "cannot spool", spool.to_str().expect("a path")];
    explained(&place, &mut run, &told);
    assert_eq!(place.watermark(), place.midnight(8));

    disk.grow(64 << 20);
    let done = run.end(LIMIT).expect(0).says(told).json();
    assert_eq!(
        (&done["files_archived"], &done["files_failed"]),
        (&json!(files.len()), &json!(0)),
        "{done}"
    );
    assert_eq!(place.sql().value("SELECT sum(attempts) FROM des_partitions"), "0", "files' fault?");
    assert_eq!(std::fs::read_dir(&spool).expect("a directory").count(), 0, "spools have no names");
    files.iter().for_each(|file| place.assert_archived(file));
    assert_eq!(place.verify_deep()["files"], files.len());
}
