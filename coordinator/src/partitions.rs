//! How a window's rows are cut into partitions. Pure.

/// Partitions that a window is spread over at least, so that several workers have something to
/// do, as long as none becomes smaller than [`SMALLEST_PARTITION_ROWS`].
const SPREAD: u64 = 16;
/// Below this a partition's own costs (a manifest, a receipt, two messages, two syncs) outweigh
/// its work.
const SMALLEST_PARTITION_ROWS: u64 = 5_000;

/// What one shard index of a window holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexLoad {
    /// Number of rows.
    pub rows: u64,
    /// Bytes that the rows (not the files) take in memory.
    pub row_bytes: u64,
}

/// The most that a partition may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLimits {
    /// Rows.
    pub rows: u64,
    /// Bytes of rows.
    pub row_bytes: u64,
}

/// Cuts rows in row order into partitions, given the load of every shard index in order: the
/// number of rows of each partition. Cuts fall between shard indexes where they can. An index
/// over the limits is cut inside into even parts, in a way that depends on nothing but its own
/// load and the limits, so that the same rows give the same shards.
pub fn cut(loads: &[IndexLoad], limits: PartitionLimits) -> Vec<u64> {
    let total: u64 = loads.iter().map(|load| load.rows).sum();
    let target = total.div_ceil(SPREAD).max(SMALLEST_PARTITION_ROWS).min(limits.rows.max(1));
    let mut cuts = Vec::new();
    let mut open = IndexLoad::default();
    let close = |open: &mut IndexLoad, cuts: &mut Vec<u64>| {
        if open.rows > 0 {
            cuts.push(open.rows);
        }
        *open = IndexLoad::default();
    };
    for load in loads.iter().filter(|load| load.rows > 0) {
        let pieces = load
            .rows
            .div_ceil(limits.rows.max(1))
            .max(load.row_bytes.div_ceil(limits.row_bytes.max(1)))
            .clamp(1, load.rows);
        let joined =
            IndexLoad { rows: open.rows + load.rows, row_bytes: open.row_bytes + load.row_bytes };
        if pieces > 1 {
            close(&mut open, &mut cuts);
            let (even, longer) = (load.rows / pieces, load.rows % pieces);
            cuts.extend((0..pieces).map(|piece| even + u64::from(piece < longer)));
        } else if joined.rows > target || joined.row_bytes > limits.row_bytes {
            close(&mut open, &mut cuts);
            open = *load;
        } else {
            open = joined;
        }
    }
    close(&mut open, &mut cuts);
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PartitionLimits = PartitionLimits { rows: 50_000, row_bytes: 16 << 20 };

    fn loads(rows: &[u64]) -> Vec<IndexLoad> {
        rows.iter().map(|&rows| IndexLoad { rows, row_bytes: rows * 100 }).collect()
    }

    #[test]
    fn small_windows_are_one_partition_and_empty_ones_none() {
        assert_eq!(cut(&loads(&[100; 16]), LIMITS), [1_600]);
        assert!(cut(&loads(&[0; 16]), LIMITS).is_empty());
    }

    #[test]
    fn cuts_fall_between_indexes_where_they_can() {
        assert_eq!(cut(&loads(&[6_250; 16]), LIMITS), [6_250; 16]);
        assert_eq!(cut(&loads(&[40_000; 256]), LIMITS), [40_000; 256]);
    }

    #[test]
    fn an_index_over_the_limits_is_cut_inside_evenly() {
        assert_eq!(cut(&loads(&[10, 120_001, 10]), LIMITS), [10, 40_001, 40_000, 40_000, 10]);
        let heavy = [IndexLoad { rows: 10, row_bytes: 40 << 20 }];
        assert_eq!(cut(&heavy, LIMITS), [4, 3, 3]);
        let heaviest = [IndexLoad { rows: 2, row_bytes: 1 << 40 }];
        assert_eq!(cut(&heaviest, LIMITS), [1, 1]);
    }

    #[test]
    fn nothing_is_lost_or_counted_twice() {
        for seed in 0..2_000_u64 {
            let loads: Vec<_> = (0..64_u64)
                .map(|n| {
                    let hash = blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat());
                    let random = u64::from(hash.as_bytes()[0]) * u64::from(hash.as_bytes()[1]);
                    IndexLoad { rows: random * (seed % 7), row_bytes: random * (seed % 7) * 130 }
                })
                .collect();
            let cuts = cut(&loads, LIMITS);
            let total: u64 = loads.iter().map(|load| load.rows).sum();
            assert_eq!(cuts.iter().sum::<u64>(), total, "seed {seed}");
            assert!(cuts.iter().all(|&rows| 0 < rows && rows <= LIMITS.rows), "seed {seed}");
        }
    }
}
