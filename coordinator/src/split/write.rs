//! Writes the manifests of a window's partitions, several at a time.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol::manifest::{ManifestHeader, ManifestWriter};
use tokio::sync::mpsc;

use crate::sort::{Sorted, SortedIter, Sum, other_rows};

use super::FinishedManifest;

/// Threads that sort buckets and write manifests, where there are as many cores.
const MOST_THREADS: usize = 4;
/// A thread may begin or end inside a bucket, which another then sorts as well, when it has at
/// least this many times the bucket's rows to write.
const WORTH_A_BUCKET: u64 = 8;

/// Consecutive partitions that one thread writes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    first_row: u64,
    partitions: Range<usize>,
}

/// Writes every partition's manifest, in any order, on threads of its own, and returns when all are
/// handed over, or nobody takes them any more. `cuts` has the partitions' numbers of rows.
///
/// # Errors
/// When the spool cannot be read, or what was written is not every row that was sorted, once.
pub(super) fn write_all(
    sorted: &Sorted,
    cuts: &[u64],
    header: &(impl Fn(usize) -> ManifestHeader + Sync),
    finished: &mpsc::Sender<FinishedManifest>,
) -> std::io::Result<()> {
    let stretches = stretches(cuts, sorted.bucket_rows());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(MOST_THREADS).min(stretches.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut rows = sorted.iter(threads);
        while let Some(stretch) = stretches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let written = write_stretch(&mut rows, stretch, cuts, header, finished);
            // Whoever fails leaves nothing to do for the others.
            if !matches!(written, Ok(true)) {
                next.store(stretches.len(), Ordering::Relaxed);
                return written.map(|_| None);
            }
        }
        Ok(Some(rows.sum()))
    };
    let written = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let written = threads
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|panicked| resume_unwind(panicked)));
        written.collect::<std::io::Result<Vec<Option<Sum>>>>()
    })?;
    let mut all = Sum::default();
    for sum in written {
        let Some(sum) = sum else { return Ok(()) };
        all += sum;
    }
    sorted.require_all(all)
}

