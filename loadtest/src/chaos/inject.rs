//! Carries out faults, and says of each whether it met anything.

mod network;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::message::PartitionAddress;
use rustix::process::Signal;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::broker::{Tap, pid_of};
use super::database::Database;
use super::fleet::{Commands, GC_GRACE};
use super::ground::Ground;
use super::kind::{BrokerHarm, CrashPoint, DatabaseHarm, Kind, Role};
use super::oracle::Finding;
use super::plan::Fault;
use super::process::Process;
use super::takeover::Unseated;
use super::watch::now_micros;

/// How long a process may take to come to a crash point.
const POINT_LIMIT: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a process said before it ended has been heard after so long.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a fault of a worker waits for one that has a task.
const WORK_LIMIT: Duration = Duration::from_secs(6);
/// How long a collection is tried again that fails under another fault.
const COLLECT_LIMIT: Duration = Duration::from_secs(15);
const WORK_LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a round's faults work on.
pub(crate) struct Target {
    pub(crate) ground: Arc<Ground>,
    pub(crate) processes: Vec<Arc<Process>>,
    pub(crate) tap: Tap,
    pub(crate) database: Arc<Database>,
    pub(crate) commands: Commands,
    /// Who leads, as of the oracle's last look.
    pub(crate) leader: Mutex<Option<String>>,
    /// What faults have brought to light by themselves.
    pub(crate) findings: Mutex<Vec<Finding>>,
}

/// What a fault did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Whether it met something at work: a process with a task or the lease, a connection with
    /// traffic, a request, a message.
    pub(crate) effective: bool,
    pub(crate) note: String,
    /// Tasks that a worker was at when it crashed, without having answered them, and how
    /// many answers to each had been seen before.
    pub(crate) left_tasks: Vec<(PartitionAddress, u64)>,
    /// The leader that could not lead on.
    pub(crate) unseated: Option<Unseated>,
}

impl Effect {
    /// Of a fault that could not be carried out.
    pub(crate) fn none(note: String) -> Self {
        Self::of(false, note)
    }

    fn of(effective: bool, note: impl Into<String>) -> Self {
        Self { effective, note: note.into(), left_tasks: Vec::new(), unseated: None }
    }

    fn counted(count: u64, what: &str) -> Self {
        Self::of(count > 0, format!("{count} {what}"))
    }
}

impl Target {
    /// Carries out a fault, to its end.
    pub(crate) async fn inject(&self, fault: &Fault) -> anyhow::Result<Effect> {
        let lasts = fault.lasts;
        Ok(match fault.kind {
            Kind::Kill(role) => self.signal(role, fault.choice, Signal::KILL).await,
            Kind::Terminate(role) => self.signal(role, fault.choice, Signal::TERM).await,
            Kind::Freeze(role) => self.freeze(role, fault).await,
            Kind::Crash(point) => self.crash(point, fault).await,
            Kind::Stall(point) => self.stall(point, fault).await,
            Kind::Duel(point) => self.duel(point, fault).await,
            Kind::Network(whose, link, harm) => {
                self.harm_network((whose, link, harm), fault).await?
            }
            Kind::CutOff(role) => self.cut_off(role, fault).await?,
            Kind::Collect => self.collect(fault).await,
            Kind::Purge(queue) => self.purge(queue).await?,
            Kind::Store(ill) => {
                Effect::counted(self.ground.gate.harm(ill, lasts).await, "requests")
            }
            Kind::Broker(harm) => self.harm_broker(harm, fault).await?,
            Kind::Database(harm) => self.harm_database(harm, lasts).await?,
        })
    }

