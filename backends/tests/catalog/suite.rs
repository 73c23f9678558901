//! The promises that every catalog keeps.

pub(crate) use crate::archived::*;

use backends::Catalog;
use backends::catalog::{
    CatalogTable, LoadCheck, RangeCount, RowBatch, SCAN_BATCH_BYTES, SCAN_BATCH_ROWS, Unplaceable,
};
use protocol::row::{MAX_LOCATION_BYTES, MAX_UID_BYTES, RowDefect};
use protocol::{Timestamp, Window};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::fixture::{
    File, Fixture, PATIENCE, Shape, at, by_uid, file, scan, uids, widest, window,
};

async fn with_files<F: Fixture>(shape: Shape, files: &[File]) -> (F, Box<dyn Catalog>) {
    let names = shape.names();
    let fixture = F::create(shape).await;
    fixture.insert(files).await;
    let catalog = fixture.open(names).await.expect("a catalog");
    (fixture, catalog)
}

pub(crate) async fn a_window_holds_its_end_and_not_its_start<F: Fixture>() {
    let files = [
        file("before", "2024-11-30T23:59:59.999999Z"),
        file("on-start", "2024-12-01T00:00:00Z"),
        file("after-start", "2024-12-01T00:00:00.000001Z"),
        file("inside", "2024-12-01T12:34:56.789012Z"),
        file("before-end", "2024-12-01T23:59:59.999999Z"),
        file("on-end", "2024-12-02T00:00:00Z"),
        file("after-end", "2024-12-02T00:00:00.000001Z"),
    ];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    let rows = by_uid(&*catalog, window("2024-12-01", "2024-12-02")).await;
    let found: Vec<(&str, Timestamp)> =
        rows.iter().map(|(uid, row)| (uid.as_str(), row.created_at())).collect();
    assert_eq!(
        found,
        [
            ("after-start", at("2024-12-01T00:00:00.000001Z")),
            ("before-end", at("2024-12-01T23:59:59.999999Z")),
            ("inside", at("2024-12-01T12:34:56.789012Z")),
            ("on-end", at("2024-12-02T00:00:00Z")),
        ]
    );
    let inside = &rows["inside"];
    assert_eq!(inside.location.as_deref(), Some("/data/inside"));
    assert_eq!((inside.size, inside.defect), (Some(10), None));
    let narrow = window("2024-12-01T12:34:56.789011Z", "2024-12-01T12:34:57Z");
    assert_eq!(uids(&*catalog, narrow).await, ["inside"]);
    let just_after = window("2024-12-01T12:34:56.789012Z", "2024-12-01T12:34:57Z");
    assert!(uids(&*catalog, just_after).await.is_empty());
    fixture.remove().await;
}

pub(crate) async fn windows_side_by_side_hold_every_row_once<F: Fixture>() {
    let instants: Vec<Timestamp> = ["0001-01-02", "0999-06-01", "1969-12-31", "1970-01-01"]
        .into_iter()
        .chain(["2024-02-29", "2024-03-31T01:30:00Z", "2024-11-03T06:30:00Z", "9999-12-31"])
        .flat_map(|text| [-1, 0, 1].map(|micros| at(text).saturating_add_micros(micros)))
        .collect();
    let files: Vec<File> = instants
        .iter()
        .enumerate()
        .map(|(n, time)| file(&format!("{n:02}"), &time.to_string()))
        .collect();
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    let mut bounds: Vec<Timestamp> =
        instants.iter().copied().filter(|time| time.is_whole_second()).collect();
    bounds.insert(0, Timestamp::MIN);
    bounds.push(at("9999-12-31T23:59:59Z"));
    let mut seen = Vec::new();
    for pair in bounds.windows(2) {
        let window = Window::new(pair[0], pair[1]).expect("a window");
        for (uid, row) in by_uid(&*catalog, window).await {
            let number: usize = uid.parse().expect("a number");
            assert_eq!(row.created_at(), instants[number]);
            assert!(window.contains(row.created_at()));
            seen.push(number);
        }
        let count = catalog.count(Some(pair[0]), Some(pair[1])).await.expect("a count");
        let expected = instants.iter().filter(|time| window.contains(**time)).count();
        assert_eq!(count.files, u64::try_from(expected).expect("a number"));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..instants.len()).collect::<Vec<_>>());
    fixture.remove().await;
}

