//! How long it took until the next coordinator led, after one that led was killed, frozen or cut
//! off. Pure.

use std::time::Duration;

use serde::Serialize;

use super::broker::pid_of;
use super::fleet::LEASE_TTL;
use super::report::FaultRecord;
use super::watch::Lead;

/// What a standby may take beyond the lease. Takeovers of an unharmed system that took longer are
/// listed in the report and are no findings: a machine that is busy otherwise is late as well.
const SLACK: Duration = Duration::from_secs(1);
/// A system is unharmed when every other fault has been over for so long.
pub(crate) const CALM: Duration = Duration::from_secs(2);

/// A leader that was harmed so that it could not lead on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unseated {
    /// Microseconds since 1970.
    pub(crate) at: i64,
    pub(crate) pid: i32,
}

/// A takeover.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Takeover {
    /// What the leader met, and the fault's number.
    pub(crate) kind: String,
    pub(crate) fault: u64,
    pub(crate) seconds: f64,
    /// Whether no other fault was under way, or had been a little before.
    pub(crate) unharmed: bool,
}

/// Takeovers of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Takeovers {
    pub(crate) count: u64,
    pub(crate) median_seconds: Option<f64>,
    pub(crate) max_seconds: Option<f64>,
    /// Of these, those of a system that nothing else ailed.
    pub(crate) unharmed: u64,
    pub(crate) unharmed_median_seconds: Option<f64>,
    pub(crate) unharmed_max_seconds: Option<f64>,
    /// The lease and what a standby may take beyond it.
    pub(crate) limit_seconds: f64,
    /// Takeovers of an unharmed system that took longer than that. Nobody fails for them.
    pub(crate) late: Vec<Takeover>,
}

impl Takeovers {
    pub(crate) fn of(all: &[Takeover]) -> Self {
        let limit_seconds = (LEASE_TTL + SLACK).as_secs_f64();
        let sorted = |only_unharmed: bool| {
            let some = all.iter().filter(|it| it.unharmed || !only_unharmed);
            let mut seconds: Vec<f64> = some.map(|it| it.seconds).collect();
            seconds.sort_by(f64::total_cmp);
            seconds
        };
        let (every, unharmed) = (sorted(false), sorted(true));
        let median = |seconds: &[f64]| seconds.get(seconds.len() / 2).copied();
        let late = all.iter().filter(|it| it.unharmed && it.seconds > limit_seconds);
        Self {
            count: every.len() as u64,
            median_seconds: median(&every),
            max_seconds: every.last().copied(),
            unharmed: unharmed.len() as u64,
            unharmed_median_seconds: median(&unharmed),
            unharmed_max_seconds: unharmed.last().copied(),
            limit_seconds,
            late: late.cloned().collect(),
        }
    }
}

/// The takeovers of a round: of faults whose victim the ledger knows as the leader of that moment,
/// and after which somebody began to lead.
pub(crate) fn takeovers(faults: &[FaultRecord], leads: &[Lead]) -> Vec<Takeover> {
    faults.iter().filter_map(|fault| takeover(fault, faults, leads)).collect()
}

fn takeover(fault: &FaultRecord, faults: &[FaultRecord], leads: &[Lead]) -> Option<Takeover> {
    let Unseated { at, pid } = fault.unseated?;
    let led = leads.iter().filter(|lead| lead.at <= at).max_by_key(|lead| lead.at)?;
    if pid_of(&led.holder) != Some(pid) {
        return None;
    }
    let next = leads.iter().filter(|lead| lead.at > at).min_by_key(|lead| lead.at)?;
    let calm = i64::try_from(CALM.as_micros()).unwrap_or(i64::MAX);
    let ails = |other: &&FaultRecord| {
        other.number != fault.number && other.began < next.at && other.over + calm > at
    };
    Some(Takeover {
        kind: fault.kind.clone(),
        fault: fault.number,
        seconds: rounded_seconds(at, next.at),
        unharmed: !faults.iter().any(|other| ails(&other)),
    })
}

#[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
fn rounded_seconds(from: i64, to: i64) -> f64 {
    ((to - from) as f64 / 1e4).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn fault(number: u64, (began, over): (i64, i64), unseated: Option<i32>) -> FaultRecord {
        FaultRecord {
            number,
            kind: "coordinator killed".to_owned(),
            began: began * SECOND,
            over: over * SECOND,
            effective: true,
            note: String::new(),
            recovered: None,
            unseated: unseated.map(|pid| Unseated { at: began * SECOND, pid }),
        }
    }

    fn lead(at: i64, pid: i32) -> Lead {
        Lead { at: at * SECOND, holder: format!("coordinator-host-{pid}-0a1b2c3d") }
    }

    #[test]
    fn a_takeover_is_from_the_leaders_end_to_the_next_that_leads() {
        let leads = [lead(1, 11), lead(13, 12), lead(40, 11)];
        let alone = takeovers(&[fault(0, (10, 11), Some(11))], &leads);
        let [takeover] = &alone[..] else { panic!("{alone:?}") };
        assert_eq!((takeover.seconds, takeover.unharmed), (3.0, true));
        let faults = [fault(0, (10, 11), Some(11)), fault(1, (7, 9), None)];
        let [takeover] = &takeovers(&faults, &leads)[..] else { panic!("one") };
        assert!(!takeover.unharmed, "another fault had only just been over");
    }

    #[test]
    fn a_process_that_did_not_lead_any_more_is_not_taken_over_from() {
        let leads = [lead(1, 11), lead(9, 12)];
        assert_eq!(takeovers(&[fault(0, (10, 11), Some(11))], &leads), []);
    }

    #[test]
    fn only_late_takeovers_of_an_unharmed_system_are_listed() {
        let takeover = |seconds, unharmed| Takeover {
            kind: "coordinator frozen".to_owned(),
            fault: 0,
            seconds,
            unharmed,
        };
        let sum = Takeovers::of(&[takeover(1.0, true), takeover(9.0, false), takeover(3.5, true)]);
        assert_eq!((sum.count, sum.unharmed, sum.limit_seconds), (3, 2, 3.0));
        assert_eq!((sum.max_seconds, sum.unharmed_max_seconds), (Some(9.0), Some(3.5)));
        assert_eq!(sum.late, [takeover(3.5, true)]);
    }
}
