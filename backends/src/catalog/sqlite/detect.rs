//! Which form a table's `created_at` is in: every row is looked at, and all must agree.

use rusqlite::Connection;

use crate::error::{BackendError, Result};

use super::form::{TimeForm, Unit};
use super::rows::{integer, shown, value};
use super::table::Table;

/// Kinds of values listed in a refusal.
const KINDS_IN_A_MESSAGE: usize = 6;
/// The longest text that is looked at: longer than any form.
const LONGEST_TEXT: usize = 40;
const TEXT: &str = "text ";
const ZERO: &str = "integer 0";

/// What the rows of a table have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    /// All rows are of this form.
    Form(TimeForm),
    /// All rows are the integer 0, which is 1970 in every unit.
    OnlyZeroes,
    /// There are no rows.
    Nothing,
}

/// Looks at every row that has a uid and a `created_at`.
///
/// Tables in one form are the rule. One row tells which, and whether all others agree is seen in
/// their values; only where one does not, all kinds there are have to be told apart.
///
/// # Errors
/// `Invalid` when the rows are of several forms, or one that cannot be used, with an example of
/// the rarest.
pub(super) fn detect(connection: &Connection, table: &Table) -> Result<Detected> {
    if let Some(form) = first_form(connection, table)?
        && all_hold(connection, table, form)?
    {
        return Ok(Detected::Form(form));
    }
    tell_apart(connection, table)
}

/// The form that some row is in.
fn first_form(connection: &Connection, table: &Table) -> Result<Option<TimeForm>> {
    Ok(kinds(connection, table, 1)?.first().and_then(|kind| form_of_kind(kind)))
}

/// Whether every `created_at` is of this form, and be it of a row without a uid: so an index is
/// enough, where there is one.
fn all_hold(connection: &Connection, table: &Table, form: TimeForm) -> Result<bool> {
    let Table { created_at, from, .. } = table;
    let sql = format!("SELECT {created_at} FROM {from} WHERE {created_at} IS NOT NULL");
    let of_form = form.test();
    let look = || {
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if !of_form(row.get_ref(0)?) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    look().map_err(|error| table.failed(&action(table), error))
}

/// Lists the kinds there are, and says what follows.
fn tell_apart(connection: &Connection, table: &Table) -> Result<Detected> {
    let kinds = kinds(connection, table, KINDS_IN_A_MESSAGE)?;
    let telling: Vec<&String> = kinds.iter().filter(|kind| kind.as_str() != ZERO).collect();
    match telling.as_slice() {
        [] if kinds.is_empty() => return Ok(Detected::Nothing),
        [] => return Ok(Detected::OnlyZeroes),
        [kind] => {
            let form = form_of_kind(kind);
            let zeroes_fit = kinds.len() == 1 || matches!(form, Some(TimeForm::Integer(_)));
            if let Some(form) = form.filter(|_| zeroes_fit) {
                return Ok(Detected::Form(form));
            }
        }
        _ => {}
    }
    let examples: Result<Vec<Example>> =
        kinds.iter().map(|kind| example(connection, table, kind)).collect();
    Err(refusal(table, examples?))
}

fn action(table: &Table) -> String {
    format!("looking at the form of {}", table.created_at)
}

/// The kinds of values in the rows that have a uid and a `created_at`, up to `limit`.
///
/// DISTINCT, since it keeps one entry per kind, where GROUP BY would sort the whole table.
fn kinds(connection: &Connection, table: &Table, limit: usize) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT DISTINCT {} FROM {} WHERE {} LIMIT {limit}",
        kind_sql(&table.created_at),
        table.from,
        table.has_keys()
    );
    let list = || {
        let mut statement = connection.prepare(&sql)?;
        let kinds = statement.query_map([], |row| row.get(0))?;
        kinds.collect::<rusqlite::Result<_>>()
    };
    list().map_err(|error| table.failed(&action(table), error))
}

/// What the values of one kind are like.
struct Example {
    kind: String,
    rows: i64,
    value: String,
    uid: String,
}