pub(crate) async fn nulls_are_counted_or_become_defects<F: Fixture>() {
    let mut files = vec![file("sound", "2024-12-01T01:00:00Z")];
    files.push(File { uid: None, ..file("x", "2024-12-01T02:00:00Z") });
    files.push(File { created_at: None, ..file("no-date-1", "2024-12-01") });
    files.push(File { created_at: None, ..file("no-date-2", "2024-12-01") });
    files.push(File { uid: None, created_at: None, ..File::default() });
    files.push(File { location: None, ..file("nowhere", "2024-12-01T03:00:00Z") });
    files.push(File { location: Some(String::new()), ..file("empty", "2024-12-01T04:00:00Z") });
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;

    let rows = by_uid(&*catalog, window("2024-12-01", "2024-12-02")).await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["empty", "nowhere", "sound"]);
    for uid in ["empty", "nowhere"] {
        assert_eq!((&rows[uid].location, rows[uid].defect), (&None, Some(RowDefect::NoLocation)));
    }
    let unplaceable = catalog.unplaceable().await.expect("an answer");
    assert_eq!(unplaceable, Unplaceable { null_uid: 2, null_created_at: 2, out_of_range: 0 });
    let count = catalog.count(None, None).await.expect("a count");
    assert_eq!(count, RangeCount { files: 3, bytes: Some(30) });
    assert_eq!(
        catalog.oldest_after(None).await.expect("an answer"),
        Some(at("2024-12-01T01:00:00Z"))
    );
    fixture.remove().await;
}

pub(crate) async fn any_text_comes_through_unchanged<F: Fixture>() {
    let texts = [
        "plain",
        "Zażółć gęślą jaźń",
        "日本語/ファイル",
        "👩‍👩‍👧‍👦",
        "e\u{301} and é",
        " spaces ",
        "tab\tnewline\nreturn\r",
        "quote'quote\"back\\slash",
        "%s ? $1 ; --",
        "\u{feff}bom",
        "",
    ];
    let files: Vec<File> = texts
        .iter()
        .map(|text| File { location: Some(format!("/d/{text}")), ..file(text, "2024-12-01T01:00") })
        .collect();
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    let rows = by_uid(&*catalog, window("2024-12-01", "2024-12-02")).await;
    assert_eq!(rows.len(), texts.len());
    for text in texts {
        assert_eq!(rows[text].location, Some(format!("/d/{text}")));
    }
    fixture.remove().await;
}

pub(crate) async fn long_uids_and_locations_become_defects<F: Fixture>() {
    let longest = "u".repeat(MAX_UID_BYTES);
    let too_long = "v".repeat(MAX_UID_BYTES + 1);
    let huge = "w".repeat(3 * 1024 * 1024);
    let longest_location = "l".repeat(MAX_LOCATION_BYTES);
    let too_long_location = "m".repeat(MAX_LOCATION_BYTES + 1);
    let located = |uid: &str, location: &str| File {
        location: Some(location.to_owned()),
        ..file(uid, "2024-12-01T01:00")
    };
    let files = [
        located(&longest, "/x"),
        located(&too_long, "/x"),
        located(&huge, "/x"),
        located("longest", &longest_location),
        located("too-long", &too_long_location),
    ];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    let rows = by_uid(&*catalog, window("2024-12-01", "2024-12-02")).await;
    assert_eq!(rows.len(), files.len());
    assert_eq!(rows[&longest].defect, None);
    assert_eq!(rows["longest"].location, Some(longest_location));
    assert_eq!(rows["too-long"].defect, Some(RowDefect::LocationTooLong));
    for letter in ["v", "w"] {
        let cut = rows.values().find(|row| row.uid.starts_with(letter)).expect("the row");
        assert_eq!(cut.defect, Some(RowDefect::UidTooLong));
        assert!(cut.uid.len() < 1_000);
    }
    fixture.remove().await;
}

