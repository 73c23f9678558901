//! What the catalog holds today against what a window's revisions account for. Pure.
//!
//! A row is told by its uid and created_at. Rows that are equal in both are as many files; which
//! of them is which, location decides, where it can.

use crate::sort::SortedRow;

/// Where a row of an earlier revision's manifest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// In the archive.
    Settled,
    /// In a shard that is gone or damaged.
    Lost,
    /// Not in the archive: the last pass that tried could not read it.
    Failed,
    /// In a shard that is gone or damaged, all rows of which a later revision took up; the
    /// shard's number among the damaged ones. Where the row stands, that revision tells.
    TakenUp(usize),
}

/// Why a row remains to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No revision knew it.
    Late,
    /// Its shard is gone or damaged.
    Lost,
    /// It could not be read when it was tried last.
    Failed,
}

/// Everything about rows of one uid and created_at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// What is not in the archive, in row order: as the catalog has it today, or, where it is gone
    /// from there, as the manifest has it.
    pub(crate) remaining: Vec<(SortedRow, Why)>,
    /// What was accounted for and is gone from the catalog.
    pub(crate) vanished: Vec<SortedRow>,
    /// What is in the archive and lies elsewhere now, as the catalog says.
    pub(crate) moved: Vec<SortedRow>,
    /// Damaged shards that are the only ones to hold some file, so that they cannot be given up.
    pub(crate) needed: Vec<usize>,
}

/// Compares rows of the same uid and created_at: those that the catalog holds, and those of the
/// earlier revisions' manifests.
pub(crate) fn judge(scanned: Vec<SortedRow>, known: Vec<(SortedRow, Standing)>) -> Verdict {
    let of = |wanted: Standing| {
        let rows = known.iter().filter(move |(_, standing)| *standing == wanted);
        rows.map(|(row, _)| row.clone()).collect::<Vec<_>>()
    };
    let (settled, lost, failed) = (of(Standing::Settled), of(Standing::Lost), of(Standing::Failed));
    let mut verdict = Verdict::default();
    if !failed.is_empty() {
        verdict.needed.extend(known.iter().filter_map(|(_, standing)| match standing {
            Standing::TakenUp(shard) => Some(*shard),
            _ => None,
        }));
    }
    let mut left = scanned;
    // First whatever lies where it lay, then what is left over, in the order of what is certain.
    let same = [settled, lost, failed].map(|rows| take_same(&mut left, rows));
    let [settled, lost, failed] = same.map(|(same, others)| {
        let count = others.len().min(left.len());
        Paired { same, elsewhere: left.drain(..count).collect(), alone: others }.without(count)
    });
    verdict.vanished.extend(settled.alone);
    verdict.moved.extend(settled.elsewhere);
    for (paired, why) in [(lost, Why::Lost), (failed, Why::Failed)] {
        // Whatever became of the row in the catalog, its file is to be in the archive: users may
        // delete rows of files that they know to be there.
        verdict.vanished.extend(paired.alone.iter().cloned());
        let rows = paired.same.into_iter().chain(paired.elsewhere).chain(paired.alone);
        verdict.remaining.extend(rows.map(|row| (row, why)));
    }
    verdict.remaining.extend(left.into_iter().map(|row| (row, Why::Late)));
    verdict.remaining.sort_by(|a, b| a.0.cmp(&b.0));
    verdict
}

/// Known rows, by what the catalog has for them.
struct Paired {
    /// The catalog's rows, where they were.
    same: Vec<SortedRow>,
    /// The catalog's rows, at another location.
    elsewhere: Vec<SortedRow>,
    /// Known rows for which the catalog has none.
    alone: Vec<SortedRow>,
}

impl Paired {
    /// Without the first of the lonely ones, which found a pair.
    fn without(mut self, count: usize) -> Self {
        self.alone.drain(..count);
        self
    }
}

/// Takes a row of `scanned` for each of `known` that has the same location; the others are handed
/// back.
fn take_same(
    scanned: &mut Vec<SortedRow>,
    known: Vec<SortedRow>,
) -> (Vec<SortedRow>, Vec<SortedRow>) {
    let (mut same, mut others) = (Vec::new(), Vec::new());
    for row in known {
        match scanned.iter().position(|other| other.row.location == row.row.location) {
            Some(at) => same.push(scanned.remove(at)),
            None => others.push(row),
        }
    }
    (same, others)
}

#[cfg(test)]
mod tests {
    use protocol::{NBits, Row};

    use super::*;

    fn row(location: &str) -> SortedRow {
        let at = "2024-12-01T10:00".parse().expect("a date");
        SortedRow::new(Row::new("uid".into(), at, Some(location.into()), None), NBits::DEFAULT)
    }

