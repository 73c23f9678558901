//! What all rounds of a run share: servers, proxies in front of them, the S3 server with its
//! faults, the source files, the binary.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context as _;
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::files::Files;
use super::fleet::PROCESSES;
use super::journal::Journal;
use super::kind::Link;
use super::proxy::Proxy;
use super::s3_server::{S3Server, Setup};
use super::servers::{Servers, address_of};
use super::store_gate::StoreGate;

/// What every round stands on.
pub(crate) struct Ground {
    pub(crate) servers: Servers,
    pub(crate) dir: PathBuf,
    pub(crate) des: PathBuf,
    pub(crate) sabotage: Option<String>,
    pub(crate) files: Files,
    pub(crate) s3: S3Server,
    pub(crate) gate: Arc<StoreGate>,
    pub(crate) journal: Arc<Journal>,
    links: Vec<Links>,
}

/// The proxies of one process, each in front of a server.
pub(crate) struct Links([Proxy; 3]);

impl Links {
    async fn start(targets: [SocketAddr; 3]) -> anyhow::Result<Self> {
        let [postgres, broker, store] = targets;
        Ok(Self([
            Proxy::start(postgres).await?,
            Proxy::start(broker).await?,
            Proxy::start(store).await?,
        ]))
    }

    pub(crate) fn proxy(&self, link: Link) -> &Proxy {
        let [postgres, broker, store] = &self.0;
        match link {
            Link::Postgres => postgres,
            Link::Broker => broker,
            Link::Store => store,
        }
    }

    pub(crate) fn all(&self) -> Vec<&Proxy> {
        self.0.iter().collect()
    }
}

impl Ground {
    /// Starts what does not come from outside, and makes `files` source files.
    pub(crate) async fn prepare(
        servers: Servers,
        dir: &Path,
        des: &Path,
        files: u64,
        sabotage: Option<String>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let gate = StoreGate::new();
        let inside = Some(servers.dir()?.to_owned());
        let setup = Setup { gate: Some(gate.gate()), inside, ..Setup::default() };
        let s3 = S3Server::start(setup).context("the S3 server does not start")?;
        let journal = Arc::new(Journal::new(s3.bucket_dir.clone()));
        gate.note_in(&s3.bucket, Arc::clone(&journal));
        let targets = [&servers.postgres, &servers.amqp, &s3.endpoint];
        let [postgres, broker, store] = targets.map(|url| address_of(url));
        let targets = [postgres?, broker?, store?];
        let mut links = Vec::new();
        for _place in 0..=PROCESSES {
            links.push(Links::start(targets).await?);
        }
        let root = dir.join("files");
        let stop = stop.clone();
        let made = tokio::task::spawn_blocking(move || Files::make(&root, files, &stop));
        let files = made.await??;
        Ok(Self {
            servers,
            dir: dir.to_owned(),
            des: des.to_owned(),
            sabotage,
            files,
            s3,
            gate,
            journal,
            links,
        })
    }

    /// The links of the process at this place; of what operators run, at the place after the last.
    pub(crate) fn links(&self, place: usize) -> anyhow::Result<&Links> {
        self.links.get(place).with_context(|| format!("no process has place {place}"))
    }

    /// Everybody's way to one server.
    ///
    /// Whoever takes several proxies takes them by server first, and then by place, so that two
    /// faults never wait for each other.
    pub(crate) fn all(&self, link: Link) -> Vec<&Proxy> {
        self.links.iter().map(|links| links.proxy(link)).collect()
    }
}

/// Whether a `des` was compiled with crash points: it aborts at the one that comes first.
pub(crate) fn has_crash_point(des: &Path, name: &str) -> anyhow::Result<bool> {
    let status = Command::new(des)
        .arg("demo")
        .arg("--help")
        .env("DES_FAILPOINT", format!("{name}:1:abort"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", des.display()))?;
    Ok(status.signal() == Some(Signal::ABORT.as_raw()))
}
