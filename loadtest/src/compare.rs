//! What it costs to keep the archive's state per file, beside the watermark: the same files, really
//! packed on both sides, once with an UPDATE of every row's status and once with none.
//!
//! The per-record side packs with `des`, too: the run that is the other side counts for it, so that no
//! noise between two packings is taken for a difference. Then it marks rows as such systems do: SELECT the next thousand unarchived rows, UPDATE their
//! status and shard, COMMIT. It gets what it needs to be quick: an index of the unarchived rows, a
//! statement for a thousand rows at a time. A second column marks row by row, a COMMIT per thousand.

mod postgres;
mod sqlite;

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use protocol::NBits;
use serde::Serialize;

use crate::bench::Output;
use crate::bench::embedded::Ground;
use crate::chaos::servers::{self, Servers};
use crate::generate::{Row, Spec};
use crate::measure::line::Figure;
use crate::measure::machine::{Load, Machine};
use crate::measure::spread::Spread;

/// Rows that are marked at a time.
const BATCH: u64 = 1_000;
const N_BITS: u8 = 4;
/// Above this a run is made once.
const ONCE_ABOVE: u64 = 100_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Numbers of files.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    rows: Vec<u64>,
    /// Runs of up to 100,000 files; more are run once.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where to put everything; files that are there are used again. Default: a temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The binary; default: `des` beside this program.
    #[arg(long)]
    des: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How rows are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Marking {
    /// One UPDATE for a thousand rows.
    Batched,
    /// One UPDATE for each row.
    OneByOne,
}

/// What one side of one run came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    /// Packing, on the per-record side; all of it on the watermark's.
    pub(crate) pack_seconds: f64,
    /// Selecting and marking rows.
    pub(crate) mark_seconds: f64,
    pub(crate) statements: Option<u64>,
    /// Rows that were inserted, updated or deleted, des's own among them.
    pub(crate) rows_written: Option<u64>,
    /// Write-ahead log, full-page images included.
    pub(crate) log_bytes: u64,
    /// In the table of files.
    pub(crate) dead_tuples: Option<u64>,
    /// Of the table of files with its indexes.
    pub(crate) growth_bytes: u64,
    /// What the VACUUM afterwards took, and logged.
    pub(crate) vacuum: Option<(f64, u64)>,
}

/// One database, one number of files, one way.
#[derive(Debug, Serialize)]
struct Column {
    database: &'static str,
    rows: u64,
    way: &'static str,
    figures: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    taken_by_others: f64,
    columns: Vec<Column>,
}

/// Runs the comparison; the report as it is to be printed.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<String> {
    let Some(servers) = Servers::from_environment() else {
        return Err(servers::start_again_with_servers());
    };
    let temporary = tempfile::Builder::new().prefix("des-compare-").tempdir()?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&dir)?;
    let dir = std::path::absolute(dir)?;
    let des = match &args.des {
        Some(des) => std::path::absolute(des)?,
        None => std::env::current_exe()?.with_file_name("des"),
    };
    ensure!(des.is_file(), "{} is not there: cargo build --release", des.display());
    let load = Load::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut columns = Vec::new();
    for rows in &args.rows {
        let spec = Spec::usual(*rows, 1);
        let runs = if *rows > ONCE_ABOVE { 1 } else { args.runs.max(1) };
        let ground = Ground::make(&des, &dir, &spec, N_BITS, &serde_json::json!({}))?;
        let scene = Scene { des: &des, dir: &dir, spec: &spec, servers: &servers };
        columns.extend(scene.both(&ground, &runtime, runs)?);
    }
    let taken_by_others = load.taken_by_others();
    let report = Report { machine: Machine::here(), taken_by_others, columns };
    Ok(match args.output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Human => report.table(),
    })
}

/// Files, and where things are.
pub(crate) struct Scene<'a> {
    pub(crate) des: &'a std::path::Path,
    pub(crate) dir: &'a std::path::Path,
    pub(crate) spec: &'a Spec,
    pub(crate) servers: &'a Servers,
}

