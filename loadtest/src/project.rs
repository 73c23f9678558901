//! From measured rates to hours and money for an archive that is too large to try. Pure arithmetic;
//! every line prints what it assumes.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use protocol::estimate::{self, Cutting, Prices, Volume, objects};
use serde::Serialize;

use crate::measure::spread::readable;

const SECONDS_PER_HOUR: f64 = 3_600.0;
const BYTES_PER_GB: f64 = 1e9;

#[derive(Clone, Debug, Args)]
pub(crate) struct ProjectArgs {
    /// Files to be archived.
    #[arg(long, default_value_t = 1.2e9)]
    files: f64,
    /// Their mean size in bytes.
    #[arg(long, default_value_t = 3_750.0)]
    file_bytes: f64,
    /// Days that they are spread over: windows.
    #[arg(long, default_value_t = 1_000.0)]
    days: f64,
    /// Cores of all workers together.
    #[arg(long, default_value_t = 10.0)]
    cores: f64,
    /// Files that one core packs in a second: a bench's `pack` line, files/s by processor time.
    #[arg(long)]
    files_per_core_second: f64,
    /// Stored bytes to raw bytes: a bench's `size` and `pack` lines.
    #[arg(long)]
    stored_ratio: f64,
    /// Rows that the coordinator splits in a second: a bench's `split` line.
    #[arg(long)]
    rows_per_second: f64,
    /// packer.n_bits: shards a day are 2 to this power, as long as no shard grows too large.
    #[arg(long, default_value_t = 8)]
    n_bits: u8,
    /// packer.max_shard_size, in raw bytes.
    #[arg(long, default_value_t = 1e9)]
    max_shard_bytes: f64,
    /// coordinator.partition_rows.
    #[arg(long, default_value_t = 50_000.0)]
    partition_rows: f64,
    /// Price of 1,000 PUT, POST or LIST requests.
    #[arg(long, default_value_t = 0.005)]
    put_price: f64,
    /// Price of 1,000 GET or HEAD requests.
    #[arg(long, default_value_t = 0.0004)]
    get_price: f64,
    /// Price of a GB stored for a month.
    #[arg(long, default_value_t = 0.023)]
    gb_month_price: f64,
    /// Price of a core for an hour.
    #[arg(long, default_value_t = 0.04)]
    core_hour_price: f64,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Human,
    Json,
}

/// One line: what, how much, and what it rests on.
#[derive(Debug, Serialize)]
struct Projected {
    what: &'static str,
    value: f64,
    unit: &'static str,
    assumption: String,
}

/// The projection as it is to be printed.
pub(crate) fn run(args: &ProjectArgs) -> anyhow::Result<String> {
    let lines = project(args);
    if let Output::Json = args.output {
        return Ok(serde_json::to_string_pretty(&lines)? + "\n");
    }
    let mut text = String::new();
    for Projected { what, value, unit, assumption } in &lines {
        writeln!(text, "{what}: {} {unit}\n    {assumption}", readable(*value))?;
    }
    Ok(text)
}

fn volume(args: &ProjectArgs) -> Volume {
    Volume {
        files: args.files,
        raw_bytes: args.files * args.file_bytes,
        windows: args.days,
        stored_ratio: args.stored_ratio,
        big_files: 0.0,
        big_bytes: 0.0,
    }
}

fn cutting(args: &ProjectArgs) -> Cutting {
    Cutting {
        n_bits: args.n_bits,
        max_shard_bytes: args.max_shard_bytes,
        partition_rows: args.partition_rows,
    }
}