    /// Who leads, as of the oracle's last look.
    pub(crate) fn leader(&self) -> Option<String> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn leader_is(&self, leader: Option<String>) {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    pub(crate) fn found(&self, finding: Finding) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    pub(crate) fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.findings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn of_role(&self, role: Role) -> Vec<&Arc<Process>> {
        self.processes.iter().filter(|process| process.role == role).collect()
    }

    /// The worker by number; the coordinator that leads, but for every fourth choice.
    fn pick(&self, role: Role, choice: u64) -> Option<&Arc<Process>> {
        let all = self.of_role(role);
        if role == Role::Coordinator
            && !choice.is_multiple_of(4)
            && let Some(leader) = all.iter().find(|process| self.leads(process))
        {
            return Some(leader);
        }
        let at = usize::try_from(choice / 4).unwrap_or_default() % all.len().max(1);
        all.get(at).copied()
    }

    fn leads(&self, process: &Process) -> bool {
        let leader = self.leader().as_deref().and_then(pid_of);
        leader.is_some() && leader == process.pid()
    }

    /// Whether a process is at something that its end would interrupt.
    fn is_at_work(&self, process: &Process) -> bool {
        match process.role {
            Role::Coordinator => self.leads(process),
            Role::Worker => process.pid().is_some_and(|pid| self.tap.has_task(pid)),
        }
    }

    /// What is to be noted when a process is about to be stopped that leads.
    fn about_to_unseat(&self, process: &Process) -> Option<Unseated> {
        let pid = process.pid()?;
        self.leads(process).then(|| Unseated { at: now_micros(), pid })
    }

    /// Waits a little until a worker has a task.
    async fn wait_for_work(&self) {
        let longest = Instant::now() + WORK_LIMIT;
        let works = || self.of_role(Role::Worker).into_iter().any(|it| self.is_at_work(it));
        while !works() && Instant::now() < longest {
            tokio::time::sleep(WORK_LOOK_EVERY).await;
        }
    }

    /// The one to harm, with its turn; waits a little for a worker with a task.
    async fn victim(&self, role: Role, choice: u64) -> Option<(&Arc<Process>, MutexGuard<'_, ()>)> {
        let longest = Instant::now() + WORK_LIMIT;
        while role == Role::Worker && Instant::now() < longest {
            let free = self.of_role(role).into_iter().filter(|it| self.is_at_work(it));
            let free = free.filter_map(|it| Some((it, it.turn.try_lock().ok()?)));
            let mut busy: Vec<_> = free.collect();
            if !busy.is_empty() {
                let at = usize::try_from(choice / 4).unwrap_or_default() % busy.len();
                return Some(busy.swap_remove(at));
            }
            tokio::time::sleep(WORK_LOOK_EVERY).await;
        }
        let process = self.pick(role, choice)?;
        Some((process, process.turn.lock().await))
    }

    async fn signal(&self, role: Role, choice: u64, signal: Signal) -> Effect {
        let Some((process, _turn)) = self.victim(role, choice).await else { return nobody() };
        let (at_work, pid) = (self.is_at_work(process), process.pid());
        let unseated = self.about_to_unseat(process).filter(|_| signal == Signal::KILL);
        let sent = process.signal(signal);
        // The fault is over when its successor runs.
        let deadline = Instant::now() + POINT_LIMIT;
        while (process.pid() == pid || process.pid().is_none()) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if let Some(pid) = pid {
            self.tap.forget(pid);
        }
        let note = if at_work { "at work" } else { "idle" };
        Effect { unseated, ..Effect::of(sent && at_work, note) }
    }

    async fn freeze(&self, role: Role, fault: &Fault) -> Effect {
        let Some((process, _turn)) = self.victim(role, fault.choice).await else { return nobody() };
        let (at_work, unseated) = (self.is_at_work(process), self.about_to_unseat(process));
        let sent = process.signal(Signal::STOP);
        let thaw = Thaw(process);
        tokio::time::sleep(fault.lasts).await;
        drop(thaw);
        let note = if at_work { "at work" } else { "idle" };
        Effect { unseated, ..Effect::of(sent && at_work, note) }
    }

    /// A worker stands still in the middle of a partition while garbage is collected, and goes on as
    /// if nothing had been: what it has written and not told of yet is nobody's garbage.
    async fn collect(&self, fault: &Fault) -> Effect {
        let Some((process, _turn)) = self.victim(Role::Worker, fault.choice).await else {
            return nobody();
        };
        let at_work = self.is_at_work(process);
        process.signal(Signal::STOP);
        let thaw = Thaw(process);
        // What it wrote last is to be older than what gc leaves alone.
        tokio::time::sleep(fault.lasts.max(GC_GRACE * 2)).await;
        let deadline = Instant::now() + COLLECT_LIMIT;
        let mut collected = self.commands.collect("chaos").await;
        while collected.is_err() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
            collected = self.commands.collect("chaos").await;
        }
        drop(thaw);
        match collected {
            Ok(objects) => Effect::of(at_work, format!("{objects} objects removed")),
            Err(error) => Effect::none(format!("{error:#}")),
        }
    }

    /// Puts a process in place that will end or stop at a point. Of coordinators it is one that
    /// stands by; the others stand still until it leads.
    async fn arm(&self, point: CrashPoint, fault: &Fault, action: &str) -> Option<Armed<'_>> {
        let all = self.of_role(point.role);
        let process = match point.role {
            Role::Worker => self.pick(Role::Worker, fault.choice)?,
            Role::Coordinator => all.iter().find(|process| !self.leads(process)).copied()?,
        };
        let turn = process.turn.lock().await;
        process.replace_by(format!("{}:{}:{action}", point.name, fault.hit)).await;
        let deadline = Instant::now() + POINT_LIMIT;
        let armed = Armed {
            process,
            pid: process.pid(),
            aborted: process.aborted(),
            deadline,
            _turn: turn,
        };
        if point.role == Role::Coordinator {
            let others = all.iter().filter(|other| !Arc::ptr_eq(other, process));
            let held: Vec<Thaw<'_>> = others
                .map(|other| {
                    other.signal(Signal::STOP);
                    Thaw(other)
                })
                .collect();
            while !self.leads(process) && !armed.is_there() && Instant::now() < deadline {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            drop(held);
        }
        Some(armed)
    }

