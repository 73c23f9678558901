//! The kinds of faults, and what reports call them. Pure.

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Coordinator,
    Worker,
}

/// What stands behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    Postgres,
    Broker,
    Store,
}

/// Whose connections are harmed. Every process has proxies of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// Those of all processes: it is the server that cannot be reached.
    All,
    /// Those of the coordinator that leads. One that stands by goes on.
    Leader,
    /// Those of one worker that has a task.
    Worker,
}

/// What a proxy does to the connections that go through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// Every piece of bytes comes late.
    Latency,
    /// Few bytes a second.
    Bandwidth,
    /// All connections end; new ones are turned away.
    Cut,
    /// All connections are reset, and new ones work.
    Reset,
    /// Nothing gets to the server, and the client is not told.
    BlackholeUp,
    /// Nothing comes back from the server.
    BlackholeDown,
    /// Nothing gets through either way, and nobody is told.
    Blackhole,
    /// The server's side ends at once, the client's bytes are taken and thrown away for a while.
    SlowClose,
}

/// What the S3 server does to a part of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ill {
    InternalError,
    SlowDown,
    Forbidden,
    /// The object is written, and the connection ends before the answer.
    LostResponse,
    /// The body of an answer ends before its length.
    Truncated,
    /// Nothing can be written any more: 507, and the code that MinIO answers then.
    Full,
    Slow,
    /// No answer at all while the fault lasts.
    Hang,
}

/// What happens to the broker, or to what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BrokerHarm {
    Restart,
    /// The whole node, by SIGKILL; `./test` starts it again.
    Kill,
    CloseConnections,
    DeleteQueue,
    MemoryAlarm,
    DiskAlarm,
    /// Every task and every outcome is delivered three times.
    Repeat,
    /// Messages that nobody can parse, and outcomes that nobody has earned.
    Forge,
}

/// A queue that may be purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Queue {
    Tasks,
    Outcomes,
}

/// What happens to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DatabaseHarm {
    TerminateBackends,
    ReadOnly,
    ConnectionLimit,
    /// The server is stopped in this way, and started again.
    Restart(StopMode),
}

/// How a PostgreSQL server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopMode {
    /// Sessions are ended in order, and everything is written.
    Fast,
    /// At once, as in a crash: the next start replays the log.
    Immediate,
}

/// A fault of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kill(Role),
    /// SIGSTOP, for a coordinator past its lease, and SIGCONT.
    Freeze(Role),
    /// SIGTERM.
    Terminate(Role),
    /// The process aborts at a named point in its code.
    Crash(CrashPoint),
    /// The process stops at a named point in its code, past the lease, and goes on.
    Stall(CrashPoint),
    /// Both coordinators come to a point, one after the other's lease has run out, and the first
    /// goes on.
    Duel(CrashPoint),
    Network(Whose, Link, Harm),
    /// Nothing gets through to any server or back, of one process alone.
    CutOff(Role),
    /// SIGSTOP for a worker that has a task, a whole `des gc`, and SIGCONT.
    Collect,
    /// A queue is emptied when there is something in it.
    Purge(Queue),
    Store(Ill),
    Broker(BrokerHarm),
    Database(DatabaseHarm),
}

/// A named point in the code of one role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CrashPoint {
    pub(crate) role: Role,
    pub(crate) name: &'static str,
}

/// Every crash point that the binary has when it is compiled with them.
pub(crate) const CRASH_POINTS: [CrashPoint; 13] = [
    coordinator("after_manifest"),
    coordinator("after_ledger"),
    coordinator("before_publish"),
    coordinator("after_publish"),
    coordinator("before_accept"),
    coordinator("after_accept"),
    coordinator("before_certificate"),
    coordinator("before_commit"),
    coordinator("after_commit"),
    worker("after_upload"),
    worker("after_receipt"),
    worker("before_ack"),
    worker("after_ack"),
];

const fn coordinator(name: &'static str) -> CrashPoint {
    CrashPoint { role: Role::Coordinator, name }
}

const fn worker(name: &'static str) -> CrashPoint {
    CrashPoint { role: Role::Worker, name }
}

impl Kind {
    /// Whether it keeps a leader from leading on, for longer than its lease.
    pub(crate) const fn unseats_leader(self) -> bool {
        let role = match self {
            Self::Kill(role) | Self::Freeze(role) | Self::CutOff(role) => role,
            _ => return false,
        };
        matches!(role, Role::Coordinator)
    }

    /// The name of the kind, as reports have it.
    pub(crate) fn name(self) -> String {
        let role = |role| match role {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        };
        match self {
            Self::Kill(which) => format!("{} killed", role(which)),
            Self::Freeze(which) => format!("{} frozen", role(which)),
            Self::Terminate(which) => format!("{} terminated", role(which)),
            Self::Crash(point) => format!("crash at {}", point.name),
            Self::Stall(point) => format!("stalled at {}", point.name),
            Self::Duel(point) => format!("stalled both at {}", point.name),
            Self::Network(whose, link, harm) => {
                format!("{}{} {}", whose.name(), link.name(), harm.name())
            }
            Self::CutOff(which) => format!("{} cut off", role(which)),
            Self::Collect => "worker frozen over a gc".to_owned(),
            Self::Purge(queue) => format!("broker queue of {} purged", queue.name()),
            Self::Store(ill) => format!("store {}", ill.name()),
            Self::Broker(harm) => format!("broker {}", harm.name()),
            Self::Database(harm) => format!("database {}", harm.name()),
        }
    }
}

impl Whose {
    const fn name(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Leader => "leader's ",
            Self::Worker => "worker's ",
        }
    }
}

impl Link {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::Broker, Self::Store];

    const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "database link",
            Self::Broker => "broker link",
            Self::Store => "store link",
        }
    }
}

impl Harm {
    const fn name(self) -> &'static str {
        match self {
            Self::Latency => "late",
            Self::Bandwidth => "narrow",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::BlackholeUp => "one-way up",
            Self::BlackholeDown => "one-way down",
            Self::Blackhole => "silent both ways",
            Self::SlowClose => "closed slowly",
        }
    }
}

impl Ill {
    const fn name(self) -> &'static str {
        match self {
            Self::InternalError => "500",
            Self::SlowDown => "503 SlowDown",
            Self::Forbidden => "403",
            Self::LostResponse => "response lost",
            Self::Truncated => "body truncated",
            Self::Slow => "slow",
            Self::Hang => "hanging",
            Self::Full => "507 without space",
        }
    }
}

impl BrokerHarm {
    const fn name(self) -> &'static str {
        match self {
            Self::Restart => "stopped and started",
            Self::Kill => "node killed",
            Self::CloseConnections => "closed all connections",
            Self::DeleteQueue => "queue deleted",
            Self::MemoryAlarm => "memory alarm",
            Self::DiskAlarm => "disk alarm",
            Self::Repeat => "delivers everything again",
            Self::Forge => "forged messages",
        }
    }
}

impl Queue {
    /// As its name ends, after the fleet's prefix.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Outcomes => "outcomes",
        }
    }

    /// Who takes from it.
    pub(crate) const fn consumer(self) -> Role {
        match self {
            Self::Tasks => Role::Worker,
            Self::Outcomes => Role::Coordinator,
        }
    }
}

impl DatabaseHarm {
    const fn name(self) -> &'static str {
        match self {
            Self::TerminateBackends => "backends terminated",
            Self::ReadOnly => "read-only",
            Self::ConnectionLimit => "connection limit",
            Self::Restart(StopMode::Fast) => "stopped (fast) and started",
            Self::Restart(StopMode::Immediate) => "stopped (immediate) and started",
        }
    }
}
