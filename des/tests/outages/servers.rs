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
#[derive(PartialEq, Eq)]
pub(crate) struct BrokerNode {
    process: Pid,
}

impl BrokerNode {
    /// The one that runs.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self::find().expect("a node runs")
    }

    fn find() -> Option<Self> {
        let (_, told) = ask("DES_TEST_RABBITMQCTL", &["eval", "os:getpid()."]);
        let process = told.trim().trim_matches('"').parse().ok().and_then(Pid::from_raw)?;
        Some(Self { process })
    }

    /// Kills it, and waits until another takes messages.
    #[track_caller]
    pub(crate) fn kill_and_wait_for_another(self, limit: Duration) {
        kill_process(self.process, Signal::KILL).expect("it is there");
        let deadline = Instant::now() + limit;
        let is_up = || run("DES_TEST_RABBITMQCTL", &["await_startup", "--timeout", "60"]);
        while !is_up() || Self::find().is_none_or(|now| now == self) {
            assert!(Instant::now() < deadline, "no other node comes up");
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

/// The broker ends a delivery that a consumer holds for so long without an ack, as far as its channel
/// was opened since. Until this is dropped.
pub(crate) struct ShortPatience(());

impl ShortPatience {
    /// The defaults, but for the timeout, which is what compose/rabbitmq/rabbitmq.conf says.
    const USUAL: [u32; 2] = [3_600_000, 60_000];

    #[track_caller]
    pub(crate) fn of_millis(held: u32) -> Self {
        Self::set([held, 200]);
        Self(())
    }

    /// In milliseconds: how long a delivery may be held, and how often that is looked at.
    #[track_caller]
    fn set([held, look_every]: [u32; 2]) {
        let set = format!(
            "application:set_env(rabbit, consumer_timeout, {held}), \
             application:set_env(rabbit, channel_tick_interval, {look_every})."
        );
        assert!(run("DES_TEST_RABBITMQCTL", &["eval", &set]), "{set}");
    }
}

impl Drop for ShortPatience {
    fn drop(&mut self) {
        Self::set(Self::USUAL);
    }
}
