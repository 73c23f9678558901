//! `des throttle`: how much may be begun, and when, set while the fleet runs.

use backends::ledger::{LiveLimits, Scope, Throttle};
use coordinator::explain::ThrottledFacts;
use coordinator::throttle::{self, Limits, ThrottleSettings};
use protocol::Timestamp;
use serde::Serialize;

use super::pause::scope;
use crate::cli::ThrottleArgs;
use crate::config::Config;
use crate::output::{Exit, Failure, Output, table};
use crate::wiring;

/// What is in force, and why.
#[derive(Serialize)]
struct ThrottleResult {
    /// What holds for this job, all taken together; as configured here.
    in_force: InForce,
    /// What operators said, of this job and of all jobs.
    said: Vec<Said>,
    /// What whoever leads waits for just now.
    waiting: Option<ThrottledFacts>,
}

#[derive(Serialize)]
struct InForce {
    max_files_per_second: Option<u64>,
    max_bytes_per_second: Option<u64>,
    not_between: Vec<String>,
    queries: Vec<String>,
    max_replication_lag_seconds: Option<f64>,
    max_active_connections: Option<u64>,
    /// For a person.
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Said {
    all_jobs: bool,
    since: Timestamp,
    by: String,
    reason: String,
    /// The limits in words.
    limits: String,
}

impl From<Limits> for InForce {
    fn from(limits: Limits) -> Self {
        let text = limits.to_string();
        Self {
            max_files_per_second: limits.files_per_second,
            max_bytes_per_second: limits.bytes_per_second,
            not_between: limits.not_between.iter().map(ToString::to_string).collect(),
            queries: limits.source.queries,
            max_replication_lag_seconds: limits
                .source
                .max_replication_lag
                .map(|it| it.as_secs_f64()),
            max_active_connections: limits.source.max_active_connections,
            text,
        }
    }
}

impl From<&Throttle> for Said {
    fn from(it: &Throttle) -> Self {
        Self {
            all_jobs: it.scope == Scope::AllJobs,
            since: it.since,
            by: it.actor.clone(),
            reason: it.reason.clone(),
            limits: it.limits.to_string(),
        }
    }
}

impl ThrottleResult {
    fn new(
        configured: &ThrottleSettings,
        said: &[Throttle],
        waiting: Option<ThrottledFacts>,
    ) -> Self {
        let in_force = Limits::in_force(configured, said).into();
        Self { in_force, said: said.iter().map(Said::from).collect(), waiting }
    }

    fn human(&self) -> String {
        let mut text = table(&[("in force", self.in_force.text.clone())]);
        for it in &self.said {
            let whose = if it.all_jobs { "of all jobs" } else { "of this job" };
            let Said { limits, since, by, reason, .. } = it;
            text.push_str(&format!("said {whose}: {limits}, since {since} by {by}: {reason}\n"));
        }
        if let Some(it) = &self.waiting {
            text.push_str(&format!("waiting since {}: {}\n", it.since, it.reason));
        }
        text
    }
}

pub(super) async fn run(args: ThrottleArgs, output: Output) -> Result<Exit, Failure> {
    let config = Config::load(&args.config.config)?;
    let limits = LiveLimits {
        files_per_second: args.max_files_per_second.unwrap_or_default(),
        bytes_per_second: args.max_bytes_per_second.unwrap_or_default(),
        not_between: args.not_between.unwrap_or_default(),
        query: args.query.unwrap_or_default(),
        max_replication_lag: args.max_replication_lag.unwrap_or_default(),
        max_active_connections: args.max_active_connections.unwrap_or_default(),
    };
    let (scope, reason) = (scope(args.all_jobs), args.reason.filter(|it| !it.trim().is_empty()));
    let shows = !args.off && limits.is_empty();
    let ledger = match shows {
        true => wiring::ledger_to_read(&config).await?,
        false => wiring::ledger(&config, false).await?,
    };
    if args.off {
        throttle::end(&*ledger, scope, (wiring::actor(), reason)).await?;
    } else if !shows {
        let reason = reason.ok_or_else(|| {
            Failure::usage("--reason is missing or empty: say why less is to be archived")
        })?;
        throttle::understood(scope, &limits)?;
        if limits.ask_source() {
            throttle::try_asking(&limits, &*wiring::catalog(&config).await?).await?;
        }
        throttle::set(&*ledger, (scope, limits), (wiring::actor(), reason)).await?;
    }
    let waiting = throttle::waited_for(&*ledger).await?;
    let result = ThrottleResult::new(&config.throttle, &ledger.throttles().await?, waiting);
    output.result(&result, |it| {
        let told = match (args.off, shows) {
            (true, _) => "Taken back: whoever leads keeps to what is in force within seconds.\n",
            (false, true) => "",
            (false, false) => {
                "Set: whoever leads, and every successor, keeps to it from within seconds on.\n"
            }
        };
        it.human() + told
    })?;
    Ok(Exit::Done)
}
