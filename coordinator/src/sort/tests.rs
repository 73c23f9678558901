use proptest::prelude::*;
use protocol::Timestamp;

use super::*;

/// Whatever a catalog may hold: many rows of few uids, uids that all fall on few shard indexes, the
/// longest uids and those that are too long, and rows that cannot be packed.
pub(crate) fn any_rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    let uid = prop_oneof![
        8 => (0..40_u32).prop_map(|n| format!("uid-{n}")),
        8 => any::<u64>().prop_map(|n| format!("uid-{n}")),
        8 => (0..400_u64).prop_map(|n| (n * 65_536).to_string()),
        1 => (0..9_u32).prop_map(|n| format!("{n}{}", "long".repeat(15_000))),
        1 => (0..9_u32).prop_map(|n| format!("{n}{}", "too long".repeat(9_000))),
    ];
    let location = prop_oneof![
        8 => (0..9_u32).prop_map(|n| Some(format!("/files/{n}"))),
        1 => Just(Some("/".repeat(70_000))),
        1 => Just(Some(String::new())),
        1 => Just(None),
    ];
    let row = (uid, -9..9_i64, location, prop::option::of(0..3_u64)).prop_map(
        |(uid, micros, location, size)| {
            let created_at = Timestamp::from_micros(micros).expect("a time");
            Row::new(uid, created_at, location, size)
        },
    );
    prop::collection::vec(row, 0..most)
}

/// What is too little for any bucket, for a large one, and enough for all.
pub(crate) fn any_limit() -> impl Strategy<Value = usize> {
    prop::sample::select(vec![500, 20_000, 200_000, 64 << 20])
}

pub(crate) fn sort(rows: &[Row], n_bits: NBits, limit: usize, spool_dir: &Path) -> Sorted {
    let mut sorter = Sorter::new(n_bits, limit, spool_dir);
    for row in rows {
        sorter.push(RowRef::from(row)).expect("pushed");
    }
    sorter.finish().expect("sorted")
}

fn read(rows: &mut SortedIter<'_>) -> Vec<SortedRow> {
    let mut read = Vec::new();
    while let Some(row) = rows.next_row().expect("read") {
        read.push(row.to_sorted_row().expect("a row"));
    }
    read
}

fn expected(rows: &[Row], n_bits: NBits) -> Vec<SortedRow> {
    let mut expected: Vec<_> = rows.iter().map(|row| SortedRow::new(row.clone(), n_bits)).collect();
    expected.sort();
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_is_spooled_the_order_is_row_order_and_nothing_is_lost(
        rows in any_rows(400),
        n_bits in prop::sample::select(vec![4, 6, 8, 11, 16]),
        limit in any_limit(),
        readers in 1..4_usize,
        places in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let n_bits = NBits::new(n_bits).expect("bits");
        let expected = expected(&rows, n_bits);
        let dir = tempfile::tempdir().expect("a directory");
        let sorted = sort(&rows, n_bits, limit, dir.path());
        let mut iter = sorted.iter(readers);
        prop_assert_eq!(&read(&mut iter), &expected);
        prop_assert!(iter.next_row().expect("an end").is_none());
        for place in places {
            let first = place.index(expected.len() + 1);
            iter.seek(first as u64).expect("there");
            prop_assert_eq!(&read(&mut iter), &expected[first..]);
        }
        let mut loads = vec![IndexLoad::default(); n_bits.shard_count() as usize];
        for row in &expected {
            let load = &mut loads[usize::from(row.index.0)];
            load.rows += 1;
            load.row_bytes +=
                (row.row.heap_bytes() + size_of::<SortedRow>() - size_of::<Row>()) as u64;
        }
        prop_assert_eq!(sorted.loads(), &loads[..]);
        prop_assert_eq!(sorted.bucket_rows().sum::<u64>(), expected.len() as u64);
    }
}

#[test]
fn one_uid_in_all_rows_is_merged_from_many_pieces() {
    let n_bits = NBits::new(8).expect("8");
    let rows: Vec<Row> = (0..5_000_i64)
        .map(|n| {
            let at = Timestamp::from_micros(n.wrapping_mul(2_654_435_761) % 1_000).expect("a time");
            Row::new("the-one".into(), at, Some(format!("/files/{n}")), None)
        })
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    let sorted = sort(&rows, n_bits, 20_000, dir.path());
    let mut iter = sorted.iter(1);
    iter.next_row().expect("read").expect("a row");
    assert!(matches!(iter.rows, Rows::Merged(_)), "the bucket is larger than the memory");
    iter.seek(0).expect("there");
    assert_eq!(read(&mut iter), expected(&rows, n_bits));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "unlinked");
}

#[test]
fn memory_for_rows_is_bounded_whatever_their_skew() {
    const LIMIT: usize = 1 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let mut sorter = Sorter::new(NBits::DEFAULT, LIMIT, dir.path());
    let at = Timestamp::from_micros(7).expect("a time");
    for n in 0..40_000_u32 {
        let uid = if n % 2 == 0 { (n * 256).to_string() } else { format!("uid-{n}") };
        let row = RowRef::sound(&uid, at, Some("/files/of/some/length/or/other"), Some(9));
        sorter.push(row.expect("a sound row")).expect("pushed");
        let held: usize = sorter.buckets.iter().map(|bucket| bucket.in_memory.len()).sum();
        assert!(held <= LIMIT, "{held} bytes after {n} rows");
    }
    assert!(sorter.spooled > 2 * LIMIT as u64, "{} bytes spooled", sorter.spooled);
}

#[test]
fn whatever_bit_of_the_spool_is_flipped_the_rows_are_refused() {
    let n_bits = NBits::new(8).expect("8");
    let row = |n: i64| {
        let at = Timestamp::from_micros(n).expect("a time");
        Row::new(format!("uid-{}", n % 7), at, Some(format!("/files/{n}")), Some(n.unsigned_abs()))
    };
    let rows: Vec<Row> = (0..60).map(row).collect();
    let dir = tempfile::tempdir().expect("a directory");
    // Enough for every bucket, and too little for the larger ones.
    for memory in [20_000, 1_000] {
        let mut sorted = sort(&rows, n_bits, 500, dir.path());
        sorted.limit = memory;
        let all = |sorted: &Sorted| {
            let mut iter = sorted.iter(1);
            while iter.next_row()?.is_some() {}
            iter.require_all()
        };
        all(&sorted).expect("they are the rows that were pushed");
        let spool = sorted.spool.as_ref().expect("everything is spooled");
        for at in 0..spool.metadata().expect("a file").len() {
            let mut byte = [0];
            spool.read_exact_at(&mut byte, at).expect("read");
            spool.write_all_at(&[byte[0] ^ 4], at).expect("written");
            assert!(all(&sorted).is_err(), "nobody noticed byte {at}");
            spool.write_all_at(&byte, at).expect("written");
        }
        all(&sorted).expect("they are the same again");
    }
}
