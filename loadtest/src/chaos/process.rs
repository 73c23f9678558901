//! Real `des` processes, started again whenever they end, as a service manager would.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::kind::Role;

/// The wait before a process that ended is started again.
const START_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// After this long a process that was asked to end is killed.
const END_LIMIT: Duration = Duration::from_secs(90);

/// How to start a process.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Where its logs go.
    pub(crate) log: PathBuf,
}

/// One process of the fleet, by its place: the process itself comes and goes.
pub(crate) struct Process {
    pub(crate) role: Role,
    /// Among all processes of the fleet, coordinators first.
    pub(crate) place: usize,
    /// Whoever harms it has to have this.
    pub(crate) turn: tokio::sync::Mutex<()>,
    recipe: Recipe,
    inner: Mutex<Inner>,
    aborted: AtomicU64,
    stopping: AtomicBool,
    started: Notify,
}

#[derive(Default)]
struct Inner {
    pid: Option<Pid>,
    /// For the next start only.
    armed: Option<String>,
    last: Option<ExitStatus>,
}

impl Process {
    /// Starts it, and again whenever it ends, until [`Process::stop`].
    pub(crate) fn start(
        (role, place): (Role, usize),
        recipe: Recipe,
    ) -> (Arc<Self>, JoinHandle<anyhow::Result<()>>) {
        let it = Arc::new(Self {
            role,
            place,
            turn: tokio::sync::Mutex::new(()),
            recipe,
            inner: Mutex::default(),
            aborted: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            started: Notify::new(),
        });
        let keeping = tokio::spawn(Arc::clone(&it).keep());
        (it, keeping)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(self: Arc<Self>) -> anyhow::Result<()> {
        while !self.stopping.load(Ordering::Relaxed) {
            let mut child = self.spawn()?;
            let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            self.inner().pid = pid;
            self.started.notify_waiters();
            let status = child.wait().await?;
            self.ended(status);
            if status.signal() == Some(Signal::ABORT.as_raw()) {
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
            if !self.stopping.load(Ordering::Relaxed) {
                tokio::time::sleep(START_AGAIN_AFTER).await;
            }
        }
        Ok(())
    }

    fn ended(&self, status: ExitStatus) {
        let mut inner = self.inner();
        (inner.pid, inner.last) = (None, Some(status));
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let Recipe { binary, arguments, environment, log } = &self.recipe;
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("DES_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(armed) = self.inner().armed.take() {
            command.env("DES_FAILPOINT", armed);
        }
        command.spawn().with_context(|| format!("cannot start {}", binary.display()))
    }

    /// The id of the process, while there is one.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.inner().pid.map(Pid::as_raw_pid)
    }

    /// Sends a signal; whether there was a process.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let pid = self.inner().pid;
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Kills it; its successor is the one with this crash point.
    pub(crate) async fn replace_by(&self, armed: String) {
        let started = self.started.notified();
        self.inner().armed = Some(armed);
        self.signal(Signal::KILL);
        started.await;
    }

    /// How often it ended by SIGABRT, which is how crash points end it.
    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Whether it stands still: SIGSTOP has reached it, or it has stopped itself.
    pub(crate) fn is_stopped(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    }

    /// How long its log is, in bytes.
    pub(crate) fn log_len(&self) -> u64 {
        std::fs::metadata(&self.recipe.log).map_or(0, |log| log.len())
    }

    /// What it logged beyond `from` bytes.
    pub(crate) fn log_since(&self, from: u64) -> String {
        let bytes = std::fs::read(&self.recipe.log).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// Asks it to end and waits; what was wrong with its end, if anything.
    pub(crate) async fn stop(
        &self,
        mut keeping: JoinHandle<anyhow::Result<()>>,
    ) -> anyhow::Result<Option<String>> {
        self.stopping.store(true, Ordering::Relaxed);
        let mut complaint = None;
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        match tokio::time::timeout(END_LIMIT, &mut keeping).await {
            Ok(ended) => ended??,
            Err(_elapsed) => {
                complaint = Some(format!("it did not end within {END_LIMIT:?} of SIGTERM"));
                self.signal(Signal::KILL);
                keeping.await??;
            }
        }
        let last = self.inner().last;
        if complaint.is_none() && last.is_some_and(|status| status.code() != Some(0)) {
            complaint = last.map(|status| format!("after SIGTERM it ended with {status}"));
        }
        Ok(complaint)
    }
}