    async fn crash(&self, point: CrashPoint, fault: &Fault) -> Effect {
        let Some(armed) = self.arm(point, fault, "abort").await else { return nobody() };
        if !armed.comes_to_the_point().await {
            return Effect::of(false, "it never came to the point");
        }
        tokio::time::sleep(LAST_WORDS).await;
        let left = armed.pid.map(|pid| self.tap.forget(pid)).unwrap_or_default();
        let note = format!("at hit {}", fault.hit);
        Effect { left_tasks: left, ..Effect::of(true, note) }
    }

    async fn stall(&self, point: CrashPoint, fault: &Fault) -> Effect {
        let Some(armed) = self.arm(point, fault, "stop").await else { return nobody() };
        if !armed.comes_to_the_point().await {
            return Effect::of(false, "it never came to the point");
        }
        let thaw = Thaw(armed.process);
        tokio::time::sleep(fault.lasts).await;
        drop(thaw);
        Effect::of(true, format!("for {} ms", fault.lasts.as_millis()))
    }

    /// The leader stops at a point, its lease runs out, the other takes over and stops there too;
    /// then the first goes on as if nothing had been.
    async fn duel(&self, point: CrashPoint, fault: &Fault) -> Effect {
        let [first, second] = self.of_role(Role::Coordinator)[..] else { return nobody() };
        let _turns = (first.turn.lock().await, second.turn.lock().await);
        for process in [first, second] {
            process.replace_by(format!("{}:1:stop", point.name)).await;
        }
        let thaw = (Thaw(first), Thaw(second));
        let deadline = Instant::now() + 2 * POINT_LIMIT;
        let mut earlier = None;
        while !(first.is_stopped() && second.is_stopped()) {
            if earlier.is_none() {
                earlier = [first, second].into_iter().find(|process| process.is_stopped());
            }
            if Instant::now() > deadline {
                // Neither is to stop when nobody waits for it any more.
                for process in [first, second] {
                    process.signal(Signal::KILL);
                }
                return Effect::of(false, "they never both came to the point");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        earlier.unwrap_or(first).signal(Signal::CONT);
        tokio::time::sleep(fault.lasts).await;
        drop(thaw);
        Effect::of(true, "the earlier one went on under the later one's lease")
    }

    async fn harm_broker(&self, harm: BrokerHarm, fault: &Fault) -> anyhow::Result<Effect> {
        let marks: Vec<u64> = self.processes.iter().map(|it| it.log_len()).collect();
        let met = self.tap.harm(harm, fault.lasts, fault.choice).await?;
        Ok(match harm {
            // An alarm meets whoever publishes meanwhile.
            BrokerHarm::MemoryAlarm | BrokerHarm::DiskAlarm => Effect::counted(
                self.told("RabbitMQ blocks publishers", marks),
                "publishers blocked",
            ),
            _ => Effect::counted(met, "met"),
        })
    }

    /// How often the fleet's processes have logged it since.
    fn told(&self, said: &str, marks: Vec<u64>) -> u64 {
        let processes = self.processes.iter().zip(marks);
        let told = processes.map(|(process, mark)| process.log_since(mark).matches(said).count());
        told.sum::<usize>() as u64
    }

    async fn harm_database(&self, harm: DatabaseHarm, lasts: Duration) -> anyhow::Result<Effect> {
        let said = match harm {
            DatabaseHarm::TerminateBackends | DatabaseHarm::Restart(_) => None,
            DatabaseHarm::ReadOnly => Some("read-only transaction"),
            DatabaseHarm::ConnectionLimit => Some("too many connections"),
        };
        let marks: Vec<u64> = self.processes.iter().map(|it| it.log_len()).collect();
        let ended = self.database.harm(harm, lasts).await?;
        let Some(said) = said else { return Ok(Effect::counted(ended, "sessions")) };
        Ok(Effect::counted(self.told(said, marks), "refusals told"))
    }
}

/// A process that will end or stop at a point.
struct Armed<'a> {
    process: &'a Arc<Process>,
    pid: Option<i32>,
    /// How often it had been ended by a point before.
    aborted: u64,
    deadline: Instant,
    _turn: MutexGuard<'a, ()>,
}

impl Armed<'_> {
    fn is_there(&self) -> bool {
        self.process.aborted() > self.aborted || self.process.is_stopped()
    }

    /// Waits for it; a process that does not come to its point in time is killed, since nobody
    /// would wait for it later.
    async fn comes_to_the_point(&self) -> bool {
        while !self.is_there() {
            if Instant::now() > self.deadline {
                self.process.signal(Signal::KILL);
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }
}

fn nobody() -> Effect {
    Effect::of(false, "nobody was there")
}

/// Lets a process go on, also when the fault is dropped half-way.
struct Thaw<'a>(&'a Process);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}
