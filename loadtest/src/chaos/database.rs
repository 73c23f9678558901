//! What the harness does to the database, as its superuser.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::kind::{DatabaseHarm, StopMode};
use super::servers::Servers;
use super::watch::connect;

/// `pg_ctl` gives up by itself before this.
const CTL_LIMIT: Duration = Duration::from_secs(300);

/// The database of one round, and the role that the fleet connects as.
pub(crate) struct Database {
    /// The superuser's, at the server.
    admin: String,
    pg_ctl: PathBuf,
    pub(crate) name: String,
    turn: tokio::sync::Mutex<()>,
    /// Held by whoever stops the server.
    up: RwLock<()>,
}

impl Database {
    /// Makes the database, owned by a role of the same name with the password `chaos`.
    pub(crate) async fn make(servers: &Servers, name: &str) -> anyhow::Result<Self> {
        let it = Self {
            admin: servers.postgres.clone(),
            pg_ctl: servers.pg_ctl.clone(),
            name: name.to_owned(),
            turn: tokio::sync::Mutex::new(()),
            up: RwLock::new(()),
        };
        it.run(&format!("CREATE ROLE {name} LOGIN PASSWORD 'chaos'")).await?;
        it.run(&format!("CREATE DATABASE {name} OWNER {name}")).await?;
        Ok(it)
    }

    /// The server is not stopped as long as the answer is held: for what the harness itself puts
    /// into the catalog, of which it has to know whether it is there.
    pub(crate) async fn calm(&self) -> RwLockReadGuard<'_, ()> {
        self.up.read().await
    }

    /// Removes both, also when a stop of the server was dropped half-way.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        self.start_server().await?;
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
            DatabaseHarm::Restart(mode) => self.restart(mode, lasts).await,
        }
    }

    async fn restart(&self, mode: StopMode, lasts: Duration) -> anyhow::Result<u64> {
        let _down = self.up.write().await;
        let met = self.sessions("count(*)").await?;
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        let stopped = self.ctl(&["-m", mode, "stop"]).await;
        tokio::time::sleep(lasts).await;
        self.start_server().await?;
        ensure!(stopped?, "pg_ctl -m {mode} stop: the server could not be stopped");
        Ok(met)
    }

    /// Starts the server unless it runs.
    async fn start_server(&self) -> anyhow::Result<()> {
        if self.ctl(&["status"]).await? {
            return Ok(());
        }
        ensure!(self.ctl(&["start"]).await?, "pg_ctl start: the server does not start");
        Ok(())
    }

    /// Whether `pg_ctl` came to a good end. It is never killed: what it has begun it ends.
    async fn ctl(&self, words: &[&str]) -> anyhow::Result<bool> {
        let mut command = tokio::process::Command::new(&self.pg_ctl);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ended = tokio::time::timeout(CTL_LIMIT, command.status()).await;
        Ok(ended.with_context(|| format!("pg_ctl {words:?} does not end"))??.success())
    }

    /// Undoes whatever a harm that was dropped half-way may have left.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        let name = &self.name;
        self.run(&format!("ALTER ROLE {name} RESET default_transaction_read_only")).await?;
        self.run(&format!("ALTER ROLE {name} CONNECTION LIMIT -1")).await
    }

    async fn terminate(&self) -> anyhow::Result<u64> {
        self.sessions("count(pg_terminate_backend(pid))").await
    }

    /// A number about the sessions of the fleet.
    async fn sessions(&self, what: &str) -> anyhow::Result<u64> {
        let mut connection = connect(&self.admin).await?;
        let sql = format!("SELECT {what} FROM pg_stat_activity WHERE usename = $1");
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.name);
        let number: i64 = query.fetch_one(&mut connection).await?;
        Ok(u64::try_from(number)?)
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
