//! The table as the database has it, and the pieces of SQL that follow from it.

use protocol::{Timestamp, Window};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::catalog::CatalogTable;
use crate::catalog::batch::LAST_PLACEABLE;
use crate::catalog::names::{find_column, quote, table_candidates, what_exists};
use crate::error::{BackendError, Result};

use super::server::Server;

/// Ordinary and partitioned tables, views, materialised views, foreign tables.
const RELATION_KINDS: &str = "('r', 'p', 'v', 'm', 'f')";

/// Object identifiers of the built-in types, which never change
/// (`src/include/catalog/pg_type.dat`).
mod oid {
    pub(super) const INTEGERS: [i64; 3] = [21, 23, 20];
    pub(super) const NUMERIC: i64 = 1700;
    pub(super) const TEXT: i64 = 25;
    pub(super) const VARCHAR: i64 = 1043;
    pub(super) const CHAR: i64 = 1042;
    pub(super) const UUID: i64 = 2950;
    pub(super) const DATE: i64 = 1082;
    pub(super) const TIMESTAMP: i64 = 1114;
    pub(super) const TIMESTAMPTZ: i64 = 1184;
}

/// The type of `created_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeType {
    /// `timestamp with time zone`.
    Zoned,
    /// `timestamp without time zone`, read as UTC.
    Local,
    /// `date`, read as its midnight in UTC.
    Date,
}

impl TimeType {
    /// The time as a literal of this type, which no setting of the session changes the meaning of.
    ///
    /// For `date` the time's day: a midnight lies after a time exactly when its date lies after
    /// that time's day, and so for "not after".
    fn literal(self, time: Timestamp) -> String {
        format!("'{}'::{}", self.text(time), self.name())
    }

    /// The text of such a literal.
    pub(super) fn text(self, time: Timestamp) -> String {
        let format = match self {
            Self::Zoned => "%Y-%m-%d %H:%M:%S%.6f+00",
            Self::Local => "%Y-%m-%d %H:%M:%S%.6f",
            Self::Date => "%Y-%m-%d",
        };
        time.to_chrono().format(format).to_string()
    }

    /// The type, as the server calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Zoned => "timestamptz",
            Self::Local => "timestamp",
            Self::Date => "date",
        }
    }
}

/// One column, as the database has it.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) number: i16,
    /// As a person reads it: `character varying(40)`.
    pub(super) type_name: String,
    /// The type, or what it is a domain over.
    type_oid: i64,
    not_null: bool,
}

/// The table with its columns, found under the configured names.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// For a person: `public.files`.
    pub(super) name: String,
    pub(super) oid: i64,
    /// Schema and table, quoted, so that nothing depends on the search path any more.
    pub(super) quoted: String,
    pub(super) uid: Column,
    pub(super) created_at: Column,
    pub(super) location: Column,
    pub(super) size: Option<Column>,
}

impl Table {
    /// Finds the table and its columns.
    ///
    /// # Errors
    /// `NotFound` with what there is instead.
    pub(super) async fn find(server: &Server, names: &CatalogTable) -> Result<Self> {
        let doing = format!("looking for the table `{}`", names.table);
        let relation = server.quick(&doing, find_relation(server, &names.table)).await?;
        let Some((oid, schema, table)) = relation else {
            let existing = server.quick(&doing, list_relations(server)).await?;
            return Err(BackendError::NotFound {
                what: format!(
                    "there is no table `{}` in {}; {}",
                    names.table,
                    server.name(),
                    what_exists(&names.table, existing.iter().map(String::as_str))
                ),
            });
        };
        let columns = server.quick(&doing, list_columns(server, oid)).await?;
        let name = format!("{schema}.{table}");
        let find = |wanted: &str| column_of(server, (&name, &columns), wanted);
        Ok(Self {
            uid: find(&names.uid)?,
            created_at: find(&names.created_at)?,
            location: find(&names.location)?,
            size: names.size.as_deref().map(find).transpose()?,
            quoted: format!("{}.{}", quote(&schema), quote(&table)),
            name,
            oid,
        })
    }

    /// Another column of the table.
    ///
    /// # Errors
    /// `NotFound` with what there is instead.
    pub(super) async fn column(&self, server: &Server, wanted: &str) -> Result<Column> {
        let doing = format!("looking for the column `{wanted}` of {}", self.name);
        let columns = server.quick(&doing, list_columns(server, self.oid)).await?;
        column_of(server, (&self.name, &columns), wanted)
    }