pub(crate) async fn integer_uids_are_taken_as_text<F: Fixture>() {
    let shape = Shape { integer_uid: true, ..Shape::default() };
    let numbers = ["-1", "-9223372036854775808", "0", "42", "9223372036854775807"];
    let files = numbers.map(|uid| file(uid, "2024-12-01T01:00"));
    let (fixture, catalog) = with_files::<F>(shape, &files).await;
    let rows = by_uid(&*catalog, window("2024-12-01", "2024-12-02")).await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), numbers);
    fixture.remove().await;
}

pub(crate) async fn counts_and_sums_are_of_the_range<F: Fixture>() {
    let sized = |uid, time, size| File { size, ..file(uid, time) };
    let files = [
        sized("a", "2024-12-01T00:00:00Z", Some(1)),
        sized("b", "2024-12-01T00:00:00.000001Z", Some(20)),
        sized("c", "2024-12-02T00:00:00Z", None),
        sized("d", "2024-12-02T00:00:00.000001Z", Some(5_000_000_000)),
    ];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    let start = Some(at("2024-12-01"));
    let end = Some(at("2024-12-02"));
    for (after, until, files, bytes) in [
        (None, None, 4, 5_000_000_021),
        (start, None, 3, 5_000_000_020),
        (None, end, 3, 21),
        (start, end, 2, 20),
        (end, start, 0, 0),
        (None, start, 1, 1),
    ] {
        let count = catalog.count(after, until).await.expect("a count");
        assert_eq!(count, RangeCount { files, bytes: Some(bytes) }, "{after:?} {until:?}");
    }
    fixture.remove().await;
}

pub(crate) async fn files_are_counted_alone_as_beside_their_sizes<F: Fixture>() {
    let times = ["2024-12-01T00:00:00Z", "2024-12-01T00:00:00.000001Z", "2024-12-02T00:00:00Z"];
    let mut files: Vec<File> = times.iter().map(|time| file(time, time)).collect();
    files.extend(times.map(|time| File { uid: None, ..file("", time) }));
    files.push(File { created_at: None, ..file("d", times[0]) });
    for indexed in [false, true] {
        let shape = Shape { indexed, ..Shape::default() };
        let (fixture, catalog) = with_files::<F>(shape, &files).await;
        let bounds = [None, Some(at(times[0])), Some(at(times[1])), Some(at(times[2]))];
        for (after, until) in bounds.iter().flat_map(|a| bounds.iter().map(move |u| (*a, *u))) {
            let count = catalog.count(after, until).await.expect("a count");
            let alone = catalog.count_files(after, until).await.expect("a count");
            assert_eq!(alone, count.files, "{after:?} {until:?}");
        }
        assert_eq!(catalog.count_files(None, None).await.expect("a count"), 3);
        fixture.remove().await;
    }
}

pub(crate) async fn without_a_size_column_there_are_no_bytes<F: Fixture>() {
    let shape = Shape { with_size: false, ..Shape::default() };
    let (fixture, catalog) = with_files::<F>(shape, &[file("a", "2024-12-01T01:00")]).await;
    let count = catalog.count(None, None).await.expect("a count");
    assert_eq!(count, RangeCount { files: 1, bytes: None });
    assert_eq!(by_uid(&*catalog, widest()).await["a"].size, None);
    fixture.remove().await;
}

pub(crate) async fn sizes_that_are_none_are_not_checked<F: Fixture>() {
    let sized = |uid, size| File { size, ..file(uid, "2024-12-01T01:00") };
    let files = [
        sized("null", None),
        sized("negative", Some(-1)),
        sized("zero", Some(0)),
        sized("large", Some(1 << 40)),
    ];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    let rows = by_uid(&*catalog, widest()).await;
    assert_eq!((rows["null"].size, rows["negative"].size), (None, None));
    assert_eq!((rows["zero"].size, rows["large"].size), (Some(0), Some(1 << 40)));
    let count = catalog.count(None, None).await.expect("a count");
    assert_eq!(count.bytes, Some(1 << 40));
    fixture.remove().await;
}

