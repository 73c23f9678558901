//! The ledger in PostgreSQL: the fleet's.

use std::borrow::Cow;
use std::time::Duration;

use protocol::Job;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions};
use sqlx::{
    Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Postgres, SqlSafeStr,
};

use super::SqlLedger;
use super::migrations::{self, Step};
use super::record::Record;
use super::session::{Param, Pooled, Session};
use super::sql_ledger::CONNECT_LIMIT;
use crate::error::{BackendError, Result};
use crate::sql::{describe_postgres, postgres_options, sql_error};

/// The ledger of one job in a PostgreSQL database.
pub type PostgresLedger = SqlLedger<Postgres>;

/// One for the coordinator's decisions, one for its lease, two for operators' questions.
const MAX_CONNECTIONS: u32 = 4;

/// The longest that a statement waits for a lock, and that a transaction waits for its client; less
/// where the lease lasts less long.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(5);
const LONGEST_CLIENT_WAIT: Duration = Duration::from_secs(20);
/// The least of either, whatever the lease.
const LEAST_WAIT: Duration = Duration::from_millis(500);

/// What every session begins with. The server gives up on a statement before we do, so that the
/// error names the reason. Nobody may hold the lease's row through a frozen process for longer than
/// the lease lasts, nor keep it from being prolonged by waiting for another row. A connection whose
/// network is gone is noticed. Commits are durable even where the server's default is otherwise, and
/// times without a zone are UTC.
fn session_settings(lease_ttl: Duration) -> String {
    let lock_wait = (lease_ttl / 3).clamp(LEAST_WAIT, LONGEST_LOCK_WAIT).as_millis();
    let client_wait = lease_ttl.clamp(LEAST_WAIT, LONGEST_CLIENT_WAIT).as_millis();
    format!(
        "SET TIME ZONE 'UTC'; \
         SET lock_timeout = {lock_wait}; \
         SET statement_timeout = '20s'; \
         SET idle_in_transaction_session_timeout = {client_wait}; \
         SET default_transaction_isolation = 'read committed'; \
         SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES \
             ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), \
             ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '10000')) \
             AS network (setting_name, wanted) ON name = setting_name; \
         SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') = 'off'"
    )
}

/// Ends the session that has the lease row of job `$1` locked, when it has been waiting for its
/// client for `$2` microseconds: in a transaction, in the middle of a message, or with an answer
/// that nobody takes. The row's `xmax` is the transaction that locked it.
const END_STALLED: &str = "\
    SELECT count(pg_terminate_backend(session.pid)) AS ended \
    FROM des_lease AS lease \
    JOIN pg_locks AS held ON held.locktype = 'transactionid' AND held.granted \
        AND held.transactionid = lease.xmax \
    JOIN pg_stat_activity AS session ON session.pid = held.pid \
    WHERE lease.job = $1 AND session.wait_event_type = 'Client' \
        AND session.state_change <= clock_timestamp() - $2 * interval '1 microsecond' \
        AND pg_has_role(session.usesysid, 'MEMBER')";

const MIGRATIONS: &[Step] = &[
    (1, "ledger", include_str!("../../../migrations/postgres/0001_ledger.sql")),
    (2, "split", include_str!("../../../migrations/postgres/0002_split.sql")),
    (3, "revisions", include_str!("../../../migrations/postgres/0003_revisions.sql")),
    (4, "pause", include_str!("../../../migrations/postgres/0004_pause.sql")),
    (5, "stuck", include_str!("../../../migrations/postgres/0005_stuck.sql")),
    (6, "partition rows", include_str!("../../../migrations/postgres/0006_partition_rows.sql")),
    (7, "since", include_str!("../../../migrations/postgres/0007_since.sql")),
    (8, "throttle", include_str!("../../../migrations/postgres/0008_throttle.sql")),
    (9, "synced", include_str!("../../../migrations/postgres/0009_synced.sql")),
    (10, "source throttle", include_str!("../../../migrations/postgres/0010_source_throttle.sql")),
];

/// As the migrating library makes it.
const MIGRATIONS_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS _des_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL,
    checksum BYTEA NOT NULL,
    execution_time BIGINT NOT NULL
);";