    fn rows(locations: &[&str]) -> Vec<SortedRow> {
        locations.iter().map(|location| row(location)).collect()
    }

    fn known(rows: &[(&str, Standing)]) -> Vec<(SortedRow, Standing)> {
        rows.iter().map(|(location, standing)| (row(location), *standing)).collect()
    }

    fn remaining(verdict: &Verdict) -> Vec<(&str, Why)> {
        let location = |row: &'_ SortedRow| row.row.location.clone().unwrap_or_default();
        let rows = verdict.remaining.iter();
        rows.map(|(row, why)| (location(row).leak() as &str, *why)).collect()
    }

    #[test]
    fn what_is_settled_does_not_remain() {
        let verdict = judge(rows(&["/a"]), known(&[("/a", Standing::Settled)]));
        assert_eq!(verdict, Verdict::default());
        let moved = judge(rows(&["/b"]), known(&[("/a", Standing::Settled)]));
        assert_eq!((moved.remaining.len(), moved.moved), (0, rows(&["/b"])));
        let vanished = judge(Vec::new(), known(&[("/a", Standing::Settled)]));
        assert_eq!((vanished.remaining.len(), vanished.vanished), (0, rows(&["/a"])));
    }

    #[test]
    fn of_twins_the_one_that_is_late_remains() {
        let verdict = judge(rows(&["/a", "/b"]), known(&[("/b", Standing::Settled)]));
        assert_eq!(remaining(&verdict), [("/a", Why::Late)]);
    }

    #[test]
    fn what_was_lost_remains_also_where_the_catalog_has_it_no_more() {
        let there = judge(rows(&["/a"]), known(&[("/a", Standing::Lost)]));
        assert_eq!(remaining(&there), [("/a", Why::Lost)]);
        let gone = judge(Vec::new(), known(&[("/a", Standing::Lost)]));
        assert_eq!(remaining(&gone), [("/a", Why::Lost)]);
        assert_eq!(gone.vanished, rows(&["/a"]));
        let moved = judge(rows(&["/b"]), known(&[("/a", Standing::Lost)]));
        assert_eq!(remaining(&moved), [("/b", Why::Lost)]);
    }

    #[test]
    fn a_sound_twin_in_the_catalog_does_not_stand_for_one_that_was_lost() {
        let twins = known(&[("/a", Standing::Lost), ("/b", Standing::Settled)]);
        assert_eq!(remaining(&judge(rows(&["/b"]), twins.clone())), [("/a", Why::Lost)]);
        assert_eq!(remaining(&judge(rows(&["/a", "/b"]), twins)), [("/a", Why::Lost)]);
    }

    #[test]
    fn what_failed_remains_with_the_location_that_the_catalog_has_now() {
        let failed = known(&[("/a", Standing::Failed)]);
        assert_eq!(remaining(&judge(rows(&["/a"]), failed.clone())), [("/a", Why::Failed)]);
        assert_eq!(remaining(&judge(rows(&["/b"]), failed.clone())), [("/b", Why::Failed)]);
        assert_eq!(remaining(&judge(Vec::new(), failed)), [("/a", Why::Failed)]);
    }

    #[test]
    fn a_shard_that_was_taken_up_is_needed_while_some_file_of_it_failed() {
        let open = known(&[("/a", Standing::TakenUp(3)), ("/a", Standing::Failed)]);
        assert_eq!(judge(rows(&["/a"]), open).needed, [3]);
        let settled = known(&[("/a", Standing::TakenUp(3)), ("/a", Standing::Settled)]);
        assert_eq!(judge(rows(&["/a"]), settled), Verdict::default());
    }

    #[test]
    fn every_row_of_the_catalog_is_settled_or_remains_once() {
        let standings = [Standing::Settled, Standing::Lost, Standing::Failed];
        for case in 0..3_u32.pow(4) * 16 {
            let (mut choice, mut scanned, mut before) = (case / 16, Vec::new(), Vec::new());
            for (bit, location) in ["/a", "/b", "/c", "/d"].into_iter().enumerate() {
                if case >> bit & 1 == 1 {
                    scanned.push(location);
                }
                before.push((location, standings[choice as usize % 3]));
                choice /= 3;
            }
            let before = &before[..scanned.len().min(3)];
            let settled = before.iter().filter(|(_, it)| *it == Standing::Settled).count();
            let open = before.len() - settled;
            let verdict = judge(rows(&scanned), known(before));
            let expected = open + scanned.len().saturating_sub(settled).saturating_sub(open);
            assert_eq!(verdict.remaining.len(), expected, "{scanned:?} after {before:?}");
        }
    }
}