/// False when nobody takes manifests any more: an upload failed, and says why itself.
fn write_stretch(
    rows: &mut SortedIter<'_>,
    stretch: &Stretch,
    cuts: &[u64],
    header: &impl Fn(usize) -> ManifestHeader,
    finished: &mpsc::Sender<FinishedManifest>,
) -> std::io::Result<bool> {
    rows.seek(stretch.first_row)?;
    for number in stretch.partitions.clone() {
        let header = header(number);
        let mut manifest = ManifestWriter::new(&header)?;
        for _ in 0..cuts[number] {
            let Some(row) = rows.next_row()? else { return Err(other_rows()) };
            manifest.push_encoded(row.encoded())?;
        }
        let (bytes, totals) = manifest.finish()?;
        let manifest = FinishedManifest { partition: header.partition, bytes, totals };
        if finished.blocking_send(manifest).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Groups partitions so that no bucket, of which `buckets` has the numbers of rows, is sorted by two
/// threads, unless it is small beside what they do.
fn stretches(cuts: &[u64], buckets: impl Iterator<Item = u64>) -> Vec<Stretch> {
    let mut buckets = buckets.filter(|rows| *rows > 0);
    let (mut bucket_end, mut bucket_rows) = (0, 0);
    let mut stretches = Vec::new();
    let (mut first_row, mut first_partition, mut row) = (0, 0, 0);
    for (number, rows) in cuts.iter().enumerate() {
        row += rows;
        while bucket_end < row {
            let Some(rows) = buckets.next() else { break };
            bucket_rows = rows;
            bucket_end += rows;
        }
        let torn = if bucket_end == row { 0 } else { bucket_rows };
        if torn * WORTH_A_BUCKET <= row - first_row {
            stretches.push(Stretch { first_row, partitions: first_partition..number + 1 });
            (first_row, first_partition) = (row, number + 1);
        }
    }
    if first_partition < cuts.len() {
        stretches.push(Stretch { first_row, partitions: first_partition..cuts.len() });
    }
    stretches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{NBits, PackSettings, Window};

    use super::*;
    use crate::decide::partition_id;
    use crate::partitions::{PartitionLimits, cut};
    use crate::sort::SortedRow;
    use crate::sort::tests::{any_limit, any_rows, sort};

    fn header(number: usize) -> ManifestHeader {
        let at = |text: &str| text.parse().expect("a date");
        ManifestHeader {
            archive: "a-1".parse().expect("an id"),
            job: "files".parse().expect("a job"),
            window: Window::new(at("1969-12-31"), at("1970-01-02")).expect("a window"),
            revision: 0,
            partition: partition_id(number),
            settings: PackSettings::default(),
        }
    }

    /// One row after the other, as rows in memory that the library has sorted.
    fn written_plainly(rows: &mut [SortedRow], cuts: &[u64]) -> Vec<FinishedManifest> {
        rows.sort();
        let mut rows = rows.iter();
        let write = |(number, rows_of): (usize, &u64)| {
            let mut manifest = ManifestWriter::new(&header(number)).expect("a writer");
            for row in rows.by_ref().take(usize::try_from(*rows_of).expect("few")) {
                manifest.push(&row.row).expect("taken");
            }
            let (bytes, totals) = manifest.finish().expect("ended");
            FinishedManifest { partition: partition_id(number), bytes, totals }
        };
        cuts.iter().enumerate().map(write).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn manifests_are_what_a_plain_sort_in_memory_gives(
            rows in any_rows(400),
            n_bits in prop::sample::select(vec![4, 8, 13]),
            limit in any_limit(),
            limits in (1..90_u64, 9_000..90_000_u64),
        ) {
            let n_bits = NBits::new(n_bits).expect("bits");
            let dir = tempfile::tempdir().expect("a directory");
            let sorted = sort(&rows, n_bits, limit, dir.path());
            let limits = PartitionLimits { rows: limits.0, row_bytes: limits.1 };
            let cuts = cut(sorted.loads(), limits);
            let (finished, mut written) = mpsc::channel(rows.len() + 1);
            write_all(&sorted, &cuts, &header, &finished).expect("written");
            drop(finished);
            let mut got: Vec<_> = std::iter::from_fn(|| written.blocking_recv()).collect();
            got.sort_by_key(|manifest| manifest.partition);
            let mut rows: Vec<_> =
                rows.into_iter().map(|row| SortedRow::new(row, n_bits)).collect();
            prop_assert_eq!(got, written_plainly(&mut rows, &cuts));
            // A plan that leaves a row out, or has one more than there are, is none.
            if let Some((last, others)) = cuts.split_last() {
                for wrong in [&[others, &[last - 1]].concat()[..], &[others, &[last + 1]].concat()] {
                    let (finished, _taken) = mpsc::channel(rows.len() + 2);
                    prop_assert!(write_all(&sorted, wrong, &header, &finished).is_err());
                }
            }
        }
    }

    #[test]
    fn nobody_who_takes_them_ends_the_writing() {
        let n_bits = NBits::DEFAULT;
        let dir = tempfile::tempdir().expect("a directory");
        let at = protocol::Timestamp::from_micros(7).expect("a time");
        let row = |n: u32| protocol::Row::new(format!("uid-{n}"), at, Some("/x".into()), None);
        let rows: Vec<_> = (0..2_000).map(row).collect();
        let sorted = sort(&rows, n_bits, 20_000, dir.path());
        let (finished, mut written) = mpsc::channel::<FinishedManifest>(1);
        let taking = std::thread::spawn(move || written.blocking_recv().map(|it| it.totals));
        let cuts = cut(sorted.loads(), PartitionLimits { rows: 9, row_bytes: 1 << 20 });
        write_all(&sorted, &cuts, &header, &finished).expect("an end");
        assert!(taking.join().expect("it ended").is_some());
    }

    fn grouped(cuts: &[u64], buckets: &[u64]) -> Vec<(u64, Range<usize>)> {
        let stretches = stretches(cuts, buckets.iter().copied());
        stretches.into_iter().map(|it| (it.first_row, it.partitions)).collect()
    }

    #[test]
    fn partitions_that_end_with_a_bucket_are_written_alone() {
        assert_eq!(grouped(&[5, 5], &[5, 0, 5]), [(0, 0..1), (5, 1..2)]);
        assert_eq!(grouped(&[5, 5], &[2, 3, 1, 4]), [(0, 0..1), (5, 1..2)]);
        assert_eq!(grouped(&[], &[0, 0]), []);
    }

    #[test]
    fn partitions_inside_one_bucket_are_written_by_one_thread() {
        assert_eq!(grouped(&[50, 50, 50], &[150]), [(0, 0..3)]);
        assert_eq!(grouped(&[50, 50, 50, 7], &[1, 149, 7]), [(0, 0..3), (150, 3..4)]);
    }

    #[test]
    fn a_small_bucket_may_be_torn() {
        assert_eq!(grouped(&[80, 82], &[76, 8, 78]), [(0, 0..1), (80, 1..2)]);
        assert_eq!(grouped(&[79, 83], &[76, 10, 76]), [(0, 0..2)]);
    }
}