impl Scene<'_> {
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join(format!("files-{}", self.spec.files))
    }

    /// Both databases, all ways, in turn.
    fn both(
        &self,
        ground: &Ground,
        runtime: &tokio::runtime::Runtime,
        runs: usize,
    ) -> anyhow::Result<Vec<Column>> {
        let mut sides: [Vec<Side>; 6] = Default::default();
        for _run in 0..runs {
            ground.clear()?;
            rustix::fs::sync();
            let packed = ground.migrate()?.0.seconds;
            let on_sqlite = sqlite::watermark(ground, packed);
            ground.clear()?;
            rustix::fs::sync();
            let on_postgres = runtime.block_on(postgres::watermark(self))?;
            for (at, marking) in [(0, Marking::Batched), (1, Marking::OneByOne)] {
                rustix::fs::sync();
                let marked = runtime.block_on(postgres::per_record(self, marking))?;
                sides[at].push(Side { pack_seconds: on_postgres.pack_seconds, ..marked });
                let marked = runtime.block_on(sqlite::per_record(self, marking))?;
                sides[at + 3].push(Side { pack_seconds: on_sqlite.pack_seconds, ..marked });
            }
            sides[2].push(on_postgres);
            sides[5].push(on_sqlite);
        }
        let names = [
            ("PostgreSQL", "per record, a thousand at a time"),
            ("PostgreSQL", "per record, one by one"),
            ("PostgreSQL", "watermark"),
            ("SQLite", "per record, a thousand at a time"),
            ("SQLite", "per record, one by one"),
            ("SQLite", "watermark"),
        ];
        let rows = self.spec.rows;
        let columns = names.into_iter().zip(sides).map(|((database, way), sides)| Column {
            database,
            rows,
            way,
            figures: figures(&sides),
        });
        Ok(columns.collect())
    }
}

/// The name of the shard that a system which marks rows would write there.
pub(crate) fn shard_of(row: &Row) -> String {
    let index = NBits::new(N_BITS).map(|n_bits| n_bits.shard_hex(n_bits.shard_index(&row.uid)));
    let hex = index.map(|hex| hex.to_string()).unwrap_or_default();
    format!("{}_{hex}_0000.des", row.created_at.day())
}

fn figures(sides: &[Side]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name: &str, unit, values: Vec<f64>| {
        if values.len() == sides.len() {
            figures.push(Figure { name: name.to_owned(), unit, value: Spread::of(values) });
        }
    };
    let each = |of: &dyn Fn(&Side) -> f64| sides.iter().map(of).collect::<Vec<f64>>();
    let known = |of: &dyn Fn(&Side) -> Option<u64>| {
        sides.iter().filter_map(of).map(exact).collect::<Vec<f64>>()
    };
    add("time, all of it", "s", each(&|side| side.pack_seconds + side.mark_seconds));
    add("of it selecting and marking rows", "s", each(&|side| side.mark_seconds));
    add("statements", "", known(&|side| side.statements));
    add("rows written", "", known(&|side| side.rows_written));
    add("write-ahead log", "KiB", each(&|side| exact(side.log_bytes) / 1024.0));
    add("dead tuples", "", known(&|side| side.dead_tuples));
    add("growth of the table of files", "KiB", each(&|side| exact(side.growth_bytes) / 1024.0));
    let vacuum: Vec<_> = sides.iter().filter_map(|side| side.vacuum).collect();
    add("VACUUM afterwards", "s", vacuum.iter().map(|it| it.0).collect());
    add("its write-ahead log", "KiB", vacuum.iter().map(|it| exact(it.1) / 1024.0).collect());
    figures
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn exact(number: u64) -> f64 {
    number as f64
}

impl Report {
    /// A table for each database and number of files: a column for each way.
    fn table(&self) -> String {
        let mut text = format!(
            "{} cores ({}); others used {:.0} % of the machine meanwhile\n",
            self.machine.cores,
            self.machine.processor,
            self.taken_by_others * 100.0
        );
        let mut rest = self.columns.as_slice();
        while let Some(first) = rest.first() {
            let of_table = |it: &&Column| (it.database, it.rows) == (first.database, first.rows);
            let count = rest.iter().take_while(of_table).count();
            let (columns, others) = rest.split_at(count);
            rest = others;
            text.push_str(&format!("\n### {}, {} files\n\n| |", first.database, first.rows));
            columns.iter().for_each(|it| text.push_str(&format!(" {} |", it.way)));
            text.push_str(&format!("\n|{}\n", "---|".repeat(count + 1)));
            let mut names: Vec<&str> = Vec::new();
            for figure in columns.iter().flat_map(|column| &column.figures) {
                if !names.contains(&figure.name.as_str()) {
                    names.push(&figure.name);
                }
            }
            for name in names {
                text.push_str(&format!("| {name} |"));
                for column in columns {
                    let figure = column.figures.iter().find(|figure| figure.name == name);
                    let value = figure.map_or_else(
                        || " ".to_owned(),
                        |it| format!(" {} {}", it.value.text(), it.unit).trim_end().to_owned(),
                    );
                    text.push_str(&format!("{value} |"));
                }
                text.push('\n');
            }
        }
        text
    }
}
