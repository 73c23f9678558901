//! The section `sync_archived`: a column of the catalog that says which files are archived.

use std::time::Duration;

use backends::catalog::{MAX_MARKED_AT_ONCE, Mark};

use super::load::ConfigError;
use super::raw::{Lenient, RawSyncArchived, Span};
use super::urls::DatabaseUrl;
use super::validate::{Complaints, database_url};

/// How the column is kept.
#[derive(Clone, Debug)]
pub(crate) struct SyncArchivedConfig {
    /// The catalog's database, as a role that may write the column.
    pub(crate) database: DatabaseUrl,
    pub(crate) mark: Mark,
    pub(crate) batch_rows: usize,
    pub(crate) rows_per_second: u64,
    /// How often the coordinator does it; `None`: only at the command's word.
    pub(crate) every: Option<Duration>,
}

pub(super) fn sync_archived(
    complain: &Complaints<'_>,
    raw: RawSyncArchived,
) -> Result<SyncArchivedConfig, ConfigError> {
    let url = database_url(complain, "sync_archived.url", raw.url.as_ref())?;
    let database = url.ok_or_else(|| {
        let why = "it is required: the catalog's database, as a role that may UPDATE the column. \
                   Nothing else of des writes the catalog, so database.url is not used for it";
        complain.at("sync_archived.url", why)
    })?;
    let column = raw.column.filter(|column| !column.is_empty()).ok_or_else(|| {
        complain.at("sync_archived.column", "it is required: the column that is to be set")
    })?;
    let value = raw.value.map_or_else(|| "true".to_owned(), |Lenient(value)| value);
    let rows = raw.batch_rows.map_or(1_000, |Lenient(rows)| rows);
    let most = MAX_MARKED_AT_ONCE as u64;
    let batch_rows = usize::try_from(rows).ok().filter(|_| (1..=most).contains(&rows));
    let batch_rows = batch_rows.ok_or_else(|| {
        complain.at("sync_archived.batch_rows", format!("it must lie in 1..{most}"))
    })?;
    let rate = raw.max_rows_per_second.map_or(1_000, |Lenient(rows)| rows);
    let rows_per_second = complain.positive("sync_archived.max_rows_per_second", rate)?;
    let every = raw.every.map(|Span(every)| every).filter(|every| !every.is_zero());
    let mark = Mark { column, value };
    Ok(SyncArchivedConfig { database, mark, batch_rows, rows_per_second, every })
}
