//! What the server says about the table, the session and the other sessions.

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

/// What the server says about transactions of others.
#[derive(Clone, Copy, Debug, Default)]
struct Transactions {
    /// When the oldest of those that can be seen began.
    oldest: Option<DateTime<Utc>>,
    /// Whether there are sessions that do not show whether they are in one.
    some_hidden: bool,
    /// Whether it is a standby, where those of the primary are not seen.
    in_recovery: bool,
}

/// When the oldest transaction began that could still write rows.
///
/// Our own sessions cannot: they are read-only. A prepared transaction counts from when it was
/// prepared; when it began is not known any more.
pub(super) async fn oldest_transaction(server: &Server) -> Result<Option<Timestamp>> {
    // Of a session of another user everything is NULL that this role may not see, its kind as well.
    let question = sqlx::query_as(
        "WITH others AS ( \
           SELECT xact_start, usesysid FROM pg_stat_activity \
           WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND coalesce(backend_type, '') NOT IN \
               ('autovacuum worker', 'autovacuum launcher', 'walsender') \
             AND NOT (application_name = $1 AND usename = current_user)) \
         SELECT (SELECT min(began) FROM ( \
             SELECT xact_start FROM others \
             UNION ALL \
             SELECT prepared FROM pg_prepared_xacts WHERE database = current_database() \
           ) AS open (began)) AS oldest, \
           NOT pg_has_role('pg_read_all_stats', 'USAGE') AND EXISTS (SELECT 1 FROM others \
             WHERE usesysid IS NOT NULL AND NOT pg_has_role(usesysid, 'USAGE')) AS some_hidden, \
           pg_is_in_recovery() AS in_recovery",
    )
    .bind(APPLICATION_NAME)
    .fetch_one(server.pool());
    let (oldest, some_hidden, in_recovery): (Option<DateTime<Utc>>, bool, bool) =
        server.quick("looking for open transactions", question).await?;
    let seen = Transactions { oldest, some_hidden, in_recovery };
    oldest_of(seen, server.name(), server.user())
}

/// Nothing is guessed: where some cannot be seen, nobody knows which is the oldest. Pure.
fn oldest_of(seen: Transactions, server: &str, user: &str) -> Result<Option<Timestamp>> {
    let (cure, why) = match seen {
        Transactions { in_recovery: true, .. } => (
            "let database.url name the primary".to_owned(),
            "it is a standby, which does not show transactions of its primary".to_owned(),
        ),
        Transactions { some_hidden: true, .. } => (
            format!("GRANT pg_read_all_stats TO {user}"),
            format!("the user {user} may not see when other users' transactions began"),
        ),
        Transactions { oldest, .. } => return Ok(oldest.and_then(Timestamp::from_chrono)),
    };
    Err(BackendError::Denied {
        what: format!(
            "{server}: with a lag under a day, open transactions are waited for, and they cannot be \
             seen; {cure}, or set des_archive_config.lag_days to 1 or more"
        ),
        cause: why.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_not_taken_for_nothing() {
        let oldest = DateTime::from_timestamp(1_733_000_000, 0);
        let seen = Transactions { oldest, ..Transactions::default() };
        let ask = |seen| oldest_of(seen, "the catalog", "ada");
        assert_eq!(ask(seen).expect("it is seen"), oldest.and_then(Timestamp::from_chrono));
        assert_eq!(ask(Transactions::default()).expect("there is none"), None);
        for (seen, cure) in [
            (Transactions { some_hidden: true, ..seen }, "GRANT pg_read_all_stats TO ada"),
            (Transactions { in_recovery: true, ..seen }, "name the primary"),
        ] {
            let refusal = ask(seen).expect_err("some are hidden");
            assert!(matches!(refusal, BackendError::Denied { .. }), "{refusal}");
            for told in [cure, "lag_days to 1 or more"] {
                assert!(refusal.to_string().contains(told), "{refusal}");
            }
        }
    }
}