    /// The columns in use.
    pub(super) fn columns(&self) -> impl Iterator<Item = &Column> {
        [&self.uid, &self.created_at, &self.location].into_iter().chain(self.size.as_ref())
    }

    /// Checks that every column's type can be used.
    ///
    /// # Errors
    /// `Invalid`, naming the column, its type and what it may be.
    pub(super) fn time_type(&self) -> Result<TimeType> {
        let refused = |column: &Column, supported: &str| BackendError::Invalid {
            what: format!(
                "the column `{}` of {} is of type {}, which cannot be used here; it may be \
                 {supported}. A view that casts it will do",
                column.name, self.name, column.type_name
            ),
        };
        let is_text = |column: &Column| [oid::TEXT, oid::VARCHAR].contains(&column.type_oid);
        let is_number = |column: &Column| {
            oid::INTEGERS.contains(&column.type_oid) || column.type_oid == oid::NUMERIC
        };
        let uid = &self.uid;
        if !(is_text(uid) || is_number(uid) || [oid::CHAR, oid::UUID].contains(&uid.type_oid)) {
            return Err(refused(uid, "text, varchar, char, uuid, an integer or numeric"));
        }
        if !is_text(&self.location) {
            return Err(refused(&self.location, "text or varchar"));
        }
        if let Some(size) = self.size.as_ref().filter(|size| !is_number(size)) {
            return Err(refused(size, "an integer or numeric"));
        }
        match self.created_at.type_oid {
            oid::TIMESTAMPTZ => Ok(TimeType::Zoned),
            oid::TIMESTAMP => Ok(TimeType::Local),
            oid::DATE => Ok(TimeType::Date),
            _ => Err(refused(&self.created_at, "timestamptz, timestamp or date")),
        }
    }

    /// The condition of lying in `(after, until]`.
    fn in_range(&self, time: TimeType, after: Timestamp, until: Timestamp) -> String {
        let column = quote(&self.created_at.name);
        format!("{column} > {} AND {column} <= {}", time.literal(after), time.literal(until))
    }

    /// The one statement that reads a window.
    pub(super) fn scan_sql(&self, time: TimeType, window: Window) -> String {
        let size = self.size.as_ref().map_or_else(String::new, |size| {
            let name = quote(&size.name);
            // A numeric may hold what no size can be, and the cast would end the statement.
            if size.type_oid == oid::NUMERIC {
                format!(", CASE WHEN {} THEN {name}::bigint END", is_size(&name))
            } else {
                format!(", {name}::bigint")
            }
        });
        format!(
            "COPY (SELECT {uid}::text, {created_at}, {location}::text{size} FROM {table} \
             WHERE {range} AND {uid} IS NOT NULL) TO STDOUT (FORMAT BINARY)",
            uid = quote(&self.uid.name),
            created_at = quote(&self.created_at.name),
            location = quote(&self.location.name),
            table = self.quoted,
            range = self.in_range(time, window.start(), window.end()),
        )
    }