pub(crate) async fn the_oldest_row_after_a_time_is_found<F: Fixture>() {
    let mut files = ["2024-12-03T00:00:00Z", "2024-12-01T00:00:00.000001Z", "2024-12-02T00:00:00Z"]
        .map(|time| file(time, time))
        .to_vec();
    files.push(File { uid: None, ..file("x", "2024-11-01") });
    files.push(File { created_at: None, ..file("y", "2024-11-01") });
    for indexed in [false, true] {
        let shape = Shape { indexed, ..Shape::default() };
        let (fixture, catalog) = with_files::<F>(shape, &files).await;
        for (after, oldest) in [
            (None, Some("2024-12-01T00:00:00.000001Z")),
            (Some("2024-12-01T00:00:00Z"), Some("2024-12-01T00:00:00.000001Z")),
            (Some("2024-12-01T00:00:00.000001Z"), Some("2024-12-02T00:00:00Z")),
            (Some("2024-12-02T00:00:00Z"), Some("2024-12-03T00:00:00Z")),
            (Some("2024-12-03T00:00:00Z"), None),
        ] {
            let found = catalog.oldest_after(after.map(at)).await.expect("an answer");
            assert_eq!(found, oldest.map(at), "after {after:?}");
        }
        fixture.remove().await;
    }
}

/// The smallest and the largest date of other systems are no dates of files.
pub(crate) async fn what_others_write_for_never_is_in_no_window<F: Fixture>() {
    let files = [
        file("min", "0001-01-01T00:00:00Z"),
        file("first", "0001-01-01T00:00:00.000001Z"),
        file("last", "9999-12-31T23:59:59Z"),
        file("max", "9999-12-31T23:59:59.999999Z"),
        File { uid: None, ..file("x", "0001-01-01T00:00:00Z") },
    ];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    assert_eq!(uids(&*catalog, widest()).await, ["first", "last"]);
    let unplaceable = catalog.unplaceable().await.expect("an answer");
    assert_eq!(unplaceable, Unplaceable { null_uid: 1, null_created_at: 0, out_of_range: 2 });
    assert_eq!(catalog.count(None, None).await.expect("a count").files, 2);
    let max = Some(Timestamp::MAX);
    assert_eq!(catalog.count(None, max).await.expect("a count").files, 2);
    let first = catalog.oldest_after(None).await.expect("an answer");
    assert_eq!(first, Some(at("0001-01-01T00:00:00.000001Z")));
    let after_last = catalog.oldest_after(Some(at("9999-12-31T23:59:59Z"))).await;
    assert_eq!(after_last.expect("an answer"), None);
    fixture.remove().await;
}

pub(crate) async fn an_empty_table_is_no_error<F: Fixture>() {
    let (fixture, catalog) = with_files::<F>(Shape::default(), &[]).await;
    assert!(uids(&*catalog, widest()).await.is_empty());
    let nothing = RangeCount { files: 0, bytes: Some(0) };
    assert_eq!(catalog.count(None, None).await.expect("a count"), nothing);
    assert_eq!(catalog.oldest_after(None).await.expect("an answer"), None);
    assert_eq!(catalog.unplaceable().await.expect("an answer").total(), 0);
    catalog.inspect().await.expect("a report");
    fixture.remove().await;
}

pub(crate) async fn names_that_need_quotes_are_found<F: Fixture>() {
    let shape = Shape {
        table: "Order \"Files\"; DROP",
        uid: "select",
        created_at: "Created At",
        location: "file's \"path\"",
        ..Shape::default()
    };
    let names = shape.names();
    let (fixture, catalog) = with_files::<F>(shape, &[file("a", "2024-12-01T01:00")]).await;
    assert_eq!(uids(&*catalog, widest()).await, ["a"]);
    assert_eq!(catalog.count(None, None).await.expect("a count").files, 1);
    assert!(catalog.oldest_after(None).await.expect("an answer").is_some());
    assert_eq!(catalog.unplaceable().await.expect("an answer").total(), 0);
    catalog.inspect().await.expect("a report");

    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let also = CatalogTable {
        table: quoted(&names.table),
        uid: quoted(&names.uid),
        created_at: quoted(&names.created_at),
        location: quoted(&names.location),
        size: names.size,
    };
    let catalog = fixture.open(also).await.expect("a catalog");
    assert_eq!(uids(&*catalog, widest()).await, ["a"]);
    fixture.remove().await;
}