fn project(args: &ProjectArgs) -> Vec<Projected> {
    let rate = args.files_per_core_second;
    let pack_hours = args.files / (rate * args.cores) / SECONDS_PER_HOUR;
    let split_hours = args.files / args.rows_per_second / SECONDS_PER_HOUR;
    let hours = pack_hours.max(split_hours);
    let raw = args.files * args.file_bytes;
    let stored_gb = raw * args.stored_ratio / BYTES_PER_GB;
    let it = objects(volume(args), cutting(args));
    let prices =
        Prices { puts: args.put_price, gets: args.get_price, gb_month: args.gb_month_price };
    let costs = estimate::costs(&it, raw * args.stored_ratio, prices);
    let (put_cost, get_cost) = (costs.puts, costs.gets);
    let core_cost = pack_hours * args.cores * args.core_hour_price;
    let line = |what, value, unit, assumption: String| Projected { what, value, unit, assumption };
    vec![
        line(
            "files",
            args.files,
            "files",
            format!("of {} bytes on average, as asked", readable(args.file_bytes)),
        ),
        line("raw", raw / 1e12, "TB", "files times their mean size".to_owned()),
        line(
            "packing",
            pack_hours,
            "h",
            format!(
                "{} cores, each {} files/s, all the time: the store, the sources and the network give and take that much",
                readable(args.cores),
                readable(rate)
            ),
        ),
        line(
            "splitting",
            split_hours,
            "h",
            format!(
                "one coordinator, {} rows/s, while workers pack the window before",
                readable(args.rows_per_second)
            ),
        ),
        line(
            "altogether",
            hours,
            "h",
            "the longer of the two: windows overlap; nothing fails and nobody waits".to_owned(),
        ),
        line(
            "read from the sources",
            raw / (pack_hours * SECONDS_PER_HOUR) / 1e6,
            "MB/s",
            "raw bytes over the hours of packing: what the sources must give".to_owned(),
        ),
        line(
            "sent to the store",
            stored_gb * 1_000.0 / (pack_hours * SECONDS_PER_HOUR),
            "MB/s",
            "stored bytes over the hours of packing: what the network must carry".to_owned(),
        ),
        line(
            "stored",
            stored_gb / 1_000.0,
            "TB",
            format!(
                "{} of the raw bytes, as measured on files of another mix or the same",
                readable(args.stored_ratio)
            ),
        ),
        line(
            "partitions",
            it.partitions,
            "",
            format!(
                "{} days, each cut into partitions of at most {} files",
                readable(args.days),
                readable(args.partition_rows)
            ),
        ),
        line(
            "shards",
            it.shards,
            "",
            format!(
                "n_bits {}, {} MB each on average; a shard is never spread over partitions",
                args.n_bits,
                readable(it.shard_bytes / 1e6)
            ),
        ),
        line("PUT, POST and LIST", it.puts, "requests", estimate::PUTS.to_owned()),
        line("GET and HEAD", it.gets, "requests", estimate::GETS.to_owned()),
        line(
            "requests that write or list",
            put_cost,
            "in the price's currency",
            format!("{} per 1,000", args.put_price),
        ),
        line(
            "requests that read",
            get_cost,
            "in the price's currency",
            format!("{} per 1,000", args.get_price),
        ),
        line(
            "workers",
            core_cost,
            "in the price's currency",
            format!("{} per core and hour, while they pack", args.core_hour_price),
        ),
        line(
            "once",
            put_cost + get_cost + core_cost,
            "in the price's currency",
            "requests and workers; not the database, the broker, the sources or traffic".to_owned(),
        ),
        line(
            "each month",
            costs.month,
            "in the price's currency",
            format!("{} per GB and month", args.gb_month_price),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ProjectArgs {
        ProjectArgs {
            files: 1.2e9,
            file_bytes: 3_750.0,
            days: 1_000.0,
            cores: 10.0,
            files_per_core_second: 10_000.0,
            stored_ratio: 0.6,
            rows_per_second: 500_000.0,
            n_bits: 8,
            max_shard_bytes: 1e9,
            partition_rows: 50_000.0,
            put_price: 0.005,
            get_price: 0.0004,
            gb_month_price: 0.023,
            core_hour_price: 0.04,
            output: Output::Json,
        }
    }

    fn value(lines: &[Projected], what: &str) -> f64 {
        lines.iter().find(|line| line.what == what).map(|line| line.value).expect("a line")
    }

    #[test]
    fn hours_follow_from_rates_and_every_line_says_why() {
        let lines = project(&args());
        assert!((value(&lines, "raw") - 4.5).abs() < 1e-9);
        assert!((value(&lines, "packing") - 3.333).abs() < 0.01);
        assert!((value(&lines, "splitting") - 0.667).abs() < 0.01);
        assert!((value(&lines, "altogether") - value(&lines, "packing")).abs() < 1e-9);
        assert!((value(&lines, "shards") - 256_000.0).abs() < 1e-6);
        assert!((value(&lines, "partitions") - 24_000.0).abs() < 1e-6);
        assert!(lines.iter().all(|line| line.assumption.len() > 10));
    }

    #[test]
    fn the_slower_of_the_two_decides_and_large_shards_are_sent_in_parts() {
        let slow = ProjectArgs { rows_per_second: 1_000.0, ..args() };
        let lines = project(&slow);
        assert!((value(&lines, "altogether") - value(&lines, "splitting")).abs() < 1e-9);
        let few = ProjectArgs { n_bits: 4, ..args() };
        let it = objects(volume(&few), cutting(&few));
        assert!(it.shard_bytes > estimate::PART_BYTES, "{}", it.shard_bytes);
        assert!(it.puts > it.shards * 3.0);
    }
}