fn example(connection: &Connection, table: &Table, kind: &str) -> Result<Example> {
    // Beside min(), bare columns are of the row that has the minimum:
    // <https://www.sqlite.org/lang_select.html#bareagg>
    let sql = format!(
        "SELECT count(*), min({created_at}), quote({uid}), quote({created_at}) \
         FROM {from} WHERE {keys} AND {kind} = ?",
        created_at = table.created_at,
        uid = table.uid,
        from = table.from,
        keys = table.has_keys(),
        kind = kind_sql(&table.created_at),
    );
    connection
        .query_row(&sql, [kind], |row| {
            Ok(Example {
                kind: kind.to_owned(),
                rows: integer(value(row, 0)).unwrap_or_default(),
                uid: shown(value(row, 2)),
                value: shown(value(row, 3)),
            })
        })
        .map_err(|error| table.failed("looking for an example row", error))
}

fn refusal(table: &Table, mut examples: Vec<Example>) -> BackendError {
    examples.sort_by(|a, b| (a.rows, &a.kind).cmp(&(b.rows, &b.kind)));
    let listed: Vec<String> = examples
        .iter()
        .map(|Example { kind, rows, value, uid }| {
            format!("{rows} like {value} ({}; for example the row with uid {uid})", describe(kind))
        })
        .collect();
    BackendError::Invalid {
        what: format!(
            "{}: the values of {} cannot be compared as times; found {}. All must be in one form: \
             texts such as 2024-12-01, 2024-12-01 10:20:30 or 2024-12-01T10:20:30.123Z in UTC, or \
             integers since 1970. To bring texts into one form: UPDATE {} SET {} = \
             strftime('%Y-%m-%dT%H:%M:%fZ', {}) (which also turns offsets into UTC, and keeps milliseconds)",
            table.database,
            table.created_at,
            listed.join(", "),
            table.from,
            table.created_at_name,
            table.created_at_name,
        ),
    }
}

fn describe(kind: &str) -> String {
    match (kind.strip_prefix(TEXT), form_of_kind(kind)) {
        (Some(_), Some(_)) => "a text, usable alone".to_owned(),
        (Some(_), None) => "a text of no known form".to_owned(),
        (None, _) => kind.to_owned(),
    }
}

fn form_of_kind(kind: &str) -> Option<TimeForm> {
    match kind.strip_prefix(TEXT) {
        Some(pattern) => TimeForm::of_pattern(pattern),
        None => Unit::ALL
            .into_iter()
            .find(|unit| kind.strip_prefix("integer ") == Some(unit.name()))
            .map(TimeForm::Integer),
    }
}

/// An expression for the kind of a value: `text ` and the text with its digits replaced by 9s (but
/// for those of the zone), `integer ` and the unit that its magnitude suggests, or the type alone.
fn kind_sql(column: &str) -> String {
    let tail = format!("substr({column}, 20, {})", LONGEST_TEXT - 19);
    let zoned = |sign: char| {
        let at = format!("instr({tail}, '{sign}')");
        format!(
            "WHEN {at} > 0 THEN {} || substr({tail}, {at})",
            without_digits(&format!("substr({tail}, 1, {at} - 1)"))
        )
    };
    let units: String = Unit::ALL
        .map(|unit| {
            let (largest, name) = (unit.largest(), unit.name());
            format!("WHEN {column} BETWEEN -{largest} AND {largest} THEN 'integer {name}' ")
        })
        .concat();
    format!(
        "CASE typeof({column}) \
         WHEN 'text' THEN '{TEXT}' || {head} || CASE {plus} {minus} ELSE {rest} END \
           || CASE WHEN length({column}) > {LONGEST_TEXT} THEN '...' ELSE '' END \
         WHEN 'integer' THEN CASE WHEN {column} = 0 THEN '{ZERO}' {units} \
           ELSE 'integer too large for microseconds' END \
         ELSE typeof({column}) END",
        head = without_digits(&format!("substr({column}, 1, 19)")),
        plus = zoned('+'),
        minus = zoned('-'),
        rest = without_digits(&tail),
    )
}

