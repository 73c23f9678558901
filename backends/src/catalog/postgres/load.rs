//! How busy the server is: short questions, each in a transaction that only reads and that the server
//! ends when it takes long.

use sqlx::{AssertSqlSafe, Postgres, Transaction};

use crate::catalog::{LOAD_ROWS, LoadCheck, bare, largest};
use crate::error::{BackendError, Result};

use super::server::{APPLICATION_NAME, Server};

/// In this transaction. The wait for an answer ends later.
const LIMIT: &str = "SET LOCAL statement_timeout = 5000";
/// query_canceled
const CANCELLED: &str = "57014";

/// Seconds, and what keeps them from being known. Of a standby that is not streaming and has not told
/// its lag, nothing is known but that it is behind; nor of one that has something to replay and has replayed
/// no transaction yet.
const REPLICATION_LAG: &str = "\
    SELECT CASE WHEN pg_is_in_recovery() THEN \
        CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END \
      ELSE (SELECT max(coalesce(extract(epoch FROM replay_lag), 0)) FROM pg_stat_replication \
        WHERE state IN ('streaming', 'catchup')) END::float8, \
    CASE WHEN pg_is_in_recovery() THEN \
        CASE WHEN pg_last_xact_replay_timestamp() IS NULL \
          AND pg_last_wal_receive_lsn() <> pg_last_wal_replay_lsn() THEN 'begins' END \
      WHEN (SELECT count(*) FROM pg_stat_replication WHERE state IS NULL) > 0 THEN 'hidden' \
      WHEN (SELECT count(*) FROM pg_stat_replication \
        WHERE state = 'catchup' AND replay_lag IS NULL) > 0 THEN 'catching up' END";

/// Sessions at work, and sessions of which we may not see whether they are.
const ACTIVE_CONNECTIONS: &str = "\
    SELECT count(*) FILTER (WHERE backend_type = 'client backend' AND state <> 'idle')::float8, \
      count(*) FILTER (WHERE query = '<insufficient privilege>') \
    FROM pg_stat_activity WHERE usesysid IS NOT NULL AND pid <> pg_backend_pid() \
      AND NOT (application_name = $1 AND usename = current_user)";

/// Asks.
pub(super) async fn measure(server: &Server, check: LoadCheck<'_>) -> Result<f64> {
    let action = match check {
        LoadCheck::Query(_) => "running the throttle query",
        LoadCheck::ReplicationLag => "asking for the replication lag",
        LoadCheck::ActiveConnections => "counting active connections",
    };
    let ask = async {
        let mut transaction = server.pool().begin().await?;
        sqlx::query(LIMIT).execute(&mut *transaction).await?;
        let answer = answer(&mut transaction, check).await?;
        transaction.rollback().await?;
        Ok(answer)
    };
    let taking_long = |error: &sqlx::Error| {
        error.as_database_error().and_then(|it| it.code()).is_some_and(|code| code == CANCELLED)
    };
    let asked = server.quick(
        action,
        Box::pin(async {
            match ask.await {
                Err(error) if taking_long(&error) => Ok(Err(error)),
                answer => answer.map(Ok),
            }
        }),
    );
    let what = || format!("{}: {action}", server.name());
    match asked.await? {
        Ok(Answer::Numbers(texts)) => largest(&what(), texts.into_iter()),
        Ok(Answer::Number(number)) => Ok(number),
        Ok(Answer::NoStandby) => Err(BackendError::Invalid {
            what: format!(
                "{}: no standby is connected, so that nobody knows how far it is behind",
                what()
            ),
        }),
        Ok(Answer::NotYet(why)) => {
            Err(BackendError::Unavailable { what: what(), cause: why.into() })
        }
        Ok(Answer::Hidden) => Err(BackendError::Denied {
            what: format!(
                "{}: the user {user} may not see it; GRANT pg_read_all_stats TO {user}",
                what(),
                user = server.user()
            ),
            cause: "some sessions are hidden".into(),
        }),
        Err(error) => Err(BackendError::Unavailable { what: what(), cause: error.into() }),
    }
}

enum Answer {
    Numbers(Vec<Option<String>>),
    Number(f64),
    NoStandby,
    /// What will pass.
    NotYet(&'static str),
    Hidden,
}

async fn answer(
    transaction: &mut Transaction<'static, Postgres>,
    check: LoadCheck<'_>,
) -> sqlx::Result<Answer> {
    match check {
        LoadCheck::Query(query) => {
            let sql = format!(
                "SELECT answer.value::text FROM (\n{}\n) AS answer (value) LIMIT {LOAD_ROWS}",
                bare(query)
            );
            let asked = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut **transaction);
            Ok(Answer::Numbers(asked.await?))
        }
        LoadCheck::ReplicationLag => {
            let asked = sqlx::query_as(REPLICATION_LAG).fetch_one(&mut **transaction);
            let (seconds, unknown): (Option<f64>, Option<String>) = asked.await?;
            Ok(match (seconds, unknown.as_deref()) {
                (_, Some("hidden")) => Answer::Hidden,
                (_, Some("begins")) => {
                    Answer::NotYet("this standby is behind and has replayed no transaction yet")
                }
                (_, Some(_)) => Answer::NotYet("a standby is catching up and tells no lag yet"),
                (Some(seconds), None) => Answer::Number(seconds),
                (None, None) => Answer::NoStandby,
            })
        }
        LoadCheck::ActiveConnections => {
            let asked = sqlx::query_as(ACTIVE_CONNECTIONS).bind(APPLICATION_NAME);
            let (active, hidden): (f64, i64) = asked.fetch_one(&mut **transaction).await?;
            Ok(if hidden > 0 { Answer::Hidden } else { Answer::Number(active) })
        }
    }
}
