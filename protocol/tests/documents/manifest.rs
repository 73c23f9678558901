//! The manifest.

use proptest::prelude::*;
use protocol::manifest::{ManifestReader, ManifestTotals, ManifestWriter, RowRange};
use protocol::row::RowDefect;
use protocol::{Digest, DocumentError, Row, RowRef, Tally, Timestamp};

use crate::values::{at, header, rows};

fn write(rows: &[Row]) -> (Vec<u8>, ManifestTotals) {
    let mut writer = ManifestWriter::new(&header()).expect("a writer");
    for row in rows {
        writer.push(row).expect("the row is taken");
    }
    let raw_bytes = writer.raw_bytes();
    let (bytes, totals) = writer.finish().expect("it ends");
    assert_eq!(totals.raw_bytes, raw_bytes);
    (bytes, totals)
}

fn read(bytes: &[u8]) -> Result<(Vec<Row>, ManifestTotals), DocumentError> {
    let reader = ManifestReader::new(bytes)?;
    assert_eq!(*reader.header(), header(), "a damaged header is never believed");
    let (rows, totals) = reader.read_all()?;
    Ok((rows.iter().map(|row| row.to_row()).collect(), totals))
}

fn totals(rows: &[Row], raw_bytes: u64) -> ManifestTotals {
    let mut tally = Tally::default();
    let mut locations = Digest::default();
    for row in rows {
        tally.count(&row.uid, row.created_at());
        if let Some(location) = &row.location {
            locations += Digest::of_location(&row.uid, location);
        }
    }
    ManifestTotals { rows: tally, raw_bytes, locations }
}

/// bincode 1 with its default options: little-endian, fixed width, u64 lengths, u32 variants, u8
/// option tags.
fn wire(row: &Row) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    let mut bytes = Vec::new();
    text(&mut bytes, &row.uid);
    bytes.extend_from_slice(&row.created_at_micros.to_le_bytes());
    match &row.location {
        None => bytes.push(0),
        Some(location) => {
            bytes.push(1);
            text(&mut bytes, location);
        }
    }
    match row.size {
        None => bytes.push(0),
        Some(size) => {
            bytes.push(1);
            bytes.extend_from_slice(&size.to_le_bytes());
        }
    }
    match row.defect {
        None => bytes.push(0),
        Some(defect) => {
            bytes.push(1);
            let variant: u32 = match defect {
                RowDefect::UidTooLong => 0,
                RowDefect::NoLocation => 1,
                RowDefect::LocationTooLong => 2,
            };
            bytes.extend_from_slice(&variant.to_le_bytes());
        }
    }
    bytes
}

fn row() -> impl Strategy<Value = Row> {
    let text = || {
        prop_oneof![
            20 => "\\PC{0,60}",
            1 => (65_000..65_536_usize).prop_map(|len| "x".repeat(len)),
        ]
    };
    let defect = prop_oneof![
        Just(RowDefect::UidTooLong),
        Just(RowDefect::NoLocation),
        Just(RowDefect::LocationTooLong)
    ];
    let micros = prop_oneof![
        9 => Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros(),
        1 => any::<i64>(),
    ];
    (
        text(),
        micros,
        proptest::option::of(text()),
        any::<Option<u64>>(),
        proptest::option::of(defect),
    )
        .prop_map(|(uid, created_at_micros, location, size, defect)| Row {
            uid,
            created_at_micros,
            location,
            size,
            defect,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn what_is_written_is_read(rows in proptest::collection::vec(row(), 0..60)) {
        let (bytes, stated) = write(&rows);
        let raw: usize = rows.iter().map(|row| wire(row).len()).sum();
        prop_assert_eq!(stated, totals(&rows, raw as u64));
        prop_assert_eq!(read(&bytes), Ok((rows.clone(), stated)));
        prop_assert_eq!(write(&rows).0, bytes, "equal rows give equal bytes");
    }

    #[test]
    fn garbage_is_refused_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes).is_err());
        let mut behind_header = write(&[]).0;
        behind_header.truncate(behind_header.len() - 56);
        behind_header.extend_from_slice(&bytes);
        prop_assert!(read(&behind_header).is_err());
    }
}

