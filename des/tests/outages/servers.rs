//! The servers that `./test` starts, and how they fail. Whatever becomes of a test, they are well
//! again when it is over.

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program of `./test`'s; whether it came to a good end.
#[track_caller]
fn run(variable: &str, words: &[&str]) -> bool {
    let program =
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run ./test"));
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap_or_else(|error| panic!("{variable}: {error}")).success()
}

/// The PostgreSQL server. To be declared after the fleets that use it: it runs again before they
/// are dropped.
pub(crate) struct DatabaseServer(());

impl DatabaseServer {
    #[track_caller]
    pub(crate) fn new() -> Self {
        assert!(run("DES_TEST_PG_CTL", &["status"]), "it does not run");
        Self(())
    }

    #[track_caller]
    pub(crate) fn stop(&self, mode: &str) {
        assert!(run("DES_TEST_PG_CTL", &["-m", mode, "stop"]), "it does not stop");
    }

    #[track_caller]
    pub(crate) fn start(&self) {
        assert!(run("DES_TEST_PG_CTL", &["start"]), "it does not start");
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if !run("DES_TEST_PG_CTL", &["status"]) {
            self.start();
        }
    }
}

/// An alarm of the broker's.
pub(crate) struct Alarm {
    /// What the broker says of it to those whom it blocks.
    pub(crate) told: &'static str,
    raise: [&'static str; 2],
    end: [&'static str; 2],
}

impl Alarm {
    pub(crate) const MEMORY: Self = Self {
        told: "low on memory",
        raise: ["set_vm_memory_high_watermark", "0.0000001"],
        end: ["set_vm_memory_high_watermark", "0.4"],
    };
    /// More bytes are to be free than any disk has; then the default.
    pub(crate) const DISK: Self = Self {
        told: "low on disk",
        raise: ["set_disk_free_limit", "1000000000000000000"],
        end: ["set_disk_free_limit", "50000000"],
    };

    #[track_caller]
    pub(crate) fn raise(&self) -> Raised<'_> {
        let raised = Raised(self);
        assert!(run("DES_TEST_RABBITMQCTL", &self.raise), "{:?}", self.raise);
        raised
    }
}

/// Ends the alarm when it is dropped.
pub(crate) struct Raised<'a>(&'a Alarm);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        assert!(run("DES_TEST_RABBITMQCTL", &self.0.end), "{:?}", self.0.end);
    }
}
