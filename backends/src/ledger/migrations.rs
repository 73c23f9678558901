//! Creating and upgrading the ledger's tables.
//!
//! The table `_des_migrations` says what was done, under a name of our own, since a customer's
//! database may keep other migrations in it.

use std::fmt::Write as _;

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Database, SqlSafeStr};

use super::SqlLedger;
use super::session::{Pooled, Session};
use crate::error::{BackendError, Result};
use crate::sql::sql_error;

/// Where is written down what was done.
pub(super) const TABLE: &str = "_des_migrations";

/// A migration's version, description and SQL.
pub(super) type Step = (i64, &'static str, &'static str);

fn migrator(steps: &[Step]) -> Migrator {
    let migrations = steps.iter().map(|(version, description, sql)| {
        let kind = MigrationType::Simple;
        Migration::new(*version, (*description).into(), kind, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(TABLE);
    // `run` holds a lock of its own, which ends with the transaction.
    migrator.set_locking(false);
    migrator
}

impl<DB> SqlLedger<DB>
where
    DB: Database,
    Pooled<DB>: Session,
    DB::Connection: Migrate,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    /// Runs what is pending, in one transaction that only one process at a time is in.
    pub(super) async fn run_migrations(&self) -> Result<()> {
        if self.read_pending().await?.is_empty() {
            return Ok(());
        }
        let what = self.what("create or upgrade the tables");
        let failed = |error| sql_error(what.clone(), error);
        let begin = Pooled::<DB>::BEGIN;
        let mut transaction = self.writer.begin_with(begin).await.map_err(failed)?;
        if let Some(lock) = Pooled::<DB>::MIGRATION_LOCK {
            sqlx::raw_sql(lock).execute(&mut *transaction).await.map_err(failed)?;
        }
        migrator(Pooled::<DB>::MIGRATIONS)
            .run_direct(None, &mut *transaction, false)
            .await
            .map_err(|error| migrate_error(&what, error))?;
        transaction.commit().await.map_err(failed)
    }

    /// Descriptions of migrations that were not run.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] when the tables are those of another release.
    pub(super) async fn read_pending(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        if self.has_table(TABLE).await? {
            let mut session = self.read("list what was migrated").await?;
            let outcome = session.fetch(LIST, &[]).await;
            for row in session.finish(outcome).await? {
                done.push((row.number::<i64>("version")?, row.bytes("checksum")?));
            }
        }
        let migrator = migrator(Pooled::<DB>::MIGRATIONS);
        for (version, checksum) in &done {
            let known = migrator.iter().find(|known| known.version == *version);
            if known.is_none_or(|known| known.checksum[..] != checksum[..]) {
                return Err(other_release(&self.what("use the tables"), *version));
            }
        }
        Ok(migrator
            .iter()
            .filter(|known| done.iter().all(|(version, _)| *version != known.version))
            .map(|known| format!("{:04} {}", known.version, known.description))
            .collect())
    }
}

const LIST: &str = "SELECT version, checksum FROM _des_migrations WHERE success ORDER BY version";

fn other_release(what: &str, version: i64) -> BackendError {
    BackendError::Invalid {
        what: format!(
            "{what}: migration {version:04} in {TABLE} is not one of this release's; use the \
             release that made it, or a later one"
        ),
    }
}

fn migrate_error(what: &str, error: MigrateError) -> BackendError {
    match error {
        MigrateError::Execute(error) => sql_error(what, error),
        MigrateError::ExecuteMigration(error, version) => {
            sql_error(format!("{what} (migration {version:04})"), error)
        }
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            other_release(what, version)
        }
        other => BackendError::Failed { what: what.to_owned(), cause: other.into() },
    }
}

/// The SQL that brings an empty database to this release, for those who run it themselves:
/// afterwards nothing is pending. `blob` writes a literal from hexadecimal digits.
pub(super) fn script(steps: &[Step], table: &str, blob: fn(&str) -> String) -> String {
    let mut script = format!("BEGIN;\n\n{table}\n");
    for migration in migrator(steps).iter() {
        let digits = migration.checksum.iter().fold(String::new(), |mut digits, byte| {
            // Writing to a String cannot fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        let _ = write!(
            script,
            "\n{}\nINSERT INTO {TABLE} (version, description, success, checksum, execution_time)\n\
             VALUES ({}, '{}', TRUE, {}, 0)\nON CONFLICT (version) DO NOTHING;\n",
            migration.sql.as_str(),
            migration.version,
            migration.description,
            blob(&digits),
        );
    }
    script.push_str("\nCOMMIT;\n");
    script
}
