//! SQLite: the promises that concern the forms of its times.

use backends::catalog::SqliteCatalog;
use backends::{BackendError, Catalog};
use protocol::Timestamp;

use crate::fixture::{at, by_uid, scan, uids, widest, window};
use crate::sqlite::SqliteFixture;

/// Every form, in the declarations that people use, with a row at each side of a bound.
#[tokio::test]
async fn every_form_is_read_exactly() {
    let fixture = SqliteFixture::empty().await;
    let instants = [
        "2024-11-30T23:59:59.999999Z",
        "2024-12-01T00:00:00Z",
        "2024-12-01T00:00:00.000001Z",
        "2024-12-01T00:00:01Z",
        "2024-12-01T00:00:01.100100Z",
        "2024-12-02T00:00:00Z",
        "2024-12-02T00:00:00.001Z",
        "1969-12-31T23:59:58.000500Z",
        "0076-01-01T00:00:00Z",
    ];
    let mut forms: Vec<(String, String, i64)> =
        vec![("'%Y-%m-%d'".into(), "TEXT".into(), 86_400_000_000)];
    for separator in ["T", " "] {
        for digits in 0..=6_u32 {
            for zone in ["", "Z", "+00:00", "+00"] {
                let fraction = if digits == 0 { String::new() } else { format!("%.{digits}f") };
                // chrono knows %.3f, %.6f and %.9f; the others are cut from it below.
                let form = format!("'%Y-%m-%d{separator}%H:%M:%S{fraction}{zone}'");
                let declared = ["TEXT", "DATETIME", "", "TIMESTAMP"][forms.len() % 4];
                forms.push((form, declared.into(), 10_i64.pow(6 - digits)));
            }
        }
    }
    for (form, declared, step) in forms {
        let held: Vec<Timestamp> = instants
            .iter()
            .map(|text| {
                let time = at(text);
                time.saturating_add_micros(-time.as_micros().rem_euclid(step))
            })
            .collect();
        let values: Vec<String> = held.iter().map(|time| render(*time, &form)).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        fixture.table_of(&declared, &values).await;
        check_windows(&fixture.catalog().await, &held, &form).await;
    }
}

#[tokio::test]
async fn integers_of_every_unit_are_read_exactly() {
    let fixture = SqliteFixture::empty().await;
    for (unit, times) in [
        (1_000_000, ["1970-01-01", "2024-12-01", "2024-12-01T00:00:01Z", "1969-12-31T23:59:59Z"]),
        (1_000, ["1970-01-01", "2024-12-01", "2024-12-01T00:00:00.001Z", "1960-01-01"]),
        (1, ["1970-01-01", "2024-12-01", "2024-12-01T00:00:00.000001Z", "1960-01-01"]),
    ] {
        let held = times.map(at);
        let values: Vec<String> =
            held.iter().map(|time| time.as_micros().div_euclid(unit).to_string()).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        for declared in ["INTEGER", "TIMESTAMP", ""] {
            fixture.table_of(declared, &values).await;
            check_windows(&fixture.catalog().await, &held, "integers").await;
        }
    }
}

/// A form of chrono's, with fractions of any number of digits, as an SQL literal.
fn render(time: Timestamp, form: &str) -> String {
    let micros = format!("{:06}", time.as_micros().rem_euclid(1_000_000));
    let form = (1..=6).fold(form.to_owned(), |form, digits| {
        form.replace(&format!("%.{digits}f"), &format!(".{}", &micros[..digits]))
    });
    time.to_chrono().format(&form).to_string()
}

/// Row `n` is at `held[n]`: every window that begins or ends at or beside a row holds what it must.
async fn check_windows(catalog: &SqliteCatalog, held: &[Timestamp], form: &str) {
    let report = catalog.inspect().await.expect("a report");
    let shown = &report.created_at_type;
    assert!(shown.contains("as YYYY-MM-DD") || shown.contains("seconds since 1970"), "{shown}");
    let starts: Vec<Timestamp> =
        held.iter().flat_map(|time| [-1, 0].map(|by| time.saturating_add_micros(by))).collect();
    let end = at("2024-12-02");
    for start in starts.into_iter().filter(|start| *start < end) {
        let window = protocol::Window::new(start, end).expect("a window");
        let rows = by_uid(catalog, window).await;
        for (n, time) in held.iter().enumerate() {
            let row = rows.get(&n.to_string());
            assert_eq!(row.is_some(), window.contains(*time), "{form}: {time} in {window}");
            assert!(row.is_none_or(|row| row.created_at() == *time), "{form}: {time}");
        }
        let count = catalog.count(Some(start), Some(end)).await.expect("a count");
        assert_eq!(usize::try_from(count.files), Ok(rows.len()), "{form}: {window}");
        let oldest = held.iter().copied().filter(|time| *time > start).min();
        assert_eq!(catalog.oldest_after(Some(start)).await.expect("an answer"), oldest, "{form}");
    }
    assert_eq!(catalog.unplaceable().await.expect("an answer").total(), 0, "{form}");
}

