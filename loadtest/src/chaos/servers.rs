//! The servers that faults are tried against: private ones, whose addresses `./test` exports.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// Where the private servers are.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    /// A superuser's URL.
    pub(crate) postgres: String,
    /// `pg_ctl` for that server.
    pub(crate) pg_ctl: PathBuf,
    /// An administrator's URL.
    pub(crate) amqp: String,
    pub(crate) rabbitmqctl: PathBuf,
}

impl Servers {
    /// As `./test --servers-only` exports them; `None` when it did not.
    pub(crate) fn from_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        Some(Self {
            postgres: variable("DES_TEST_POSTGRES_URL")?,
            pg_ctl: variable("DES_TEST_PG_CTL")?.into(),
            amqp: variable("DES_TEST_AMQP_URL")?,
            rabbitmqctl: variable("DES_TEST_RABBITMQCTL")?.into(),
        })
    }
}

impl Servers {
    /// The directory of the servers, which `./test` removes whatever becomes of the harness: it
    /// gives an interrupted command five seconds, and thousands of files may take longer.
    pub(crate) fn dir(&self) -> anyhow::Result<&Path> {
        self.rabbitmqctl.parent().context("DES_TEST_RABBITMQCTL has no directory")
    }
}

/// Becomes this same command under `./test --servers-only`. Returns only when that fails.
pub(crate) fn start_again_with_servers() -> anyhow::Error {
    match become_test() {
        Ok(never) => never,
        Err(error) => error,
    }
}

fn become_test() -> anyhow::Result<anyhow::Error> {
    let me = std::env::current_exe()?;
    let here = std::env::current_dir()?;
    let found = [here.as_path(), me.as_path()].into_iter().find_map(script_above);
    let Some(script) = found else {
        bail!(
            "no PostgreSQL and RabbitMQ to harm: run this as ./test --servers-only {} chaos ..., \
             from the workspace's root",
            me.display()
        );
    };
    let mut command = Command::new(&script);
    command.arg("--servers-only").arg(&me).args(std::env::args_os().skip(1));
    let failed = command.exec();
    Err(failed).with_context(|| format!("cannot start {}", script.display()))
}

/// The workspace's script `test`, in a directory above.
fn script_above(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .map(|directory| directory.join("test"))
        .find(|script| script.is_file() && script.with_file_name("ARCHITECTURE.md").is_file())
}

/// The address in a URL such as `amqp://user:password@127.0.0.1:5672/%2f`.
pub(crate) fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let (from, to) = authority(url)?;
    let text = url.get(from..to).unwrap_or_default();
    text.parse().with_context(|| format!("{text} is not an address and a port"))
}

/// The same URL with another port.
pub(crate) fn through(url: &str, port: u16) -> anyhow::Result<String> {
    let (from, to) = authority(url)?;
    let (before, after) = (url.get(..from).unwrap_or_default(), url.get(to..).unwrap_or_default());
    Ok(format!("{before}127.0.0.1:{port}{after}"))
}

/// The same URL with another database.
pub(crate) fn with_database(url: &str, database: &str) -> String {
    format!("{}/{database}", url.rsplit_once('/').map_or(url, |(before, _)| before))
}

/// The same URL with another user and password.
pub(crate) fn as_user(url: &str, user: &str, password: &str) -> anyhow::Result<String> {
    let (from, _) = authority(url)?;
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    Ok(format!("{scheme}://{user}:{password}@{}", url.get(from..).unwrap_or_default()))
}

/// Where host and port begin and end.
fn authority(url: &str) -> anyhow::Result<(usize, usize)> {
    let begin = url.find("://").context("not a URL")? + 3;
    let rest = url.get(begin..).unwrap_or_default();
    let end = begin + rest.find(['/', '?']).unwrap_or(rest.len());
    let user = url.get(begin..end).and_then(|text| text.rfind('@'));
    Ok((user.map_or(begin, |at| begin + at + 1), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_put_together() {
        let url = "postgresql://des:pw@127.0.0.1:5433/postgres";
        assert_eq!(address_of(url).expect("an address").port(), 5433);
        assert_eq!(through(url, 99).expect("a URL"), "postgresql://des:pw@127.0.0.1:99/postgres");
        assert_eq!(with_database(url, "x"), "postgresql://des:pw@127.0.0.1:5433/x");
        assert_eq!(
            as_user(url, "a", "b").expect("a URL"),
            "postgresql://a:b@127.0.0.1:5433/postgres"
        );
        assert_eq!(through("http://127.0.0.1:80", 9).expect("a URL"), "http://127.0.0.1:9");
    }
}
