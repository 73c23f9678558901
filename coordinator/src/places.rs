//! Which shard each row of a manifest went into: the worker's layout, followed again. Pure.

use std::collections::BTreeMap;

use protocol::layout::lay_out;
use protocol::receipt::ShardRef;
use protocol::{Fingerprint, NBits, Row, RowRef, names};

/// For each row the number of its shard among `shards`, all those of the partition; `None` for
/// rows that are in none. `failed` tells which rows are in none because they failed.
///
/// Answers `None` when the shards do not hold what the rows would make, as after a change of the
/// layout: then only [`may_hold`] can tell.
pub(crate) fn place(
    rows: &[Row],
    failed: &[bool],
    shards: &[ShardRef],
    n_bits: NBits,
) -> Option<Vec<Option<usize>>> {
    // Names sort by part number within a day and index.
    let mut by_name: BTreeMap<&str, usize> =
        shards.iter().enumerate().map(|(number, shard)| (shard.key.as_str(), number)).collect();
    let mut places = vec![None; rows.len()];
    for run in lay_out(rows.iter().map(RowRef::from), n_bits).runs {
        let prefix = names::shard_prefix(n_bits, run.day, run.index);
        let mut packed: &[_] =
            &run.rows.into_iter().filter(|(row, _)| !failed[*row as usize]).collect::<Vec<_>>();
        // A shard never holds rows of two runs.
        while !packed.is_empty() {
            let (&name, &number) = by_name.range(prefix.as_str()..).next()?;
            let shard = &shards[number];
            let entries = usize::try_from(shard.entries).ok().filter(|entries| *entries > 0)?;
            let (held, rest) = packed.split_at_checked(entries)?;
            let ends = (held.first()?.1, held.last()?.1);
            if !name.starts_with(&prefix)
                || ends != (shard.first_fingerprint, shard.last_fingerprint)
            {
                return None;
            }
            held.iter().for_each(|(row, _)| places[*row as usize] = Some(number));
            by_name.remove(name);
            packed = rest;
        }
    }
    by_name.is_empty().then_some(places)
}

/// Whether the shard could hold a row with this prefix of a shard's name and this fingerprint, as
/// far as its name and bounds tell.
pub(crate) fn may_hold(shard: &ShardRef, prefix: &str, fingerprint: Fingerprint) -> bool {
    shard.first_fingerprint <= fingerprint
        && fingerprint <= shard.last_fingerprint
        && shard.key.starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use protocol::Timestamp;
    use protocol::layout::Run;

    use super::*;

    const N_BITS: u8 = 4;

    fn n_bits() -> NBits {
        NBits::new(N_BITS).expect("4")
    }

    fn rows() -> Vec<Row> {
        let at = |text: &str| -> Timestamp { text.parse().expect("a date") };
        let mut rows: Vec<Row> = (0..300)
            .map(|n| {
                let day = if n % 3 == 0 { "2024-12-01T05:00" } else { "2024-12-02" };
                Row::new(format!("uid-{}", n % 200), at(day), Some(format!("/{n}")), None)
            })
            .collect();
        rows.sort_by_key(|row| {
            (n_bits().shard_index(&row.uid), Fingerprint::of(&row.uid), row.created_at_micros)
        });
        rows
    }

    /// The shards that a worker would make, at most `most` files in each; with the rows of each.
    fn pack(rows: &[Row], failed: &[bool], most: usize) -> Vec<(ShardRef, Vec<u32>)> {
        let mut shards = Vec::new();
        let (mut last, mut part) = (None, 0);
        for Run { day, index, rows } in lay_out(rows.iter().map(RowRef::from), n_bits()).runs {
            if last.replace((day, index)) != Some((day, index)) {
                part = 0;
            }
            let packed: Vec<_> = rows.iter().filter(|(row, _)| !failed[*row as usize]).collect();
            for held in packed.chunks(most) {
                let prefix = names::shard_prefix(n_bits(), day, index);
                let shard = ShardRef {
                    key: format!("{prefix}20241203T000000Z_r0000_{part:04}-x.des"),
                    size: 1,
                    crc32c: 0,
                    entries: held.len() as u64,
                    bytes_raw: 0,
                    first_fingerprint: held[0].1,
                    last_fingerprint: held[held.len() - 1].1,
                    tail_bytes: 0,
                };
                shards.push((shard, held.iter().map(|(row, _)| *row).collect()));
                part += 1;
            }
        }
        shards.sort_by(|a, b| a.0.key.cmp(&b.0.key));
        shards
    }

    #[test]
    fn every_row_is_found_in_the_shard_that_it_was_packed_into() {
        let rows = rows();
        for (most, every) in [(1_000, 1_000), (3, 7), (1, 2), (2, 1)] {
            let failed: Vec<bool> = (0..rows.len()).map(|row| row % every == every - 1).collect();
            let packed = pack(&rows, &failed, most);
            let shards: Vec<_> = packed.iter().map(|(shard, _)| shard.clone()).collect();
            let places = place(&rows, &failed, &shards, n_bits()).expect("they line up");
            let mut expected = vec![None; rows.len()];
            for (number, (_, held)) in packed.iter().enumerate() {
                held.iter().for_each(|row| expected[*row as usize] = Some(number));
            }
            assert_eq!(places, expected, "at most {most}, every {every}th failed");
            for (row, place) in rows.iter().zip(&places) {
                let prefix = names::shard_prefix(
                    n_bits(),
                    row.created_at().day(),
                    n_bits().shard_index(&row.uid),
                );
                let holds =
                    |number: usize| may_hold(&shards[number], &prefix, Fingerprint::of(&row.uid));
                assert!(place.is_none_or(holds));
            }
        }
    }

    #[test]
    fn shards_of_other_rows_are_not_taken_for_theirs() {
        let rows = rows();
        let failed = vec![false; rows.len()];
        let shards: Vec<_> = pack(&rows, &failed, 5).into_iter().map(|(shard, _)| shard).collect();
        assert_eq!(place(&rows[1..], &failed[1..], &shards, n_bits()), None);
        assert_eq!(place(&rows, &failed, &shards[1..], n_bits()), None);
        let mut another = shards.clone();
        another[3].entries += 1;
        assert_eq!(place(&rows, &failed, &another, n_bits()), None);
    }
}