    /// Number of rows, and the sum of their sizes as text (NULL without a size column).
    pub(super) fn count_sql(
        &self,
        time: TimeType,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> String {
        let bytes = self.size.as_ref().map_or_else(
            || "NULL::text".to_owned(),
            |size| {
                let name = quote(&size.name);
                format!(
                    "least(trunc(coalesce(sum({name}::numeric) FILTER (WHERE {}), 0)), \
                     {})::text",
                    is_size(&name),
                    u64::MAX
                )
            },
        );
        let (table, range) = (&self.quoted, self.in_open_range(time, after, until));
        format!("SELECT count(*), {bytes} FROM {table} WHERE {range} AND {}", self.has_uid())
    }

    /// Number of rows. Where every row has a uid by declaration, an index on `created_at` is all
    /// that the server needs.
    pub(super) fn count_files_sql(
        &self,
        time: TimeType,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> String {
        let (table, range) = (&self.quoted, self.in_open_range(time, after, until));
        let counted = format!("SELECT count(*) FROM {table} WHERE {range}");
        if self.uid.not_null { counted } else { format!("{counted} AND {}", self.has_uid()) }
    }

    /// The condition of lying in `(after, until]`, unbounded where `None`.
    fn in_open_range(
        &self,
        time: TimeType,
        after: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> String {
        let after = after.unwrap_or(Timestamp::MIN);
        self.in_range(time, after, until.unwrap_or(LAST_PLACEABLE).min(LAST_PLACEABLE))
    }

    fn has_uid(&self) -> String {
        format!("{} IS NOT NULL", quote(&self.uid.name))
    }

    /// The smallest `created_at` after `after`, as a timestamp of UTC without zone.
    pub(super) fn oldest_sql(&self, time: TimeType, after: Option<Timestamp>) -> String {
        let created_at = quote(&self.created_at.name);
        let in_utc = match time {
            TimeType::Zoned => "AT TIME ZONE 'UTC'",
            TimeType::Local | TimeType::Date => "",
        };
        format!(
            "SELECT (min({created_at}) {in_utc})::timestamp FROM {} WHERE {} AND {} IS NOT NULL",
            self.quoted,
            self.in_range(time, after.unwrap_or(Timestamp::MIN), LAST_PLACEABLE),
            quote(&self.uid.name)
        )
    }

    /// Rows with a NULL uid, of the others those with a NULL `created_at`, of the others those
    /// that lie in no window; in one pass.
    pub(super) fn unplaceable_sql(&self, time: TimeType) -> String {
        let (uid, created_at) = (quote(&self.uid.name), quote(&self.created_at.name));
        format!(
            "SELECT count(*) FILTER (WHERE {uid} IS NULL), \
             count(*) FILTER (WHERE {uid} IS NOT NULL AND {created_at} IS NULL), \
             count(*) FILTER (WHERE {uid} IS NOT NULL AND NOT ({range})) FROM {table}",
            range = self.in_range(time, Timestamp::MIN, LAST_PLACEABLE),
            table = self.quoted
        )
    }
}

fn column_of(server: &Server, (table, columns): (&str, &[Column]), wanted: &str) -> Result<Column> {
    find_column(wanted, columns, |column| &column.name).cloned().ok_or_else(|| {
        BackendError::NotFound {
            what: format!(
                "the table {table} in {} has no column `{wanted}`; {}",
                server.name(),
                what_exists(wanted, columns.iter().map(|column| column.name.as_str()))
            ),
        }
    })
}

/// Negative sizes, and those that fit no 64 bits, are not sizes: they are not summed, and the
/// row's is not checked.
fn is_size(column: &str) -> String {
    format!("{column} BETWEEN 0 AND {}", i64::MAX)
}

async fn find_relation(server: &Server, name: &str) -> sqlx::Result<Option<(i64, String, String)>> {
    let mut connection = server.pool().acquire().await?;
    // A third part would be the database; a connection sees only its own.
    for parts in table_candidates(name).into_iter().filter(|parts| parts.len() <= 2) {
        let quoted: Vec<String> = parts.iter().map(|part| quote(part)).collect();
        if let Some(found) = resolve(&mut connection, &quoted.join(".")).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

async fn resolve(
    connection: &mut PgConnection,
    quoted: &str,
) -> sqlx::Result<Option<(i64, String, String)>> {
    let sql = format!(
        "SELECT c.oid::bigint, n.nspname::text, c.relname::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = to_regclass($1) AND c.relkind IN {RELATION_KINDS}"
    );
    sqlx::query_as(AssertSqlSafe(sql)).bind(quoted).fetch_optional(connection).await
}

async fn list_relations(server: &Server) -> sqlx::Result<Vec<String>> {
    let sql = format!(
        "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname::text \
                ELSE n.nspname || '.' || c.relname END \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN {RELATION_KINDS} AND NOT c.relispartition \
           AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
         ORDER BY 1 LIMIT 1000"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(server.pool()).await
}

async fn list_columns(server: &Server, table: i64) -> sqlx::Result<Vec<Column>> {
    let rows: Vec<(String, i16, String, i64, bool)> = sqlx::query_as(
        "SELECT a.attname::text, a.attnum, format_type(a.atttypid, a.atttypmod), \
                coalesce(nullif(t.typbasetype, 0), t.oid)::bigint, a.attnotnull \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(table)
    .fetch_all(server.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|(name, number, type_name, type_oid, not_null)| Column {
            name,
            number,
            type_name,
            type_oid,
            not_null,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_carry_every_microsecond_and_four_digits_of_year() {
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        let zoned = |text| TimeType::Zoned.literal(time(text));
        assert_eq!(
            zoned("2024-12-01T10:20:30.000001Z"),
            "'2024-12-01 10:20:30.000001+00'::timestamptz"
        );
        assert_eq!(zoned("0076-02-03"), "'0076-02-03 00:00:00.000000+00'::timestamptz");
        assert_eq!(
            TimeType::Local.literal(Timestamp::MAX),
            "'9999-12-31 23:59:59.999999'::timestamp"
        );
        assert_eq!(TimeType::Date.literal(time("1969-12-31T23:59:59.9Z")), "'1969-12-31'::date");
    }
}
