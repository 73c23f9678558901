//! Which form a table's `created_at` is in: every row is looked at, and all must agree.

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::error::{BackendError, Result};

use super::form::{TimeForm, Unit};
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
/// DISTINCT, since it keeps one entry per kind, where GROUP BY would sort the whole table.
///
/// # Errors
/// `Invalid` when the rows are of several forms, or one that cannot be used, with an example of
/// the rarest.
pub(super) async fn detect(connection: &mut SqliteConnection, table: &Table) -> Result<Detected> {
    let action = format!("looking at the form of {}", table.created_at);
    let sql = format!(
        "SELECT DISTINCT {} FROM {} WHERE {} LIMIT {KINDS_IN_A_MESSAGE}",
        kind_sql(&table.created_at),
        table.from,
        table.has_keys()
    );
    let kinds: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| table.failed(&action, error))?;
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
    let mut examples = Vec::new();
    for kind in &kinds {
        examples.push(example(connection, table, kind).await?);
    }
    Err(refusal(table, examples))
}

/// What the values of one kind are like.
struct Example {
    kind: String,
    rows: i64,
    value: String,
    uid: String,
}

async fn example(connection: &mut SqliteConnection, table: &Table, kind: &str) -> Result<Example> {
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
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(kind)
        .fetch_one(connection)
        .await
        .map_err(|error| table.failed("looking for an example row", error))?;
    Ok(Example {
        kind: kind.to_owned(),
        rows: super::rows::integer(&row, 0).unwrap_or_default(),
        uid: super::rows::shown(&row, 2),
        value: super::rows::shown(&row, 3),
    })
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
