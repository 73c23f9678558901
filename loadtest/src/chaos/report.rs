//! What a run came to: for programs, and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::kind::{CRASH_POINTS, Kind};
use super::oracle::{Finding, Sin};
use super::round::RoundReport;
use super::takeover::{Takeovers, Unseated, takeovers};

/// A fault that was injected. Times in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct FaultRecord {
    pub(crate) number: u64,
    pub(crate) kind: String,
    pub(crate) began: i64,
    /// When the fault was over: the process started again, the link healed.
    pub(crate) over: i64,
    pub(crate) effective: bool,
    pub(crate) note: String,
    /// When the first partition after it was accepted.
    pub(crate) recovered: Option<i64>,
    /// The leader that could not lead on then.
    pub(crate) unseated: Option<Unseated>,
}

/// How far a round had come at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Sample {
    /// Microseconds since 1970.
    pub(crate) at: i64,
    /// Rows at or below the watermark.
    pub(crate) settled: u64,
}

/// Faults of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct OfKind {
    pub(crate) kind: String,
    pub(crate) effective: u64,
    pub(crate) without_effect: u64,
    /// From the end of the fault to the next accepted partition; of effective faults that were
    /// followed by one.
    pub(crate) recover_seconds_median: Option<f64>,
    pub(crate) recover_seconds_max: Option<f64>,
}

/// Runs of one of the operator's commands. Under faults many fail, or are killed with their round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct OfCommand {
    pub(crate) command: String,
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

