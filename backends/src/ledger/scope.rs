//! What an operator's word is about: one job, or all jobs of a ledger.

use protocol::Job;

/// The key of what is said of all jobs. No job can have this name.
pub(super) const ALL_JOBS: &str = "*";

/// What a pause or a throttle is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The ledger's own job.
    #[default]
    Job,
    /// Every job whose ledger is in this database.
    AllJobs,
}

impl Scope {
    /// The key of its rows.
    pub(super) fn key(self, job: &Job) -> &str {
        match self {
            Self::Job => job.as_str(),
            Self::AllJobs => ALL_JOBS,
        }
    }

    /// What a row with this key is for.
    pub(super) fn of(key: &str) -> Self {
        if key == ALL_JOBS { Self::AllJobs } else { Self::Job }
    }

    /// For a person: `job x is`, or `all jobs are`.
    pub(super) fn are(self, job: &Job) -> String {
        match self {
            Self::Job => format!("job `{job}` is"),
            Self::AllJobs => "all jobs are".to_owned(),
        }
    }
}
