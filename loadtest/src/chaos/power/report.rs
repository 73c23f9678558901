//! What a run of power cuts came to: for programs, and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::super::oracle::{Finding, Sin};
use super::cuts::Place;

/// Files, or parts of them, that were there before a cut and not after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// A cut that was made.
#[derive(Clone, Debug)]
pub(crate) struct CutRecord {
    pub(crate) kind: String,
    pub(crate) place: Place,
    /// Whether `des` was running.
    pub(crate) met_process: bool,
    pub(crate) dropped: Dropped,
}

impl CutRecord {
    /// Whether it met something at work, and took something from it.
    pub(crate) fn is_effective(&self) -> bool {
        self.met_process && self.dropped.files > 0
    }
}

/// What one round came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct PowerRound {
    pub(crate) settled: u64,
    pub(crate) windows: u64,
    pub(crate) objects_collected: u64,
    pub(crate) cuts: Vec<CutRecord>,
    pub(crate) findings: Vec<Finding>,
}

/// Cuts of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct CutsOfKind {
    pub(crate) kind: String,
    /// With the ledger on the same disk.
    pub(crate) effective_ledger_beside: u64,
    /// With a ledger that survives.
    pub(crate) effective_ledger_outside: u64,
    /// `des` was running, and everything it had written was synced.
    pub(crate) dropped_nothing: u64,
    /// `des` had ended before.
    pub(crate) met_no_process: u64,
    pub(crate) files_dropped: u64,
    pub(crate) bytes_dropped: u64,
}

/// The result of a run: one object.
#[derive(Debug, Serialize)]
pub(crate) struct PowerReport {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    /// Rows that were settled and proven so at the end of their rounds.
    pub(crate) files: u64,
    pub(crate) cuts_effective: u64,
    pub(crate) cuts_dropped_nothing: u64,
    pub(crate) cuts_met_no_process: u64,
    /// Files that were there when the power failed and not, or not whole, when it was back.
    pub(crate) files_dropped: u64,
    pub(crate) bytes_dropped: u64,
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) watermark_regressions: u64,
    pub(crate) double_commits: u64,
    pub(crate) stuck: u64,
    pub(crate) objects_collected: u64,
    pub(crate) windows: u64,
    pub(crate) seconds: f64,
    pub(crate) cuts_by_kind: Vec<CutsOfKind>,
    pub(crate) findings: Vec<Finding>,
}

impl PowerReport {
    /// Adds up rounds.
    pub(crate) fn of(seed: u64, rounds: &[PowerRound], seconds: f64) -> Self {
        let findings: Vec<Finding> = rounds.iter().flat_map(|it| it.findings.clone()).collect();
        let count = |sin| findings.iter().filter(|it| it.sin == sin).map(|it| it.count).sum();
        let cuts_by_kind = by_kind(rounds.iter().flat_map(|round| &round.cuts));
        let of_kinds = |of: fn(&CutsOfKind) -> u64| cuts_by_kind.iter().map(of).sum();
        Self {
            seed,
            rounds: rounds.len() as u64,
            files: rounds.iter().map(|round| round.settled).sum(),
            cuts_effective: of_kinds(|it| it.effective_ledger_beside + it.effective_ledger_outside),
            cuts_dropped_nothing: of_kinds(|it| it.dropped_nothing),
            cuts_met_no_process: of_kinds(|it| it.met_no_process),
            files_dropped: of_kinds(|it| it.files_dropped),
            bytes_dropped: of_kinds(|it| it.bytes_dropped),
            lost: count(Sin::Lost),
            wrong: count(Sin::Wrong),
            watermark_regressions: count(Sin::WatermarkRegression),
            double_commits: count(Sin::DoubleCommit),
            stuck: count(Sin::Stuck),
            objects_collected: rounds.iter().map(|round| round.objects_collected).sum(),
            windows: rounds.iter().map(|round| round.windows).sum(),
            seconds: (seconds * 10.0).round() / 10.0,
            cuts_by_kind,
            findings,
        }
    }

    /// Whether nothing was found.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            let _never_fails = writeln!(text, "{line}");
        };
        line(format!(
            "{:<24} {:>7} {:>8} {:>12} {:>10} {:>13} {:>13}",
            "power cut", "beside", "outside", "all synced", "no des", "files gone", "bytes gone"
        ));
        for kind in &self.cuts_by_kind {
            line(format!(
                "{:<24} {:>7} {:>8} {:>12} {:>10} {:>13} {:>13}",
                kind.kind,
                kind.effective_ledger_beside,
                kind.effective_ledger_outside,
                kind.dropped_nothing,
                kind.met_no_process,
                kind.files_dropped,
                kind.bytes_dropped
            ));
        }
        line(format!(
            "\n{} files in {} windows and {} rounds, {} effective cuts ({} dropped nothing, {} met \
             no process), {:.0} s, seed {}",
            self.files,
            self.windows,
            self.rounds,
            self.cuts_effective,
            self.cuts_dropped_nothing,
            self.cuts_met_no_process,
            self.seconds,
            self.seed
        ));
        line(format!(
            "{} files and {} bytes were dropped unsynced; lost {}, wrong {}, watermark regressions \
             {}, double commits {}, stuck {}, objects collected {}",
            self.files_dropped,
            self.bytes_dropped,
            self.lost,
            self.wrong,
            self.watermark_regressions,
            self.double_commits,
            self.stuck,
            self.objects_collected
        ));
        for finding in &self.findings {
            line(format!("FOUND {:?}: {}", finding.sin, finding.what));
        }
        text
    }
}

fn by_kind<'a>(cuts: impl Iterator<Item = &'a CutRecord>) -> Vec<CutsOfKind> {
    let mut kinds: BTreeMap<&str, CutsOfKind> = BTreeMap::new();
    for cut in cuts {
        let kind = kinds.entry(&cut.kind).or_default();
        let counter = match (cut.met_process, cut.is_effective(), cut.place) {
            (false, ..) => &mut kind.met_no_process,
            (true, false, _) => &mut kind.dropped_nothing,
            (true, true, Place::Beside) => &mut kind.effective_ledger_beside,
            (true, true, Place::Outside) => &mut kind.effective_ledger_outside,
        };
        *counter += 1;
        kind.files_dropped += cut.dropped.files;
        kind.bytes_dropped += cut.dropped.bytes;
    }
    kinds.into_iter().map(|(name, kind)| CutsOfKind { kind: name.to_owned(), ..kind }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_that_took_nothing_are_counted_apart() {
        let cut = |met_process, files, place| CutRecord {
            kind: "at a random moment".to_owned(),
            place,
            met_process,
            dropped: Dropped { files, bytes: files * 10 },
        };
        let cuts = vec![
            cut(true, 2, Place::Beside),
            cut(true, 0, Place::Outside),
            cut(false, 1, Place::Outside),
            cut(true, 3, Place::Outside),
        ];
        let report = PowerReport::of(1, &[PowerRound { cuts, ..PowerRound::default() }], 1.0);
        let counted =
            (report.cuts_effective, report.cuts_dropped_nothing, report.cuts_met_no_process);
        assert_eq!(counted, (2, 1, 1));
        assert_eq!((report.files_dropped, report.bytes_dropped), (6, 60));
        let [kind] = &report.cuts_by_kind[..] else { panic!("{report:?}") };
        assert_eq!((kind.effective_ledger_beside, kind.effective_ledger_outside), (1, 1));
    }
}