/// The SQL that [`migrate`](super::Ledger::migrate) runs on an empty database, for those who run
/// it themselves.
pub fn migrations_sql() -> String {
    migrations::script(MIGRATIONS, MIGRATIONS_TABLE, |digits| format!("decode('{digits}', 'hex')"))
}

impl PostgresLedger {
    /// Connects to the database at `url` (`postgresql://`, `postgres://`,
    /// `postgresql+driver://`) for one job, whose watermark is row `config_id`. `lease_ttl` is how
    /// long its leaders' leases last: a transaction that waits for its client for as long is ended.
    ///
    /// # Errors
    /// When the URL cannot be read, or the server does not answer within ten seconds or refuses.
    pub async fn connect(url: &str, job: Job, config_id: i32, lease_ttl: Duration) -> Result<Self> {
        let settings = session_settings(lease_ttl);
        let options = postgres_options(url)?.application_name("des").disable_statement_logging();
        let description = describe_postgres(&options);
        probe(&options, &description).await?;
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(CONNECT_LIMIT)
            .after_connect(move |connection, _| {
                let settings = AssertSqlSafe(settings.clone());
                Box::pin(async move { sqlx::raw_sql(settings).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(Self { writer: pool.clone(), reader: pool, job, config_id, description })
    }
}

/// Connects once outside the pool, which would say of every obstacle only that time ran out.
async fn probe(options: &PgConnectOptions, description: &str) -> Result<()> {
    let what = format!("the ledger ({description}) could not be reached");
    match tokio::time::timeout(CONNECT_LIMIT, options.connect()).await {
        Ok(Ok(connection)) => {
            // It was only to be seen that it works.
            let _ = tokio::time::timeout(CONNECT_LIMIT, connection.close()).await;
            Ok(())
        }
        Ok(Err(error)) => Err(sql_error(what, error)),
        Err(elapsed) => Err(BackendError::Unavailable {
            what: format!("{what} within {} s; check host and port", CONNECT_LIMIT.as_secs()),
            cause: elapsed.into(),
        }),
    }
}

/// PostgreSQL's texts cannot hold NUL, which a text from elsewhere may.
fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}

fn arguments(params: &[Param<'_>]) -> sqlx::Result<PgArguments> {
    let mut arguments = PgArguments::default();
    for param in params {
        let added = match param {
            Param::Int(value) => arguments.add(value),
            Param::Bool(value) => arguments.add(value),
            Param::Text(text) => arguments.add(without_nul(text)),
            Param::OptText(text) => arguments.add(text.map(without_nul)),
            Param::Texts(texts) => arguments.add(*texts),
            Param::Time(time) | Param::Date(time) => arguments.add(time.to_chrono()),
            Param::OptInt(value) => arguments.add(value),
            Param::OptTime(time) => arguments.add(time.map(|time| time.to_chrono())),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// What the ledger does with each of its tables; with `$1`, the schema that they are made in and,
/// where they are there, their owner, whom upgrading takes. The watermark's table is never upgraded.
const LACKS: &str = "\
    WITH ours (name, privileges) AS (VALUES \
        ('_des_migrations', '{SELECT}'::text[]), \
        ('des_archive_config', '{SELECT,UPDATE}'), \
        ('des_archives', '{SELECT,INSERT,UPDATE}'), \
        ('des_lease', '{SELECT,INSERT,UPDATE}'), \
        ('des_windows', '{SELECT,INSERT,UPDATE,DELETE}'), \
        ('des_partitions', '{SELECT,INSERT,UPDATE,DELETE}'), \
        ('des_passes', '{SELECT,INSERT,UPDATE,DELETE}'), \
        ('des_looks', '{SELECT,INSERT,UPDATE,DELETE}'), \
        ('des_pauses', '{SELECT,INSERT,DELETE}'), \
        ('des_throttles', '{SELECT,INSERT,DELETE}'), \
        ('des_synced', '{SELECT,INSERT,UPDATE,DELETE}'), \
        ('des_migration_errors', '{SELECT,INSERT,UPDATE,DELETE}'), \
        ('des_audit_log', '{SELECT,INSERT}')), \
    there AS (SELECT name, privileges, to_regclass(name) AS id FROM ours) \
    SELECT CASE WHEN current_schema() IS NULL \
        THEN 'search_path names no schema in which the tables could be made' \
        ELSE format('GRANT CREATE ON SCHEMA %I TO %I', current_schema(), current_user) END AS lack \
    WHERE $1 AND NOT coalesce(has_schema_privilege(current_schema(), 'CREATE'), FALSE) \
    UNION ALL \
    SELECT format('ALTER TABLE %s OWNER TO %I', name, current_user) \
    FROM there JOIN pg_class ON pg_class.oid = id \
    WHERE $1 AND name <> 'des_archive_config' AND NOT pg_has_role(relowner, 'USAGE') \
    UNION ALL \
    SELECT format('GRANT %s ON %s TO %I', privilege, name, current_user) \
    FROM there, unnest(privileges) AS privilege \
    WHERE id IS NOT NULL AND NOT has_table_privilege(id, privilege)";

impl Session for Pooled<Postgres> {
    const BEGIN: &'static str = "BEGIN";
    const NOW: &'static str = "SELECT clock_timestamp() AS now";
    const TABLE_EXISTS: &'static str = "SELECT count(to_regclass($1)) AS tables";
    const LOCK_LEASE: &'static str =
        "SELECT holder, epoch, expires_at FROM des_lease WHERE job = $1 FOR UPDATE";
    const TRY_LOCK_LEASE: &'static str = "SELECT holder, epoch, expires_at FROM des_lease \
        WHERE job = $1 FOR UPDATE SKIP LOCKED";
    const WATERMARK: &'static str = "SELECT archived_until::timestamptz AS archived_until, \
        lag_days FROM des_archive_config WHERE id = $1";
    const LOCK_WATERMARK: &'static str = "SELECT archived_until::timestamptz AS archived_until, \
        lag_days FROM des_archive_config WHERE id = $1 FOR UPDATE";
    const WATERMARK_EXTRAS: &'static str = "\
        SELECT attname::text AS name, \
            CASE WHEN atttypid = 'varchar'::regtype AND atttypmod > 4 THEN atttypmod - 4 \
                 ELSE 128 END AS width \
        FROM pg_attribute \
        WHERE attrelid = to_regclass('des_archive_config') AND attnum > 0 AND NOT attisdropped \
            AND (attname = 'last_updated' AND atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype) \
                OR attname = 'updated_by' AND atttypid IN ('text'::regtype, 'varchar'::regtype))";
    // The letters `desl`, to be told from other users of such locks.
    const MIGRATION_LOCK: Option<&'static str> =
        Some("SELECT pg_advisory_xact_lock(x'6465736c'::int)");
    const MIGRATIONS: &'static [Step] = MIGRATIONS;

    async fn lacks(&mut self, upgrade: bool) -> Result<Vec<String>> {
        let rows = self.fetch(LACKS, &[Param::Bool(upgrade)]).await?;
        rows.iter().map(|row| row.text("lack")).collect()
    }

    async fn end_stalled(&mut self, job: &Job, stalled: Duration) -> Result<u64> {
        let micros = i64::try_from(stalled.as_micros()).unwrap_or(i64::MAX);
        let params = [Param::Text(job.as_str()), Param::Int(micros)];
        match self.fetch_optional(END_STALLED, &params).await? {
            Some(row) => row.number("ended"),
            None => Ok(0),
        }
    }

    async fn execute(&mut self, sql: impl SqlSafeStr + Send, params: &[Param<'_>]) -> Result<u64> {
        let outcome = match arguments(params) {
            Ok(arguments) => sqlx::query_with(sql, arguments).execute(&mut *self.connection).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(done) => Ok(done.rows_affected()),
            Err(error) => Err(sql_error(&*self.what, error)),
        }
    }

    async fn fetch(
        &mut self,
        sql: impl SqlSafeStr + Send,
        params: &[Param<'_>],
    ) -> Result<Vec<Record>> {
        let outcome = match arguments(params) {
            Ok(arguments) => {
                sqlx::query_with(sql, arguments).fetch_all(&mut *self.connection).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(rows) => Ok(rows.into_iter().map(Record::Postgres).collect()),
            Err(error) => Err(sql_error(&*self.what, error)),
        }
    }
}