#[test]
fn many_rows_make_several_frames() {
    let rows: Vec<Row> = (0..30_000)
        .map(|n| Row::new(n.to_string(), at("2024-12-01"), Some(format!("/data/{n}")), Some(n)))
        .collect();
    let (bytes, stated) = write(&rows);
    let mut reader = ManifestReader::new(&bytes).expect("it opens");
    let (mut frames, mut all) = (0, Vec::new());
    while reader.next_frame(|row| all.push(row.to_row())).expect("a sound frame") {
        frames += 1;
    }
    assert!(frames >= 4, "{frames}");
    assert_eq!(all, rows);
    assert_eq!(stated, totals(&rows, stated.raw_bytes));
    assert_eq!(reader.next_frame(|_row| ()), Ok(false), "the end stays the end");
}

#[test]
fn a_frame_holds_the_longest_rows() {
    let longest = Row::new("u".repeat(65_535), at("2024-12-01"), Some("l".repeat(65_535)), Some(1));
    assert_eq!(longest.defect, None);
    let rows = vec![longest; 9];
    let (bytes, stated) = write(&rows);
    assert_eq!(read(&bytes), Ok((rows, stated)));
}

/// The bytes of a manifest, put together field by field.
fn assemble(version: u16, frames: &[(u32, u32, Vec<u8>)], totals: ManifestTotals) -> Vec<u8> {
    let mut bytes = b"DESM".to_vec();
    bytes.extend_from_slice(&version.to_le_bytes());
    let json = serde_json::to_vec(&header()).expect("it serialises");
    bytes.extend_from_slice(&u32::try_from(json.len()).expect("short").to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    for (rows, raw_len, compressed) in frames {
        bytes.extend_from_slice(&u32::try_from(compressed.len()).expect("short").to_le_bytes());
        bytes.extend_from_slice(&rows.to_le_bytes());
        bytes.extend_from_slice(&raw_len.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(compressed).to_le_bytes());
        bytes.extend_from_slice(compressed);
    }
    let end = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&totals.rows.rows.to_le_bytes());
    bytes.extend_from_slice(&totals.raw_bytes.to_le_bytes());
    bytes.extend_from_slice(&totals.rows.digest.0.to_le_bytes());
    bytes.extend_from_slice(&totals.locations.0.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes[end..]).to_le_bytes());
    bytes
}

fn compress(raw: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(raw, 1).expect("it compresses")
}

fn raw_rows() -> Vec<u8> {
    rows().iter().flat_map(wire).collect()
}

#[test]
fn the_bytes_are_those_that_the_format_describes() {
    let raw = raw_rows();
    let stated = totals(&rows(), raw.len() as u64);
    let raw_len = u32::try_from(raw.len()).expect("short");
    let assembled = assemble(1, &[(4, raw_len, compress(&raw))], stated);
    assert_eq!(write(&rows()), (assembled, stated));
}

#[test]
fn a_row_is_laid_out_as_bincode_1_has_it() {
    let row = Row {
        uid: "ab".to_owned(),
        created_at_micros: -2,
        location: Some("ż".to_owned()),
        size: Some(0x0102),
        defect: Some(RowDefect::LocationTooLong),
    };
    let by_hand = [
        2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', // uid
        0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, // created_at
        1, 2, 0, 0, 0, 0, 0, 0, 0, 0xC5, 0xBC, // location
        1, 2, 1, 0, 0, 0, 0, 0, 0, // size
        1, 2, 0, 0, 0, // defect
    ];
    assert_eq!(wire(&row), by_hand);
    let (bytes, stated) = write(std::slice::from_ref(&row));
    let raw_len = u32::try_from(by_hand.len()).expect("short");
    assert_eq!(bytes, assemble(1, &[(1, raw_len, compress(&by_hand))], stated));

    let bare = Row { location: None, size: None, defect: None, ..row };
    let by_hand = [
        2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0,
    ];
    assert_eq!(wire(&bare), by_hand);
}

