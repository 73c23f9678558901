//! Which row goes into which shard, in which order: what a worker packs by, and what tells a
//! coordinator later which rows a shard held.

use crate::names::MAX_PART;
use crate::routing::{NBits, ShardIndex};
use crate::row::Fingerprint;
use crate::row_ref::RowRef;
use crate::time::Day;

/// Rows that belong together in shards of one day and shard index, in the order in which they are
/// to be written. Rows of one run have ascending fingerprints, each once; a run may be cut into
/// several shards where it grows too large.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Day of their created_at.
    pub day: Day,
    /// Their shard index.
    pub index: ShardIndex,
    /// Positions in the manifest's rows, with each row's fingerprint.
    pub rows: Vec<(u32, Fingerprint)>,
}

/// How a manifest's rows are laid out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Runs, by shard index and day, those that hold a uid's first row before those that hold its
    /// second.
    pub runs: Vec<Run>,
    /// Rows that have no place, since more rows share their uid and day than names have parts.
    pub surplus: Vec<u32>,
}

/// Lays out rows that are in row order. Rows with a defect are left out. Equal fingerprints
/// (equal uids, in practice) go to different runs, the n-th of them to the n-th run, since one
/// uid stands once per shard.
pub fn lay_out<'a>(rows: impl ExactSizeIterator<Item = RowRef<'a>>, n_bits: NBits) -> Layout {
    struct Placed {
        index: ShardIndex,
        day: Day,
        layer: u32,
        fingerprint: Fingerprint,
        row: u32,
    }
    let mut placed = Vec::with_capacity(rows.len());
    for (number, row) in (0_u32..).zip(rows) {
        if row.defect.is_none() {
            placed.push(Placed {
                index: n_bits.shard_index(row.uid),
                day: row.created_at().day(),
                layer: 0,
                fingerprint: Fingerprint::of(row.uid),
                row: number,
            });
        }
    }
    placed.sort_by_key(|place| (place.index, place.day, place.fingerprint, place.row));
    for at in 1..placed.len() {
        let (before, here) = (&placed[at - 1], &placed[at]);
        if (before.index, before.day, before.fingerprint)
            == (here.index, here.day, here.fingerprint)
        {
            placed[at].layer = before.layer + 1;
        }
    }
    placed.sort_by_key(|place| (place.index, place.day, place.layer, place.fingerprint));

    let mut layout = Layout::default();
    let key = |place: &Placed| (place.index, place.day, place.layer);
    for run in placed.chunk_by(|left, right| key(left) == key(right)) {
        let (index, day, layer) = key(&run[0]);
        if layer > MAX_PART {
            layout.surplus.extend(run.iter().map(|place| place.row));
        } else {
            let rows = run.iter().map(|place| (place.row, place.fingerprint)).collect();
            layout.runs.push(Run { day, index, rows });
        }
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Row;
    use crate::time::Timestamp;

    fn laid_out(rows: &[Row], n_bits: NBits) -> Layout {
        lay_out(rows.iter().map(RowRef::from), n_bits)
    }

    fn row(uid: &str, at: &str) -> Row {
        let at: Timestamp = at.parse().expect("a date");
        Row::new(uid.into(), at, Some(format!("/files/{uid}")), None)
    }

    #[test]
    fn runs_are_of_one_day_and_index_with_ascending_fingerprints() {
        let rows: Vec<_> = (0..500)
            .map(|n| {
                row(&format!("uid-{n}"), if n % 2 == 0 { "2024-12-01T05:00" } else { "2024-12-02" })
            })
            .collect();
        let n_bits = NBits::new(4).expect("4");
        let layout = laid_out(&rows, n_bits);
        assert_eq!(layout.runs.iter().map(|run| run.rows.len()).sum::<usize>(), 500);
        assert_eq!(layout.runs.len(), 32);
        for run in &layout.runs {
            assert!(run.rows.windows(2).all(|pair| pair[0].1 < pair[1].1));
            for (number, _) in &run.rows {
                let row = &rows[*number as usize];
                assert_eq!(n_bits.shard_index(&row.uid), run.index);
                assert_eq!(row.created_at().day(), run.day);
            }
        }
    }

    #[test]
    fn equal_uids_go_to_different_runs() {
        let rows =
            [row("a", "2024-12-01T01:00"), row("a", "2024-12-01T02:00"), row("b", "2024-12-01")];
        let layout = laid_out(&rows, NBits::new(4).expect("4"));
        for run in &layout.runs {
            let of_a = run.rows.iter().filter(|(number, _)| *number < 2).count();
            assert!(of_a <= 1);
        }
        assert!(layout.surplus.is_empty());
    }

    #[test]
    fn more_versions_than_parts_are_surplus() {
        let rows: Vec<_> = (0..10_005).map(|_| row("same", "2024-12-01")).collect();
        let layout = laid_out(&rows, NBits::DEFAULT);
        assert_eq!((layout.runs.len(), layout.surplus.len()), (10_000, 5));
    }
}