pub(crate) async fn a_missing_table_or_column_is_named_with_what_there_is<F: Fixture>() {
    let shape = Shape::default();
    let names = shape.names();
    let fixture = F::create(shape).await;
    let refused = async |names: CatalogTable| {
        let refusal = fixture.open(names).await.err().expect("a refusal");
        assert!(refusal.is_not_found(), "{refusal}");
        refusal.to_string()
    };
    let text = refused(CatalogTable { table: "flies".into(), ..names.clone() }).await;
    assert!(text.contains("`flies`") && text.contains("did you mean `files`?"), "{text}");
    let text = refused(CatalogTable { created_at: "crated_at".into(), ..names.clone() }).await;
    assert!(text.contains("`crated_at`") && text.contains("did you mean `created_at`?"), "{text}");
    assert!(text.contains("`file_location`"), "{text}");
    let text = refused(CatalogTable { size: Some("bytes".into()), ..names.clone() }).await;
    assert!(text.contains("`bytes`") && text.contains("`size_bytes`"), "{text}");
    let text = refused(CatalogTable { table: "other.files".into(), ..names }).await;
    assert!(text.contains("`other.files`"), "{text}");
    fixture.remove().await;
}

pub(crate) async fn an_index_on_created_at_is_noticed<F: Fixture>() {
    for indexed in [false, true] {
        let shape = Shape { indexed, ..Shape::default() };
        let (fixture, catalog) = with_files::<F>(shape, &[file("a", "2024-12-01T01:00")]).await;
        let report = catalog.inspect().await.expect("a report");
        assert_eq!(report.created_at_indexed, indexed);
        assert_eq!(report.statement_timeout_millis, None);
        assert!(report.uid_type.eq_ignore_ascii_case("text"), "{}", report.uid_type);
        assert_eq!(uids(&*catalog, widest()).await, ["a"]);
        fixture.remove().await;
    }
}

pub(crate) async fn a_large_scan_is_complete_through_a_small_channel<F: Fixture>() {
    const ROWS: u32 = 100_000;
    let shape = Shape::default();
    let names = shape.names();
    let fixture = F::create(shape).await;
    fixture.fill(ROWS, 30).await;
    let catalog = fixture.open(names).await.expect("a catalog");
    let (sender, mut receiver) = mpsc::channel::<RowBatch>(1);
    let start = at("2024-12-01");
    let wanted = Window::new(start, at("2024-12-02")).expect("a window");
    let collect = async {
        let mut seen = vec![false; 86_401];
        while let Some(batch) = receiver.recv().await {
            assert!(!batch.is_empty() && batch.len() <= SCAN_BATCH_ROWS);
            for row in batch.iter() {
                let number: usize = row.uid.parse().expect("a number");
                assert_eq!(
                    row.created_at().seconds_since(start),
                    i64::try_from(number).expect("n")
                );
                assert_eq!(row.location.map(str::len), Some(30));
                assert!(!std::mem::replace(&mut seen[number], true), "row {number} came twice");
            }
        }
        seen
    };
    let (outcome, seen) = tokio::join!(catalog.scan(wanted, sender), collect);
    outcome.expect("a scan");
    assert!(!seen[0] && seen[1..].iter().all(|seen| *seen), "rows are missing");
    fixture.remove().await;
}