#[test]
fn every_truncation_and_every_flipped_byte_is_an_error() {
    let (bytes, _totals) = write(&rows());
    assert!(read(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(read(&longer).is_err(), "something follows the end");
    let mut object = bytes.clone();
    for at in 0..bytes.len() {
        for pattern in 1..=255 {
            object[at] ^= pattern;
            assert!(read(&object).is_err(), "byte {at} xor {pattern:#04x}");
            object[at] ^= pattern;
        }
    }
}

#[test]
fn a_frame_that_is_gone_or_repeated_is_an_error() {
    let raw = raw_rows();
    let raw_len = u32::try_from(raw.len()).expect("short");
    let frame = (4, raw_len, compress(&raw));
    let stated = totals(&rows(), raw.len() as u64);
    assert!(read(&assemble(1, std::slice::from_ref(&frame), stated)).is_ok());
    assert!(read(&assemble(1, &[], stated)).is_err());
    assert!(read(&assemble(1, &[frame.clone(), frame], stated)).is_err());
}

#[test]
fn versions_are_refused_by_name() {
    let newer = read(&assemble(9, &[], ManifestTotals::default())).expect_err("newer");
    assert_eq!(newer, DocumentError::Newer { what: "manifest", found: 9, known: 1 });
    let text = newer.to_string();
    assert!(text.contains("manifest has version 9") && text.contains("version 1"), "{text}");
    let oldest = read(&assemble(0, &[], ManifestTotals::default())).expect_err("no such version");
    assert!(oldest.to_string().contains("version 0"), "{oldest}");
}

#[test]
fn made_up_lengths_are_refused() {
    let raw = raw_rows();
    let raw_len = u32::try_from(raw.len()).expect("short");
    let refused = |rows, raw_len, compressed| {
        let totals = ManifestTotals::default();
        read(&assemble(1, &[(rows, raw_len, compressed)], totals)).expect_err("refused").to_string()
    };
    assert!(refused(u32::MAX, raw_len, compress(&raw)).contains("larger than any writer"));
    assert!(refused(4, u32::MAX, compress(&raw)).contains("larger than any writer"));
    assert!(refused(3, raw_len, compress(&raw)).contains("more than its rows"));
    refused(5, raw_len, compress(&raw));
    assert!(refused(4, raw_len + 1, compress(&raw)).contains("another length"));
    refused(4, raw_len - 1, compress(&raw));
    refused(4, raw_len, raw);
    // A string of more than 2^63 bytes, one of more than 2^32, and one longer than its frame.
    for (at, byte) in [(7, 0x80), (4, 1), (0, 255)] {
        let mut row = wire(&rows()[0]);
        row[at] = byte;
        let len = u32::try_from(row.len()).expect("short");
        refused(1, len, compress(&row));
    }
    // An option that is neither there nor not, and a variant that does not exist.
    let mut tags = wire(&rows()[2]);
    let option_at = 8 + 1 + 8;
    assert_eq!(tags[option_at], 0, "no location");
    tags[option_at] = 2;
    refused(1, u32::try_from(tags.len()).expect("short"), compress(&tags));
    let mut variant = wire(&rows()[2]);
    let variant_at = variant.len() - 4;
    variant[variant_at] = 3;
    refused(1, u32::try_from(variant.len()).expect("short"), compress(&variant));
    // 100 MB of zeros in a few KB.
    let bomb = compress(&vec![0; 100 << 20]);
    refused(1, 500_000, bomb);
}

#[test]
fn rows_are_visited_at_their_positions_and_a_range_is_halved_without_loss() {
    let (bytes, _) = write(&rows());
    let range = RowRange { first: 1, rows: 2 };
    let mut visited = Vec::new();
    let reader = ManifestReader::new(&bytes).expect("it opens");
    let visit = |position, row: RowRef<'_>| {
        if range.contains(position) {
            visited.push(row.to_row());
        }
    };
    reader.visit(visit).expect("it reads");
    assert_eq!(visited, rows()[1..3]);

    for rows in 2..70 {
        let [first, second] = RowRange { first: 9, rows }.halves().expect("two halves");
        assert_eq!((first.first, first.rows + second.rows), (9, rows));
        assert_eq!(second.first, first.first + first.rows);
        assert!(first.rows - second.rows <= 1 && second.rows > 0);
        let both = (0..100).filter(|&row| first.contains(row) || second.contains(row)).count();
        assert_eq!(both as u64, rows);
    }
    assert_eq!(RowRange { first: 9, rows: 1 }.halves(), None);
}
