//! The servers that `./test` starts, and how they fail. Whatever becomes of a test, they are well
//! again when it is over.

use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// One test at a time.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program of `./test`'s; whether it came to a good end.
#[track_caller]
fn run(variable: &str, words: &[&str]) -> bool {
    ask(variable, words).0
}

/// The same, and what it printed.
#[track_caller]
fn ask(variable: &str, words: &[&str]) -> (bool, String) {
    let program =
        std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run ./test"));
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stderr(Stdio::null());
    let printed = tempfile::tempfile().expect("a file");
    command.stdout(printed.try_clone().expect("a file"));
    // Not a pipe: a server that is started keeps it open.
    let status = command.status().unwrap_or_else(|error| panic!("{variable}: {error}"));
    let mut text = String::new();
    let mut printed = printed;
    printed.rewind().and_then(|()| printed.read_to_string(&mut text)).expect("it is text");
    (status.success(), text)
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

/// The RabbitMQ node. `./test` starts it again, as a service manager would.
pub(crate) struct BrokerNode {
    process: Pid,
}

impl BrokerNode {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let (good, told) = ask("DES_TEST_RABBITMQCTL", &["eval", "os:getpid()."]);
        let process = told.trim().trim_matches('"').parse().ok().and_then(Pid::from_raw);
        assert!(good, "{told}");
        Self { process: process.unwrap_or_else(|| panic!("not a process: {told}")) }
    }

    #[track_caller]
    pub(crate) fn kill(self) {
        kill_process(self.process, Signal::KILL).expect("it is there");
    }

    /// Waits until a node is up, another than the one that was killed.
    #[track_caller]
    pub(crate) fn wait_until_up(limit: Duration) {
        let deadline = Instant::now() + limit;
        while !run("DES_TEST_RABBITMQCTL", &["await_startup", "--timeout", "60"]) {
            assert!(Instant::now() < deadline, "no node comes up");
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
