//! Generators, benchmarks and the chaos harness. Starts real `des` processes, and measures them beside other
//! programs in the same run, since machines are shared and noisy.

mod bench;
mod chaos;
mod generate;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "loadtest", about, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make source files and a SQLite catalog of them.
    ///
    /// 70 % JSON and 30 % incompressible, 3.5 KB on average.
    Gen {
        /// How many files.
        #[arg(long, default_value_t = 100_000)]
        files: u64,
        /// Days that they are spread over.
        #[arg(long, default_value_t = 1)]
        days: u64,
        /// Where to; made when it is not there.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Time `des migrate`, embedded, beside `tar cf - DIR | zstd -3 -T2 -o F` on the same files.
    ///
    /// The two run in turn; the ratio is taken pair by pair.
    Bench {
        /// How many files.
        #[arg(long, default_value_t = 100_000)]
        files: u64,
        /// Days that they are spread over.
        #[arg(long, default_value_t = 1)]
        days: u64,
        /// packer.n_bits of the run.
        #[arg(long, default_value_t = 4)]
        n_bits: u8,
        /// Counted runs of each.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Where to put everything; default: a temporary directory.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The binary to time; default: `des` beside this program.
        #[arg(long)]
        des: Option<PathBuf>,
    },
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

fn main() -> anyhow::Result<ExitCode> {
    let text = match Cli::parse().command {
        Command::Gen { files, days, dir } => {
            let made = generate::make(&dir, files, days)?;
            format!("{files} files of {} bytes on average in {}\n", made.mean(), dir.display())
        }
        Command::Chaos(args) => return chaos::run(&args),
        Command::Power(args) => return chaos::power::run(&args),
        Command::Bench { files, days, n_bits, runs, dir, des } => {
            let plan = bench::Plan { files, days, n_bits, runs, des };
            serde_json::to_string_pretty(&bench::run(&plan, dir)?)? + "\n"
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
