//! What happened in the ledger, every single change of it: triggers write down what the oracle
//! judges, in the transactions that did it, so that nothing falls between two looks.

use std::collections::BTreeSet;

use anyhow::Context as _;
use protocol::{PartitionId, Timestamp, Window, WindowKey};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

/// A look takes rows again that are so close to the newest one seen: ids are given out before
/// transactions end.
const OVERLAP: i64 = 200;

const TRIGGERS: &str = r"
CREATE SCHEMA chaos;
CREATE TABLE chaos.steps (id BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(),
    from_time TIMESTAMPTZ, to_time TIMESTAMPTZ);
CREATE TABLE chaos.commits (id BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(),
    window_start TIMESTAMPTZ, window_end TIMESTAMPTZ, revision INT, certificate TEXT,
    lease_epoch BIGINT, files_archived BIGINT, files_failed BIGINT);
CREATE TABLE chaos.accepts (id BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(),
    window_end TIMESTAMPTZ, revision INT, partition INT, receipt TEXT, receipt_size BIGINT,
    files_failed BIGINT, row_count BIGINT);
CREATE TABLE chaos.leads (id BIGSERIAL, at TIMESTAMPTZ DEFAULT clock_timestamp(), holder TEXT);
CREATE FUNCTION chaos.lead() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF NEW.holder IS NOT NULL AND NEW.epoch IS DISTINCT FROM OLD.epoch THEN
        INSERT INTO chaos.leads (holder) VALUES (NEW.holder);
    END IF;
    RETURN NULL; END $$;
CREATE FUNCTION chaos.step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF NEW.archived_until IS DISTINCT FROM OLD.archived_until THEN
        INSERT INTO chaos.steps (from_time, to_time)
        VALUES (OLD.archived_until, NEW.archived_until);
    END IF;
    RETURN NULL; END $$;
CREATE FUNCTION chaos.committed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF NEW.state = 'committed' THEN
        INSERT INTO chaos.commits (window_start, window_end, revision, certificate, lease_epoch,
            files_archived, files_failed)
        SELECT NEW.window_start, NEW.window_end, NEW.revision, NEW.certificate,
            (SELECT epoch FROM public.des_lease WHERE job = NEW.job), NEW.files_archived,
            NEW.files_failed;
    END IF;
    RETURN NULL; END $$;
CREATE FUNCTION chaos.accepted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
    IF NEW.receipt IS NOT NULL AND NEW.receipt IS DISTINCT FROM OLD.receipt THEN
        INSERT INTO chaos.accepts (window_end, revision, partition, receipt, receipt_size,
            files_failed, row_count)
        VALUES (NEW.window_end, NEW.revision, NEW.partition, NEW.receipt, NEW.receipt_size,
            NEW.files_failed, NEW.row_count);
    END IF;
    RETURN NULL; END $$;
CREATE TRIGGER chaos_lead AFTER UPDATE ON des_lease
    FOR EACH ROW EXECUTE FUNCTION chaos.lead();
CREATE TRIGGER chaos_step AFTER UPDATE ON des_archive_config
    FOR EACH ROW EXECUTE FUNCTION chaos.step();
CREATE TRIGGER chaos_committed AFTER INSERT OR UPDATE ON des_windows
    FOR EACH ROW EXECUTE FUNCTION chaos.committed();
CREATE TRIGGER chaos_accepted AFTER UPDATE ON des_partitions
    FOR EACH ROW EXECUTE FUNCTION chaos.accepted();
";

/// The watermark moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
}

/// A window was marked as committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) window: Window,
    pub(crate) key: WindowKey,
    pub(crate) certificate: String,
    /// Of the lease, in the same transaction.
    pub(crate) lease_epoch: u64,
    pub(crate) files_archived: u64,
    pub(crate) files_failed: u64,
}

/// A receipt was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// Microseconds since 1970.
    pub(crate) at: i64,
    pub(crate) key: WindowKey,
    pub(crate) partition: PartitionId,
    pub(crate) receipt: String,
    pub(crate) receipt_size: u64,
    pub(crate) files_failed: u64,
    pub(crate) rows: u64,
}

/// Somebody began to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    /// Microseconds since 1970.
    pub(crate) at: i64,
    pub(crate) holder: String,
}

/// What is new since the last look.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    pub(crate) steps: Vec<Step>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) accepts: Vec<Accept>,
    pub(crate) leads: Vec<Lead>,
    pub(crate) lease_holder: Option<String>,
    /// Rows that are recorded as failed, all of them: by uid, with their reasons.
    pub(crate) errors: Vec<(String, String)>,
}

