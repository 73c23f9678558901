//! A user to whom permissions apply.

use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::place::Place;

/// The account without rights that every Unix has.
const NOBODY: u32 = 65_534;

/// The command of a `des` to which permissions apply: for root, to whom they do not, one that runs
/// as `nobody`, in a place that is made over to it. `forbid` takes the permissions away, last.
pub(crate) fn as_nobody(place: &Place, forbid: impl FnOnce()) -> Command {
    let mut command = place.command();
    if rustix::process::geteuid().is_root() {
        // The directory of the build may be one that only root may enter.
        let binary = place.path("des");
        std::fs::copy(env!("CARGO_BIN_EXE_des"), &binary).expect("copied");
        command = Command::new(binary);
        command.uid(NOBODY).gid(NOBODY);
        for name in place.everything().keys().map(String::as_str).chain([""]) {
            chown(place.path(name), Some(NOBODY), Some(NOBODY)).expect("made over");
        }
        // Past the test harness, which shows only what failing tests print.
        let note = format!("permissions do not apply to root: des runs as uid {NOBODY} here\n");
        std::io::stderr().write_all(note.as_bytes()).expect("stderr");
    }
    forbid();
    command
}
