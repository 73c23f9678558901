//! The table of `docs/performance.md`, measured: every topic gives lines with a target, figures and
//! notes, each beside its reference in the same run.

mod aside;
mod database;
pub(crate) mod embedded;
pub(crate) mod fleet;
mod instructions;
mod memory;
mod pack;
mod page;
mod read;
mod s3;
pub(crate) mod scale;
mod size;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::chaos::servers::{self, Servers};
use crate::measure::line::Line;
use crate::measure::machine::{Load, Machine};
use crate::measure::spread::rounded;

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measure these only; may be repeated.
    #[arg(long, value_enum, value_name = "TOPIC")]
    only: Vec<Topic>,
    /// Fewer files and runs: minutes instead of most of an hour, and rougher figures.
    #[arg(long)]
    quick: bool,
    /// Counted runs of what is fast; default: 5, with --quick 3.
    #[arg(long)]
    runs: Option<usize>,
    /// Numbers of files to pack, instead of 10,000, 100,000 and 1,000,000; of the windows of `share`,
    /// instead of 200,000 and 1,000,000.
    #[arg(long, value_delimiter = ',')]
    files: Vec<u64>,
    /// Drop the kernel's caches before every run that is timed; needs root, and disturbs others.
    #[arg(long)]
    cold: bool,
    /// Where to put everything; files that are there are used again. Default: a temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The binary to measure; default: `des` beside this program.
    #[arg(long)]
    des: Option<PathBuf>,
    #[command(flatten)]
    far: scale::Far,
    /// Write the report as a page of HTML, with plots.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl BenchArgs {
    /// The same, of scaling alone.
    pub(crate) fn of_scale(&self) -> Self {
        Self { only: vec![Topic::Scale], ..self.clone() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Human,
    Json,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topic {
    /// `des migrate` beside `tar | zstd`, restic and rclone.
    Pack,
    /// Instructions per file.
    Instructions,
    /// Splitting a window beside psql, and the coordinator's memory.
    Split,
    /// Source rows that the database reads.
    Rows,
    /// Write-ahead log per window.
    Wal,
    /// A worker's memory over shards of 1 GB.
    WorkerMemory,
    /// Reading one file.
    Read,
    /// Stored size beside the reference packer's.
    Size,
    /// Workers 1 to 8 against a far store.
    Scale,
    /// The coordinator's share of the fleet's processor time.
    Share,
}

impl Topic {
    /// Whether PostgreSQL and RabbitMQ are needed.
    const fn needs_servers(self) -> bool {
        !matches!(self, Self::Pack | Self::Instructions | Self::Read | Self::Size)
    }
}

/// Everything measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of the sources that the binary was built from, where git knows it.
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    pub(crate) seconds: f64,
    pub(crate) lines: Vec<Line>,
}

/// What every topic needs.
pub(crate) struct Bench {
    pub(crate) des: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) quick: bool,
    pub(crate) runs: usize,
    pub(crate) files: Vec<u64>,
    pub(crate) cold: bool,
    far: scale::Far,
    servers: Option<Servers>,
    runtime: tokio::runtime::Runtime,
}

/// Measures; the report as it is to be printed.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<String> {
    let began = Instant::now();
    let asked = |topic: &&Topic| args.only.is_empty() || args.only.contains(topic);
    let topics: Vec<Topic> = Topic::value_variants().iter().filter(asked).copied().collect();
    let servers = Servers::from_environment();
    if servers.is_none() && topics.iter().any(|topic| topic.needs_servers()) {
        return Err(servers::start_again_with_servers());
    }
    let temporary = tempfile::Builder::new().prefix("des-bench-").tempdir()?;
    let des = match &args.des {
        Some(des) => std::path::absolute(des)?,
        None => std::env::current_exe()?.with_file_name("des"),
    };
    ensure!(des.is_file(), "{} is not there: cargo build --release", des.display());
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let bench = Bench {
        des,
        dir: std::path::absolute(dir)?,
        quick: args.quick,
        runs: args.runs.unwrap_or(if args.quick { 3 } else { 5 }),
        files: args.files.clone(),
        cold: args.cold,
        far: args.far.clone(),
        servers,
        runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
    };
    let mut lines = Vec::new();
    for topic in topics {
        let load = Load::now();
        let mut measured = bench.measure(topic)?;
        let taken_by_others = rounded(load.taken_by_others());
        for line in &mut measured {
            line.taken_by_others = taken_by_others;
            std::io::stderr().lock().write_all(line.text().as_bytes())?;
        }
        lines.append(&mut measured);
    }
    let report = Report {
        commit: commit(),
        machine: Machine::here(),
        quick: args.quick,
        seconds: rounded(began.elapsed().as_secs_f64()),
        lines,
    };
    if let Some(path) = &args.report {
        std::fs::write(path, page::page(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(match args.output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Human => report.table(),
    })
}

impl Bench {
    fn measure(&self, topic: Topic) -> anyhow::Result<Vec<Line>> {
        match topic {
            Topic::Pack => pack::measure(self),
            Topic::Instructions => instructions::measure(self),
            Topic::Split => self.runtime.block_on(database::split(self)),
            Topic::Rows => self.runtime.block_on(database::rows(self)),
            Topic::Wal => self.runtime.block_on(database::wal(self)),
            Topic::WorkerMemory => self.runtime.block_on(memory::measure(self)),
            Topic::Read => self.runtime.block_on(read::measure(self)),
            Topic::Size => size::measure(self),
            Topic::Scale => self.runtime.block_on(scale::scale(self, &self.far)),
            Topic::Share => self.runtime.block_on(scale::share(self)),
        }
    }

    fn servers(&self) -> anyhow::Result<&Servers> {
        self.servers.as_ref().context("no PostgreSQL and RabbitMQ")
    }

    /// Before a run that is timed: what earlier ones wrote is on disk, so that nobody's sync waits
    /// for it.
    fn settle(&self) -> anyhow::Result<()> {
        rustix::fs::sync();
        if self.cold {
            std::fs::write("/proc/sys/vm/drop_caches", "3")?;
        }
        Ok(())
    }
}

impl Report {
    /// The table of `docs/performance.md`, and where it was measured.
    fn table(&self) -> String {
        let Machine { cores, memory_mib, processor, kernel } = &self.machine;
        let mut text = format!(
            "commit {}; {cores} cores ({processor}), {memory_mib} MiB, Linux {kernel}; {:.0} s\n\n\
             | what | target | measured | | others |\n|---|---|---|---|---|\n",
            self.commit, self.seconds
        );
        for line in &self.lines {
            text.push_str(&format!(
                "| {} | {} | {} | {} | {:.0} % |\n",
                line.what.replace('|', "\\|"),
                line.target_text(),
                line.measured_text(),
                line.verdict(),
                line.taken_by_others * 100.0
            ));
        }
        text
    }
}

/// The commit of the sources here; empty where git does not know.
fn commit() -> String {
    let git = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let said = git.map(|git| String::from_utf8_lossy(&git.stdout).trim().to_owned());
    said.unwrap_or_default()
}
