//! The table as the database has it, and the pieces of SQL that follow from it.

use rusqlite::{Connection, params};

use crate::catalog::CatalogTable;
use crate::catalog::names::{column_candidates, quote, table_candidates, what_exists};
use crate::error::{BackendError, Result};

use super::failure::meaning;

/// The table with its columns, found under the configured names.
///
/// Columns are named with their table: a lone `"created_at"` would, in SQLite, be the text
/// created_at where there is no such column (any more).
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// For a person: `the catalog in /data/files.db`.
    pub(super) database: String,
    /// The table, quoted, for FROM.
    pub(super) from: String,
    pub(super) uid: String,
    pub(super) created_at: String,
    pub(super) location: String,
    pub(super) size: Option<String>,
    /// The column alone, quoted, for messages with SQL.
    pub(super) created_at_name: String,
    /// As declared, for a person.
    pub(super) uid_type: String,
    pub(super) created_at_type: String,
    /// Whether an index, or the table itself, begins with `created_at`.
    pub(super) created_at_indexed: bool,
    /// Whether an index, or the table itself, begins with the uid.
    pub(super) uid_indexed: bool,
}

/// One column, as the database has it.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type, as declared.
    pub(super) declared: String,
    /// Place in the primary key, from 1; 0 outside.
    key: i64,
}

impl Column {
    fn shown_type(&self) -> String {
        if self.declared.is_empty() { "no type".to_owned() } else { self.declared.clone() }
    }
}

impl Table {
    /// Finds the table and its columns.
    ///
    /// # Errors
    /// `NotFound` with what there is instead.
    pub(super) fn find(
        connection: &Connection,
        database: &str,
        names: &CatalogTable,
    ) -> Result<Self> {
        let lookup = Lookup { database, names };
        let table = lookup.table(connection)?;
        let columns = lookup.columns(connection, &table)?;
        let find = |wanted: &str| lookup.column(&table, &columns, wanted);
        let (uid, created_at) = (find(&names.uid)?, find(&names.created_at)?);
        let location = find(&names.location)?;
        let size = names.size.as_deref().map(find).transpose()?;
        let quoted = quote(&table);
        let of_table = |column: &Column| format!("{quoted}.{}", quote(&column.name));
        Ok(Self {
            database: database.to_owned(),
            uid: of_table(uid),
            created_at: of_table(created_at),
            location: of_table(location),
            size: size.map(of_table),
            created_at_name: quote(&created_at.name),
            uid_type: uid.shown_type(),
            created_at_type: created_at.shown_type(),
            created_at_indexed: lookup.is_indexed(connection, &table, &columns, created_at)?,
            uid_indexed: lookup.is_indexed(connection, &table, &columns, uid)?,
            from: quoted,
        })
    }

    /// Another column of the table.
    ///
    /// # Errors
    /// `NotFound` with what there is instead.
    pub(super) fn column(
        connection: &Connection,
        (database, names): (&str, &CatalogTable),
        wanted: &str,
    ) -> Result<Column> {
        let lookup = Lookup { database, names };
        let table = lookup.table(connection)?;
        let columns = lookup.columns(connection, &table)?;
        lookup.column(&table, &columns, wanted).cloned()
    }

    /// The condition that a row has a uid and a `created_at`.
    pub(super) fn has_keys(&self) -> String {
        format!("{} IS NOT NULL AND {} IS NOT NULL", self.uid, self.created_at)
    }

    /// The condition of lying in a range, whose bounds are the first two parameters.
    pub(super) fn in_range(&self) -> String {
        format!("{0} > ?1 AND {0} <= ?2", self.created_at)
    }

    /// The number of rows in a range that have a uid.
    ///
    /// With both columns indexed, the rows that have none are taken off: each number comes from an
    /// index alone, where looking at the uid of every row would read all the table.
    pub(super) fn count_sql(&self) -> String {
        let Self { uid, from, .. } = self;
        let range = self.in_range();
        if self.created_at_indexed && self.uid_indexed {
            format!(
                "SELECT (SELECT count(*) FROM {from} WHERE {range}) \
                 - (SELECT count(*) FROM {from} WHERE {uid} IS NULL AND {range})"
            )
        } else {
            format!("SELECT count(*) FROM {from} WHERE {range} AND {uid} IS NOT NULL")
        }
    }

    /// What the error means, where `action` failed on this table's database.
    pub(super) fn failed(&self, action: &str, error: rusqlite::Error) -> BackendError {
        meaning(&format!("{}: {action}", self.database), error)
    }
}

struct Lookup<'a> {
    database: &'a str,
    names: &'a CatalogTable,
}

impl Lookup<'_> {
    fn failed(&self, error: rusqlite::Error) -> BackendError {
        let action = format!("looking for the table `{}`", self.names.table);
        meaning(&format!("{}: {action}", self.database), error)
    }

    /// The table's own spelling of the name; SQLite's names have no case.
    fn table(&self, connection: &Connection) -> Result<String> {
        let existing = connection
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
                 AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
            )
            .and_then(|mut named| {
                let names = named.query_map([], |row| row.get::<_, String>(0))?;
                names.collect::<rusqlite::Result<Vec<_>>>()
            })
            .map_err(|error| self.failed(error))?;
        let wanted = &self.names.table;
        table_candidates(wanted)
            .iter()
            .filter_map(|parts| match parts.as_slice() {
                [table] => Some(table),
                [schema, table] if schema.eq_ignore_ascii_case("main") => Some(table),
                _ => None,
            })
            .find_map(|name| {
                let same = |other: &&String| other.eq_ignore_ascii_case(name);
                existing.iter().find(|other| *other == name).or(existing.iter().find(same))
            })
            .cloned()
            .ok_or_else(|| BackendError::NotFound {
                what: format!(
                    "there is no table `{wanted}` in {}; {}",
                    self.database,
                    what_exists(wanted, existing.iter().map(String::as_str))
                ),
            })
    }

    /// All columns, also generated ones, but not those that virtual tables hide.
    fn columns(&self, connection: &Connection, table: &str) -> Result<Vec<Column>> {
        connection
            .prepare("SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1")
            .and_then(|mut listed| {
                let columns = listed.query_map([table], |row| {
                    Ok(Column { name: row.get(0)?, declared: row.get(1)?, key: row.get(2)? })
                })?;
                columns.collect()
            })
            .map_err(|error| self.failed(error))
    }

    fn column<'c>(&self, table: &str, columns: &'c [Column], wanted: &str) -> Result<&'c Column> {
        column_candidates(wanted)
            .iter()
            .find_map(|name| columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)))
            .ok_or_else(|| BackendError::NotFound {
                what: format!(
                    "the table {table} in {} has no column `{wanted}`; {}",
                    self.database,
                    what_exists(wanted, columns.iter().map(|column| column.name.as_str()))
                ),
            })
    }

    fn is_indexed(
        &self,
        connection: &Connection,
        table: &str,
        columns: &[Column],
        column: &Column,
    ) -> Result<bool> {
        // An INTEGER PRIMARY KEY is the order of the table itself, and is listed as no index.
        let alone = columns.iter().filter(|column| column.key > 0).count() == 1;
        if alone && column.key == 1 && column.declared.eq_ignore_ascii_case("INTEGER") {
            return Ok(true);
        }
        connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) AS list, \
                   pragma_index_info(list.name) AS info \
                 WHERE list.partial = 0 AND info.seqno = 0 AND info.name = ?2 COLLATE NOCASE)",
                params![table, column.name],
                |row| row.get(0),
            )
            .map_err(|error| self.failed(error))
    }
}