fn without_digits(text: &str) -> String {
    (0..9).fold(text.to_owned(), |inner, digit| format!("replace({inner}, '{digit}', '9')"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::Timestamp;
    use rusqlite::types::Value;

    use crate::catalog::CatalogTable;
    use crate::catalog::sqlite::form::Stored;

    use super::*;

    fn patterns() -> impl Strategy<Value = TimeForm> {
        let pattern = prop::sample::select(vec![
            "9999-99-99",
            "9999-99-99 99:99:99",
            "9999-99-99T99:99:99Z",
            "9999-99-99T99:99:99.999999Z",
            "9999-99-99T99:99:99.9+00",
            "9999-99-99 99:99:99+00:00",
        ]);
        prop_oneof![
            pattern.prop_map(|pattern| TimeForm::of_pattern(pattern).expect("a form")),
            prop::sample::select(Unit::ALL.to_vec()).prop_map(TimeForm::Integer),
        ]
    }

    fn of_form(form: TimeForm) -> BoxedStrategy<Value> {
        if let TimeForm::Integer(unit) = form {
            let largest = unit.largest();
            let edge = prop::sample::select(vec![largest, -largest, 0, largest / 2 + 1]);
            return edge.prop_map(Value::Integer).boxed();
        }
        (Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros())
            .prop_map(move |micros| {
                match form.bound(Timestamp::from_micros(micros).expect("one")) {
                    Stored::Text(text) => Value::Text(text),
                    Stored::Integer(value) => Value::Integer(value),
                }
            })
            .boxed()
    }

    /// What is in no form, or in another than most: some of it looks like a form to one way of
    /// looking only.
    fn odd() -> impl Strategy<Value = Value> {
        let texts = [
            "",
            "1733011200",
            "2024-12-01x",
            "2024-12-01T00:00:00+02:00",
            "2024-12-01T00:00:00-00:00",
            "2024-12-01T00:00:00+99",
            "2024-12-01T00:00:00.1234567Z",
            "2024-13-41T77:00:00Z",
            "2024-12-01T00:00:00Z\0",
            "2024-12-01\0 10:00",
            "2024-12-01T00:00:00Z and more, more than forty characters",
            "٢٠٢٤-12-01",
            "yyyy-99-99",
        ];
        let largest = Unit::Microseconds.largest();
        let whole = vec![0, 0, 1, -1, largest + 1, i64::MIN, i64::MAX, 100_000_000_000];
        prop_oneof![
            prop::sample::select(texts.to_vec()).prop_map(|text| Value::Text(text.to_owned())),
            prop::sample::select(whole).prop_map(Value::Integer),
            Just(Value::Null),
            Just(Value::Real(1_733_011_200.0)),
            Just(Value::Blob(b"2024-12-01".to_vec())),
            patterns().prop_flat_map(of_form),
        ]
    }

    /// Mostly of one form, as tables are.
    fn mixtures() -> impl Strategy<Value = Vec<(Option<u32>, Value)>> {
        patterns().prop_flat_map(|form| {
            let value = prop_oneof![12 => of_form(form), 1 => odd()];
            let uid = prop_oneof![6 => any::<u32>().prop_map(Some), 1 => Just(None)];
            prop::collection::vec((uid, value), 0..8)
        })
    }

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_long_one_does(rows in mixtures(), indexed: bool) {
            let connection = Connection::open_in_memory().expect("a database");
            connection.execute_batch("CREATE TABLE files (uid, created_at, location)").expect("it");
            if indexed {
                connection.execute_batch("CREATE INDEX i ON files (created_at)").expect("an index");
            }
            for (uid, created_at) in rows {
                connection
                    .execute("INSERT INTO files VALUES (?, ?, '/x')", (uid, created_at))
                    .expect("a row");
            }
            let names = CatalogTable {
                table: "files".to_owned(),
                uid: "uid".to_owned(),
                created_at: "created_at".to_owned(),
                location: "location".to_owned(),
                size: None,
            };
            let table = Table::find(&connection, "the catalog", &names).expect("a table");
            let shown = |found: Result<Detected>| found.map_err(|error| error.to_string());
            let (short, long) = (detect(&connection, &table), tell_apart(&connection, &table));
            prop_assert_eq!(shown(short), shown(long));
        }
    }
}