#[tokio::test]
async fn mixed_forms_are_refused_with_the_rarest_row() {
    let fixture = SqliteFixture::empty().await;
    for (values, rare, row) in [
        (
            &["'2024-12-01T00:00:00Z'", "'2024-12-02T00:00:00Z'", "'2024-12-03 00:00:00'"][..],
            "'2024-12-03 00:00:00'",
            "uid '2'",
        ),
        (&["'2024-12-01'", "'2024-12-01T00:00:00'", "'2024-12-02'"], "T00:00:00'", "uid '1'"),
        (&["'2024-12-01T00:00:00.1Z'", "'2024-12-01T00:00:00.12Z'"], ".12Z'", "uid '1'"),
        (&["'2024-12-01'", "1733011200", "'2024-12-02'"], "1733011200", "uid '1'"),
        (&["1733011200", "1733011200000", "1733011201"], "1733011200000", "uid '1'"),
        (&["'2024-12-01'", "0", "'2024-12-01'"], "1 like 0", "uid '1'"),
        (&["'2024-12-01T00:00:00+00:00'", "'2024-12-01T00:00:00+02:00'"], "+02:00'", "uid '1'"),
    ] {
        fixture.table_of("", values).await;
        let text = fixture.refusal().await;
        assert!(text.contains(rare) && text.contains(row), "{text}");
        assert!(text.contains("UPDATE"), "{text}");
    }
    // What has no uid is in no window, and does not matter.
    fixture.table_of("TEXT", &["'2024-12-01'"]).await;
    fixture.execute("INSERT INTO files VALUES (NULL, 'whatever', '/x')").await;
    assert_eq!(uids(&fixture.catalog().await, widest()).await, ["0"]);
}

#[tokio::test]
async fn values_that_are_no_times_are_refused() {
    let fixture = SqliteFixture::empty().await;
    for value in [
        "'2024-12-01T00:00:00+02:00'",
        "'2024-12-01T00:00:00-00:00'",
        "'2024-12-01T00:00'",
        "'01.12.2024'",
        "'2024-12-01T00:00:00.1234567Z'",
        "'2024-12-01T00:00:00Z and more, more than forty characters'",
        "''",
        "1733011200.5",
        "x'32303234'",
        "1733011200000000000",
        "'1733011200'",
    ] {
        fixture.table_of("", &[value]).await;
        let text = fixture.refusal().await;
        assert!(text.contains("uid '0'"), "{value}: {text}");
    }
}

#[tokio::test]
async fn a_text_that_looks_like_a_date_but_is_none_is_found_by_the_scan() {
    let fixture = SqliteFixture::empty().await;
    for (values, start) in [
        (["'2024-12-01T00:00:00Z'", "'2024-13-01T00:00:00Z'"], "2024-12-31"),
        (["'2024-12-01T00:00:00Z'", "'2023-02-30T00:00:00Z'"], "2023-02-01"),
    ] {
        fixture.table_of("TEXT", &values).await;
        let catalog = fixture.catalog().await;
        let error = scan(&catalog, window(start, "2025-01-01")).await.expect_err("a refusal");
        assert!(matches!(error, BackendError::Invalid { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("`1`") && text.contains(values[1].trim_matches('\'')), "{text}");
        let error = catalog.oldest_after(Some(at(start))).await.expect_err("a refusal");
        assert!(error.to_string().contains("uid '1'"), "{error}");
    }
    // The zero of MySQL is no date either, and before all windows.
    fixture.table_of("TEXT", &["'2024-12-01 00:00:00'", "'0000-00-00 00:00:00'"]).await;
    let catalog = fixture.catalog().await;
    assert_eq!(uids(&catalog, widest()).await, ["0"]);
    assert_eq!(catalog.unplaceable().await.expect("an answer").out_of_range, 1);
}

#[tokio::test]
async fn rows_that_come_later_in_another_form_are_noticed() {
    let fixture = SqliteFixture::empty().await;
    fixture.table_of("", &["'2024-12-01T00:00:00Z'"]).await;
    let catalog = fixture.catalog().await;
    fixture.execute("INSERT INTO files VALUES ('late', '2024-12-01T10:00:00.5Z', '/x')").await;
    let error = scan(&catalog, window("2024-12-01", "2024-12-02")).await.expect_err("a refusal");
    assert!(error.to_string().contains("`late`"), "{error}");
    assert!(catalog.inspect().await.is_err());
    fixture.execute("UPDATE files SET created_at = 1733011200 WHERE uid = 'late'").await;
    assert_eq!(catalog.unplaceable().await.expect("an answer").out_of_range, 1);
}

#[tokio::test]
async fn a_form_is_looked_for_until_rows_tell() {
    let fixture = SqliteFixture::empty().await;
    for values in [&[][..], &["0"], &["NULL"]] {
        fixture.table_of("", values).await;
        let catalog = fixture.catalog().await;
        let expected: &[&str] = if values == ["0"] { &["0"] } else { &[] };
        assert_eq!(uids(&catalog, window("1969-12-31", "1970-01-01")).await, expected);
        let report = catalog.inspect().await.expect("a report");
        assert!(report.created_at_type.contains("without rows"), "{}", report.created_at_type);
        fixture.execute("INSERT INTO files VALUES ('new', 1733011200001, '/x')").await;
        let rows = by_uid(&catalog, window("2024-11-01", "2025-01-01")).await;
        assert_eq!(rows["new"].created_at(), at("2024-12-01T00:00:00.001Z"));
        // From now on the form is known.
        assert_eq!(catalog.count(Some(at("2024-01-01")), None).await.expect("a count").files, 1);
    }
}
