//! Generators, benchmarks and the chaos harness. Starts real `des` processes, and measures them beside other
//! programs in the same run, since machines are shared and noisy.

mod bench;
mod chaos;
mod compare;
mod generate;
mod measure;
#[cfg(test)]
mod papers;
mod project;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::generate::{Content, Sizes, Spec, Uids, catalog};

#[derive(Parser)]
#[command(name = "loadtest", about, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make source files and a catalog of them, in SQLite or PostgreSQL.
    ///
    /// 70 % JSON and 30 % incompressible, 3.5 KB on average, unless told otherwise.
    Gen(GenArgs),
    /// Measure the table of docs/performance.md, each line beside its reference in the same run.
    Bench(bench::BenchArgs),
    /// Per-record status updates beside the watermark, on PostgreSQL and SQLite, really packing.
    Compare(compare::CompareArgs),
    /// Workers 1 to N against a far store: a bench of this line alone.
    Scale(bench::BenchArgs),
    /// From measured rates to hours and money for an archive too large to try.
    Project(project::ProjectArgs),
    /// Try faults of every kind on a real fleet, and prove that nothing is lost.
    ///
    /// It needs a private PostgreSQL and RabbitMQ and starts itself again under
    /// `./test --servers-only` where there are none.
    Chaos(chaos::ChaosArgs),
    /// Let the power fail under a local archive, again and again, and prove that nothing is lost.
    ///
    /// It needs root and loop devices, and ends with exit code 77 where it cannot run.
    Power(chaos::power::PowerArgs),
}

#[derive(Args)]
struct GenArgs {
    /// Rows of the catalog, each with a file of its own.
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// Days that they are spread over.
    #[arg(long, default_value_t = 1)]
    days: u64,
    /// Other seeds give other times, sizes and contents.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// even (500 to 6,500 bytes), fixed:BYTES or lognormal:MEAN.
    #[arg(long, default_value = "even")]
    sizes: Sizes,
    /// Files of 16 bytes.
    #[arg(long, conflicts_with_all = ["sizes", "sparse"])]
    tiny: bool,
    /// Files without blocks on disk, which read as zeros.
    #[arg(long)]
    sparse: bool,
    /// Make so many files only, which the rows share.
    #[arg(long, value_name = "FILES")]
    share: Option<u64>,
    /// Make no files, for planning without packing.
    #[arg(long, conflicts_with_all = ["tiny", "sparse", "share"])]
    rows_only: bool,
    /// Where files and a SQLite catalog go; made when it is not there.
    #[arg(long)]
    dir: PathBuf,
    /// The catalog's table goes into this PostgreSQL database, and replaces one that is there.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Its name there.
    #[arg(long, default_value = "files", requires = "postgres")]
    table: String,
    /// Leave a table that has rows as it is.
    #[arg(long, requires = "postgres")]
    keep: bool,
}

impl GenArgs {
    fn spec(&self) -> Spec {
        Spec {
            rows: self.files,
            files: if self.rows_only { 0 } else { self.share.unwrap_or(self.files) },
            days: self.days,
            seed: self.seed,
            sizes: if self.tiny { Sizes::Fixed(16) } else { self.sizes },
            content: if self.sparse { Content::Sparse } else { Content::Mixed },
            uids: Uids::Text,
        }
    }

    fn run(&self) -> anyhow::Result<String> {
        let (spec, dir) = (self.spec(), std::path::absolute(&self.dir)?);
        let root = dir.join("files");
        std::fs::create_dir_all(&dir)?;
        let bytes = spec.make_files(&root)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let place = match &self.postgres {
            Some(url) if self.keep && runtime.block_on(catalog::has_rows(url, &self.table))? => {
                return Ok(format!("the table {} has rows and is left as it is\n", self.table));
            }
            Some(url) => {
                runtime.block_on(catalog::postgres(url, &self.table, &spec, &root))?;
                format!("the table {}", self.table)
            }
            None => {
                let file = dir.join("catalog.sqlite");
                runtime.block_on(catalog::sqlite(&file, &spec, &root))?;
                file.display().to_string()
            }
        };
        let (files, mean) = (spec.files, bytes / spec.files.max(1));
        Ok(format!("{} rows in {place}; {files} files of {mean} bytes on average\n", spec.rows))
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let text = match Cli::parse().command {
        Command::Gen(args) => args.run()?,
        Command::Chaos(args) => return chaos::run(&args),
        Command::Bench(args) => bench::run(&args)?,
        Command::Scale(args) => bench::run(&args.of_scale())?,
        Command::Compare(args) => compare::run(&args)?,
        Command::Project(args) => project::run(&args)?,
        Command::Power(args) => return chaos::power::run(&args),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
