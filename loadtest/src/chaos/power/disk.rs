//! A disk whose power can fail: an ext4 file system in a sparse image. Aborting it is the instant
//! at which the power fails: what was not synced by then never reaches the image, and after the
//! next mount, which replays the journal, it is gone.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

/// The image is sparse: it takes what is written to it.
const IMAGE_BYTES: u64 = 512 * 1024 * 1024;
/// A process that was killed lets go of its files within this time.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
const BUSY_LOOK_EVERY: Duration = Duration::from_millis(5);
/// What is written to make the journal commit; no archive has such a name.
const JOURNAL_FILE: &str = "journal-commit";

/// An image, mounted. Dropping it unmounts it and gives its loop device back.
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
    /// For mount(8), beside `loop`.
    options: &'static str,
    is_mounted: bool,
}

impl Disk {
    /// Makes an image in `dir` and mounts it.
    pub(crate) fn make(dir: &Path, options: &'static str) -> anyhow::Result<Self> {
        let (image, at) = (dir.join("image"), dir.join("disk"));
        File::create(&image)
            .and_then(|file| file.set_len(IMAGE_BYTES))
            .with_context(|| format!("cannot make {}", image.display()))?;
        std::fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mut disk = Self { image, at, options, is_mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let comma = if self.options.is_empty() { "" } else { "," };
        let options = format!("loop{comma}{}", self.options);
        run(Command::new("mount").args(["-o", &options]).arg(&self.image).arg(&self.at))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Makes the file system commit its journal, as it does by itself every few seconds: names and
    /// sizes become durable, and other files' bytes do not.
    pub(crate) fn commit_journal(&self) -> std::io::Result<()> {
        let path = self.at.join(JOURNAL_FILE);
        std::fs::write(&path, std::process::id().to_string())?;
        File::open(&path)?.sync_all()
    }

    /// The power fails, at this instant.
    pub(crate) fn cut(&self) -> anyhow::Result<()> {
        mount_remount(self.at.as_path(), MountFlags::empty(), "abort")
            .with_context(|| format!("the file system at {} cannot be aborted", self.at.display()))
    }

    /// The power is back. Nobody may have a file open there any more.
    pub(crate) fn power_on(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        let longest = Instant::now() + BUSY_LIMIT;
        loop {
            match unmount(self.at.as_path(), UnmountFlags::empty()) {
                Ok(()) => break,
                Err(Errno::BUSY) if Instant::now() < longest => std::thread::sleep(BUSY_LOOK_EVERY),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} cannot be unmounted", self.at.display()));
                }
            }
        }
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted && self.unmount().is_err() {
            // Out of sight at once, and gone with its last user.
            let _nothing_else_helps = unmount(self.at.as_path(), UnmountFlags::DETACH);
        }
    }
}

/// Whether such a disk can be had here, and really drops what was not synced, and only that.
///
/// # Errors
/// What is missing.
pub(crate) fn prove(dir: &Path) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root may mount a file system");
    run(Command::new("setpriv").arg("--version"))?;
    let mut disk = Disk::make(dir, "")?;
    let (synced, unsynced) = (disk.path().join("synced"), disk.path().join("unsynced"));
    std::fs::write(&synced, [7; 10_000])?;
    File::open(&synced)?.sync_all()?;
    let staged = disk.path().join("staged");
    std::fs::write(&staged, [7; 10_000])?;
    std::fs::rename(&staged, &unsynced)?;
    disk.cut()?;
    disk.power_on()?;
    let kept = std::fs::read(&synced).context("a file that was synced is gone")?;
    ensure!(kept == [7; 10_000], "a file that was synced has other bytes");
    ensure!(!unsynced.exists(), "a file that was never synced outlives the cut");
    Ok(())
}

/// Runs a program of the machine's to a good end.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}: is it installed?"))?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