/// A connection of the oracle's own, past every proxy.
pub(crate) struct Watch {
    url: String,
    connection: Option<PgConnection>,
    seen: [BTreeSet<i64>; 4],
}

/// Connects to a database, without a word in the log.
pub(crate) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    options.disable_statement_logging().connect().await.context("cannot connect to the database")
}

impl Watch {
    /// Installs the triggers in a database that has des's tables.
    pub(crate) async fn install(url: &str) -> anyhow::Result<Self> {
        let mut connection = connect(url).await?;
        sqlx::raw_sql(TRIGGERS).execute(&mut connection).await.context("installing triggers")?;
        Ok(Self { url: url.to_owned(), connection: Some(connection), seen: Default::default() })
    }

    /// What is new. All of it is one state of the database.
    pub(crate) async fn look(&mut self) -> anyhow::Result<News> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.url).await?,
        };
        let news = self.read(&mut connection).await?;
        self.connection = Some(connection);
        Ok(news)
    }

    async fn read(&mut self, connection: &mut PgConnection) -> anyhow::Result<News> {
        let mut look = connection.begin().await?;
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *look)
            .await?;
        let mut rows = Vec::new();
        for (seen, table) in self.seen.iter().zip(["steps", "commits", "accepts", "leads"]) {
            let from = seen.last().map_or(0, |last| last - OVERLAP);
            let sql = format!("SELECT * FROM chaos.{table} WHERE id > $1 ORDER BY id");
            rows.push(sqlx::query(AssertSqlSafe(sql)).bind(from).fetch_all(&mut *look).await?);
        }
        let holder = "SELECT holder FROM des_lease";
        let holder: Option<Option<String>> =
            sqlx::query_scalar(holder).fetch_optional(&mut *look).await?;
        let errors = errors(&mut look).await?;
        look.commit().await?;
        let mut news = News { lease_holder: holder.flatten(), errors, ..News::default() };
        for (which, rows) in rows.iter().enumerate() {
            for row in rows {
                let id: i64 = row.try_get("id")?;
                let Some(seen) = self.seen.get_mut(which) else { continue };
                if !seen.insert(id) {
                    continue;
                }
                match which {
                    0 => news
                        .steps
                        .push(Step { from: time(row, "from_time")?, to: time(row, "to_time")? }),
                    1 => news.commits.push(commit(row)?),
                    2 => news.accepts.push(accept(row)?),
                    _ => news.leads.push(lead(row)?),
                }
            }
        }
        Ok(news)
    }
}

fn commit(row: &PgRow) -> anyhow::Result<Commit> {
    let (start, end) = (time(row, "window_start")?, time(row, "window_end")?);
    let window = Window::new(start, end)?;
    Ok(Commit {
        window,
        key: WindowKey::new(window, u16::try_from(row.try_get::<i32, _>("revision")?)?),
        certificate: row.try_get("certificate")?,
        lease_epoch: count(row, "lease_epoch")?,
        files_archived: count(row, "files_archived")?,
        files_failed: count(row, "files_failed")?,
    })
}

fn lead(row: &PgRow) -> anyhow::Result<Lead> {
    Ok(Lead { at: time(row, "at")?.as_micros(), holder: row.try_get("holder")? })
}

fn accept(row: &PgRow) -> anyhow::Result<Accept> {
    let revision = u16::try_from(row.try_get::<i32, _>("revision")?)?;
    Ok(Accept {
        at: time(row, "at")?.as_micros(),
        key: protocol::names::window_key(time(row, "window_end")?, revision),
        partition: PartitionId::try_from(row.try_get::<i32, _>("partition")?)?,
        receipt: row.try_get("receipt")?,
        receipt_size: count(row, "receipt_size")?,
        files_failed: count(row, "files_failed")?,
        rows: count(row, "row_count")?,
    })
}

fn count(row: &PgRow, column: &str) -> anyhow::Result<u64> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?)?)
}

fn time(row: &PgRow, column: &str) -> anyhow::Result<Timestamp> {
    let time: sqlx::types::chrono::DateTime<sqlx::types::chrono::Utc> = row.try_get(column)?;
    Timestamp::from_chrono(time).context("a time is out of range")
}

/// Now, in microseconds since 1970, by the clock that the database on this machine has too.
pub(crate) fn now_micros() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// Rows that des recorded as failed, by uid, with their reasons.
pub(crate) async fn recorded_errors(url: &str) -> anyhow::Result<Vec<(String, String)>> {
    errors(&mut connect(url).await?).await
}

async fn errors(connection: &mut PgConnection) -> anyhow::Result<Vec<(String, String)>> {
    let sql = "SELECT uid, reason FROM des_migration_errors WHERE resolved_at IS NULL";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("uid")?, row.try_get("reason")?))).collect()
}