/// The result of a run: one object.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    /// Rows that were settled and proven so: read back equal, or failed for a true reason.
    pub(crate) files: u64,
    pub(crate) faults_effective: u64,
    pub(crate) faults_without_effect: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) watermark_regressions: u64,
    pub(crate) double_commits: u64,
    pub(crate) stuck: u64,
    /// Answers for partitions that were settled already: delivered, and not counted.
    pub(crate) duplicates_removed: u64,
    /// Objects that nothing named in the end: `des gc` removed them, and no others.
    pub(crate) objects_collected: u64,
    /// Objects that were written again, with the same bytes.
    pub(crate) objects_written_again: u64,
    /// Rows that were compared with their sources while rounds went on, each time that they were;
    /// at the end of a round all are.
    pub(crate) rows_read_back: u64,
    pub(crate) windows: u64,
    pub(crate) partitions: u64,
    pub(crate) seconds: f64,
    pub(crate) faults_by_kind: Vec<OfKind>,
    pub(crate) operator_commands: Vec<OfCommand>,
    pub(crate) takeovers: Takeovers,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// Adds up rounds, whose faults know by now when the fleet had recovered.
    pub(crate) fn of(
        seed: u64,
        rounds: &[RoundReport],
        objects_written_again: u64,
        seconds: f64,
    ) -> Self {
        let findings: Vec<Finding> = rounds.iter().flat_map(|it| it.findings.clone()).collect();
        let count = |sin| findings.iter().filter(|it| it.sin == sin).map(|it| it.count).sum();
        let faults: Vec<&FaultRecord> = rounds.iter().flat_map(|it| &it.faults).collect();
        let effective = faults.iter().filter(|fault| fault.effective).count() as u64;
        let sum = |of: fn(&RoundReport) -> u64| rounds.iter().map(of).sum();
        Self {
            seed,
            rounds: rounds.len() as u64,
            files: sum(|it| it.settled),
            faults_effective: effective,
            faults_without_effect: faults.len() as u64 - effective,
            lost: count(Sin::Lost),
            wrong: count(Sin::Wrong),
            watermark_regressions: count(Sin::WatermarkRegression),
            double_commits: count(Sin::DoubleCommit),
            stuck: count(Sin::Stuck),
            duplicates_removed: sum(|it| it.duplicates_removed),
            objects_collected: sum(|it| it.objects_collected),
            objects_written_again,
            rows_read_back: sum(|it| it.rows_read_back),
            windows: sum(|it| it.windows),
            partitions: sum(|it| it.partitions),
            seconds: (seconds * 10.0).round() / 10.0,
            faults_by_kind: by_kind(&faults),
            operator_commands: by_command(rounds),
            takeovers: takeovers_of(rounds),
            findings,
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether a process crashed at each of the points in the code at least once.
    pub(crate) fn came_to_every_crash_point(&self) -> bool {
        CRASH_POINTS.iter().all(|point| {
            let name = Kind::Crash(*point).name();
            self.faults_by_kind.iter().any(|kind| kind.kind == name && kind.effective > 0)
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            let _never_fails = writeln!(text, "{line}");
        };
        line(format!(
            "{:<38} {:>9} {:>10} {:>14} {:>10}",
            "fault", "effective", "no effect", "recovery p50 s", "max s"
        ));
        let seconds =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        for kind in &self.faults_by_kind {
            line(format!(
                "{:<38} {:>9} {:>10} {:>14} {:>10}",
                kind.kind,
                kind.effective,
                kind.without_effect,
                seconds(kind.recover_seconds_median),
                seconds(kind.recover_seconds_max)
            ));
        }
        line(format!(
            "\n{} files in {} windows and {} rounds, {} effective faults ({} met nothing), {:.0} s, seed {}",
            self.files,
            self.windows,
            self.rounds,
            self.faults_effective,
            self.faults_without_effect,
            self.seconds,
            self.seed
        ));
        line(format!(
            "lost {}, wrong {}, watermark regressions {}, double commits {}, stuck {}, duplicates removed {}, objects collected {}, rows read back under way {}",
            self.lost,
            self.wrong,
            self.watermark_regressions,
            self.double_commits,
            self.stuck,
            self.duplicates_removed,
            self.objects_collected,
            self.rows_read_back
        ));
        let Takeovers { count, unharmed, limit_seconds, late, .. } = &self.takeovers;
        line(format!(
            "takeovers {count}: p50 {} s, max {} s; unharmed {unharmed}: p50 {} s, max {} s, {} beyond {limit_seconds} s",
            seconds(self.takeovers.median_seconds),
            seconds(self.takeovers.max_seconds),
            seconds(self.takeovers.unharmed_median_seconds),
            seconds(self.takeovers.unharmed_max_seconds),
            late.len()
        ));
        for it in late {
            line(format!("late: {} s after fault {}, {}", it.seconds, it.fault, it.kind));
        }
        for command in &self.operator_commands {
            let OfCommand { command, done, failed } = command;
            line(format!("operator: des {command}: {done} done, {failed} failed"));
        }
        for finding in &self.findings {
            line(format!("FOUND {:?}: {}", finding.sin, finding.what));
        }
        text
    }
}

fn takeovers_of(rounds: &[RoundReport]) -> Takeovers {
    let all: Vec<_> =
        rounds.iter().flat_map(|round| takeovers(&round.faults, &round.leads)).collect();
    Takeovers::of(&all)
}

fn by_command(rounds: &[RoundReport]) -> Vec<OfCommand> {
    let mut sums: BTreeMap<&str, OfCommand> = BTreeMap::new();
    for of in rounds.iter().flat_map(|round| &round.commands) {
        let sum = sums.entry(&of.command).or_default();
        sum.command.clone_from(&of.command);
        sum.done += of.done;
        sum.failed += of.failed;
    }
    sums.into_values().collect()
}

/// When the first partition after each fault was accepted.
pub(crate) fn note_recovery(round: &mut RoundReport) {
    let mut accepts: Vec<i64> = round.accepts.iter().map(|(at, _)| *at).collect();
    accepts.sort_unstable();
    for fault in &mut round.faults {
        let first = accepts.partition_point(|at| *at < fault.over);
        fault.recovered = accepts.get(first).copied();
    }
}

fn by_kind(faults: &[&FaultRecord]) -> Vec<OfKind> {
    let mut kinds: BTreeMap<&str, (OfKind, Vec<f64>)> = BTreeMap::new();
    for fault in faults {
        let (kind, times) = kinds.entry(&fault.kind).or_default();
        if !fault.effective {
            kind.without_effect += 1;
            continue;
        }
        kind.effective += 1;
        if let Some(recovered) = fault.recovered {
            #[expect(clippy::cast_precision_loss, reason = "seconds, for people")]
            times.push((recovered - fault.over) as f64 / 1e6);
        }
    }
    let summed = kinds.into_iter().map(|(name, (kind, mut times))| {
        times.sort_by(f64::total_cmp);
        let rounded = |time: &f64| (time * 100.0).round() / 100.0;
        OfKind {
            kind: name.to_owned(),
            recover_seconds_median: times.get(times.len() / 2).map(rounded),
            recover_seconds_max: times.last().map(rounded),
            ..kind
        }
    });
    summed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &str, over: i64, effective: bool) -> FaultRecord {
        FaultRecord {
            number: 0,
            kind: kind.to_owned(),
            began: 0,
            over,
            effective,
            note: String::new(),
            recovered: None,
            unseated: None,
        }
    }

    #[test]
    fn recovery_is_the_first_partition_after_the_fault() {
        let mut round = RoundReport {
            accepts: vec![(5_000_000, 10), (1_000_000, 10)],
            faults: vec![
                record("a", 2_000_000, true),
                record("a", 6_000_000, true),
                record("b", 0, false),
            ],
            ..RoundReport::default()
        };
        note_recovery(&mut round);
        let report = Report::of(1, &[round], 0, 1.0);
        let [a, b] = &report.faults_by_kind[..] else { panic!("{report:?}") };
        assert_eq!(
            (a.effective, a.recover_seconds_median, a.recover_seconds_max),
            (2, Some(3.0), Some(3.0))
        );
        assert_eq!((b.effective, b.without_effect, b.recover_seconds_max), (0, 1, None));
        assert!(report.is_clean());
        assert!(report.text().contains("lost 0, wrong 0"));
    }
}
