//! What the harness does to the database, as its superuser.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _};

use super::plan::DatabaseHarm;
use super::watch::connect;

/// The database of one round, and the role that the fleet connects as.
pub(crate) struct Database {
    /// The superuser's, at the server.
    admin: String,
    pub(crate) name: String,
    turn: tokio::sync::Mutex<()>,
}

impl Database {
    /// Makes the database, owned by a role of the same name with the password `chaos`.
    pub(crate) async fn make(admin: &str, name: &str) -> anyhow::Result<Self> {
        let it = Self {
            admin: admin.to_owned(),
            name: name.to_owned(),
            turn: tokio::sync::Mutex::new(()),
        };
        it.run(&format!("CREATE ROLE {name} LOGIN PASSWORD 'chaos'")).await?;
        it.run(&format!("CREATE DATABASE {name} OWNER {name}")).await?;
        Ok(it)
    }

    /// Removes both.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        let name = &self.name;
        self.run(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        self.run(&format!("DROP ROLE IF EXISTS {name}")).await
    }

    /// Does harm for a while; how many sessions it ended.
    pub(crate) async fn harm(&self, harm: DatabaseHarm, lasts: Duration) -> anyhow::Result<u64> {
        let _turn = self.turn.lock().await;
        let name = &self.name;
        match harm {
            DatabaseHarm::TerminateBackends => self.terminate().await,
            DatabaseHarm::ReadOnly => {
                // Sessions take it over when they begin.
                self.run(&format!("ALTER ROLE {name} SET default_transaction_read_only = on"))
                    .await?;
                let ended = self.terminate().await?;
                tokio::time::sleep(lasts).await;
                self.heal().await?;
                self.terminate().await?;
                Ok(ended)
            }
            DatabaseHarm::ConnectionLimit => {
                self.run(&format!("ALTER ROLE {name} CONNECTION LIMIT 0")).await?;
                let ended = self.terminate().await?;
                tokio::time::sleep(lasts).await;
                self.heal().await?;
                Ok(ended)
            }
        }
    }

    /// Undoes whatever a harm that was dropped half-way may have left.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        let name = &self.name;
        self.run(&format!("ALTER ROLE {name} RESET default_transaction_read_only")).await?;
        self.run(&format!("ALTER ROLE {name} CONNECTION LIMIT -1")).await
    }

    async fn terminate(&self) -> anyhow::Result<u64> {
        let mut connection = connect(&self.admin).await?;
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE usename = $1";
        let ended: i64 =
            sqlx::query_scalar(sql).bind(&self.name).fetch_one(&mut connection).await?;
        Ok(u64::try_from(ended)?)
    }

    async fn run(&self, sql: &str) -> anyhow::Result<()> {
        let mut connection = connect(&self.admin).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut connection)
            .await
            .with_context(|| sql.to_owned())?;
        Ok(connection.close().await?)
    }
}
