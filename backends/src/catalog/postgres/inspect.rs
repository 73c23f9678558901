//! What the server says about the table, the session and the other sessions.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use protocol::Timestamp;

use crate::catalog::CatalogReport;
use crate::error::{BackendError, Result};

use super::server::{APPLICATION_NAME, Server};
use super::table::{Column, Table};

/// Looks at everything that a report holds.
pub(super) async fn inspect(server: &Server, table: &Table) -> Result<CatalogReport> {
    table.time_type()?;
    check_readable(server, table).await?;
    let action = format!("looking at the table {}", table.name);
    let settings = sqlx::query_as(
        "SELECT current_setting('server_version'), \
                (SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'), \
                has_table_privilege($1::oid, 'INSERT, UPDATE, DELETE, TRUNCATE')",
    )
    .bind(table.oid)
    .fetch_one(server.pool());
    let (version, statement_timeout, writable): (String, i64, bool) =
        server.quick(&action, settings).await?;
    Ok(CatalogReport {
        server: format!("PostgreSQL {version}"),
        uid_type: table.uid.type_name.clone(),
        created_at_type: table.created_at.type_name.clone(),
        created_at_indexed: server.quick(&action, is_indexed(server, table)).await?,
        writable,
        statement_timeout_millis: u64::try_from(statement_timeout).ok().filter(|&limit| limit > 0),
    })
}

async fn check_readable(server: &Server, table: &Table) -> Result<()> {
    let action = format!("checking the privileges on {}", table.name);
    for Column { name, number, .. } in table.columns() {
        let question = sqlx::query_scalar("SELECT has_column_privilege($1::oid, $2, 'SELECT')")
            .bind(table.oid)
            .bind(number)
            .fetch_one(server.pool());
        if !server.quick::<bool>(&action, question).await? {
            return Err(BackendError::Denied {
                what: format!(
                    "{}: the user {user} may not read the column `{name}` of {table}; GRANT SELECT \
                     ON {table} TO {user}",
                    server.name(),
                    user = server.user(),
                    table = table.name
                ),
                cause: "no SELECT privilege".into(),
            });
        }
    }
    Ok(())
}

/// Whether a range of `created_at` can be read without the rest: some whole, valid index of a kind
/// that knows ranges begins with it.
async fn is_indexed(server: &Server, table: &Table) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM pg_index i \
           JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam \
           WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL \
             AND i.indkey[0] = $2 AND m.amname IN ('btree', 'brin'))",
    )
    .bind(table.oid)
    .bind(table.created_at.number)
    .fetch_one(server.pool())
    .await
}

/// When the oldest transaction began that could still write rows.
///
/// Our own sessions cannot: they are read-only. Nor can anything on a standby, where those of the
/// primary are not seen. A prepared transaction counts from when it was prepared; when it began
/// is not known any more.
pub(super) async fn oldest_transaction(
    server: &Server,
    told: &AtomicBool,
) -> Result<Option<Timestamp>> {
    let question = sqlx::query_as(
        "WITH others AS ( \
           SELECT xact_start, usesysid, backend_type FROM pg_stat_activity \
           WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND backend_type NOT IN ('autovacuum worker', 'autovacuum launcher', 'walsender') \
             AND NOT (application_name = $1 AND usename = current_user)) \
         SELECT (SELECT min(began) FROM ( \
             SELECT xact_start FROM others \
             UNION ALL \
             SELECT prepared FROM pg_prepared_xacts WHERE database = current_database() \
           ) AS open (began) WHERE NOT pg_is_in_recovery()), \
           NOT (pg_has_role('pg_read_all_stats', 'USAGE') \
             OR (SELECT coalesce(bool_and(pg_has_role(usesysid, 'USAGE')), true) FROM others \
                 WHERE backend_type = 'client backend'))",
    )
    .bind(APPLICATION_NAME)
    .fetch_one(server.pool());
    let (oldest, some_hidden): (Option<DateTime<Utc>>, bool) =
        server.quick("looking for open transactions", question).await?;
    if some_hidden && !told.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            catalog = server.name(),
            user = server.user(),
            "cannot see when other users' transactions began; GRANT pg_read_all_stats to this \
             user, or keep lag_days well above the longest transaction"
        );
    }
    Ok(oldest.and_then(Timestamp::from_chrono))
}