pub(crate) async fn batches_are_bounded_in_bytes<F: Fixture>() {
    let shape = Shape::default();
    let names = shape.names();
    let fixture = F::create(shape).await;
    fixture.fill(200, 60_000).await;
    let catalog = fixture.open(names).await.expect("a catalog");
    let (sender, mut receiver) = mpsc::channel::<RowBatch>(1);
    let collect = async {
        let mut rows = 0;
        while let Some(batch) = receiver.recv().await {
            let bytes: usize = batch.iter().map(|row| row.heap_bytes()).sum();
            assert!(bytes < SCAN_BATCH_BYTES + 70_000, "{bytes} bytes at once");
            rows += batch.len();
        }
        rows
    };
    let (outcome, rows) = tokio::join!(catalog.scan(widest(), sender), collect);
    outcome.expect("a scan");
    assert_eq!(rows, 200);
    fixture.remove().await;
}

pub(crate) async fn a_receiver_that_goes_ends_the_scan<F: Fixture>() {
    let shape = Shape::default();
    let names = shape.names();
    let fixture = F::create(shape).await;
    fixture.fill(100_000, 30).await;
    let catalog = fixture.open(names).await.expect("a catalog");
    for batches in [0, 1] {
        let (sender, mut receiver) = mpsc::channel(1);
        let take = async {
            for _ in 0..batches {
                receiver.recv().await.expect("a batch");
            }
            drop(receiver);
        };
        let scanning = async { tokio::join!(catalog.scan(widest(), sender), take) };
        let (outcome, ()) = timeout(PATIENCE, scanning).await.expect("an end");
        outcome.expect("no error");
    }
    assert_eq!(scan(&*catalog, widest()).await.expect("another scan").len(), 100_000);
    fixture.remove().await;
}

pub(crate) async fn a_second_scan_sees_new_rows<F: Fixture>() {
    let (fixture, catalog) =
        with_files::<F>(Shape::default(), &[file("a", "2024-12-01T01:00")]).await;
    assert_eq!(uids(&*catalog, widest()).await, ["a"]);
    fixture.insert(&[file("b", "2024-12-01T02:00")]).await;
    assert_eq!(uids(&*catalog, widest()).await, ["a", "b"]);
    fixture.remove().await;
}

pub(crate) async fn the_clock_is_now<F: Fixture>() {
    let (fixture, catalog) = with_files::<F>(Shape::default(), &[]).await;
    let here = Timestamp::from_chrono(std::time::SystemTime::now().into()).expect("a time");
    let there = catalog.now().await.expect("the clock");
    assert!(there.seconds_since(here).abs() < 60, "{there} is not {here}");
    fixture.remove().await;
}

pub(crate) async fn a_load_query_answers_its_largest_number<F: Fixture>() {
    let files = [file("a", "2024-12-01"), file("b", "2024-12-02")];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    for (query, expected) in [
        ("SELECT count(*) FROM files", 2.0),
        ("SELECT 3, 'of which only the first column counts';", 3.0),
        ("SELECT 1.5 -- a comment", 1.5),
        ("SELECT -4", 0.0),
        ("SELECT NULL", 0.0),
        ("SELECT 1 WHERE 1 = 0", 0.0),
        ("SELECT 1 UNION ALL SELECT 7 UNION ALL SELECT 2", 7.0),
        ("SELECT '12'", 12.0),
        ("SELECT 1 = 1", 1.0),
    ] {
        let measured = catalog.measure(LoadCheck::Query(query)).await;
        assert_eq!(measured.expect(query), expected, "{query}");
    }
    fixture.remove().await;
}

pub(crate) async fn a_load_query_that_cannot_run_says_why<F: Fixture>() {
    let files = [file("a", "2024-12-01"), file("b", "2024-12-02")];
    let (fixture, catalog) = with_files::<F>(Shape::default(), &files).await;
    for (query, told) in [
        ("SELECT busy FROM maintenance", "maintenance"),
        ("SELECT 'a while'", "no number"),
        ("SELEKT 1", "throttle query"),
        ("DELETE FROM files RETURNING 1", "throttle query"),
        ("SELECT 1) AS x; DELETE FROM files; SELECT (1", "throttle query"),
    ] {
        let measured = catalog.measure(LoadCheck::Query(query)).await;
        let why = measured.expect_err(query).to_string();
        assert!(why.contains(told), "{query}: {why}");
    }
    assert_eq!(catalog.count_files(None, None).await.expect("a count"), 2);
    fixture.remove().await;
}
