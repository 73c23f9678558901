//! From what lies ahead and a sample of it to hours, requests and money. Pure; every line says what
//! it rests on.

use std::collections::BTreeMap;

use coordinator::outlook::Outlook;
use protocol::estimate::{self, Cutting, Prices, Volume, objects};
use protocol::{FailureReason, PackSettings};
use serde::Serialize;
use worker::sample::Sample;

use crate::cli::PlanArgs;

const SECONDS_PER_HOUR: f64 = 3_600.0;
/// Bytes of a file's entries in a shard besides its uid: 34 beside its block, 40 in the index.
const ENTRY_BYTES: f64 = 74.0;

/// One line: what, how much, and what it rests on.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) what: &'static str,
    /// Null while it is unknown.
    pub(super) value: Option<f64>,
    pub(super) unit: &'static str,
    pub(super) assumption: String,
}

/// The sample, and what follows from it alone.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sampled {
    /// Rows that were taken from the catalog.
    pub(super) rows: u64,
    /// Files that were read and compressed.
    pub(super) read: u64,
    /// Files beyond `packer.big_file_threshold`: their size counts, they were not read.
    pub(super) big: u64,
    /// Bytes of both.
    pub(super) bytes_raw: u64,
    /// Bytes of both as they would be stored.
    pub(super) bytes_stored: u64,
    /// Files that would fail, by reason.
    pub(super) failed: BTreeMap<FailureReason, u64>,
    /// Files that this machine could not read.
    pub(super) unreadable: u64,
    /// Seconds that reading and compressing took on one thread.
    pub(super) seconds: f64,
    /// Why nothing was read, or what was said of the first file that was not.
    pub(super) trouble: Option<String>,
    #[serde(skip)]
    uid_bytes: u64,
    #[serde(skip)]
    bytes_big: u64,
}

impl Sampled {
    pub(super) fn new(rows: u64, uid_bytes: u64, sample: Sample, trouble: Option<String>) -> Self {
        Self {
            rows,
            read: sample.read,
            big: sample.big,
            bytes_raw: sample.bytes_raw + sample.bytes_big,
            bytes_stored: sample.bytes_stored + sample.bytes_big,
            failed: sample.failed,
            unreadable: sample.unreadable,
            seconds: sample.took.as_secs_f64(),
            trouble: trouble.or(sample.first_trouble),
            uid_bytes,
            bytes_big: sample.bytes_big,
        }
    }

    fn told(&self) -> Option<f64> {
        let told = self.read + self.big;
        (told > 0).then_some(told as f64)
    }

    fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Why a figure is unknown.
    fn silence(&self, flag: &str) -> String {
        let why = self.trouble.as_deref().unwrap_or("there are no rows to sample");
        format!("no file of the sample was read here ({why}); give {flag}, or run this on a worker")
    }
}

/// A figure and what it rests on.
type Figure = (Option<f64>, String);

/// Everything that the lines are made of.
pub(super) fn lines(
    outlook: &Outlook,
    sampled: &Sampled,
    pack: &PackSettings,
    partition_rows: u64,
    (args, cores): (&PlanArgs, f64),
) -> Vec<Line> {
    let line = |what, unit, (value, assumption): Figure| Line { what, value, unit, assumption };
    let files = outlook.files as f64;
    let raw = raw_bytes(outlook, sampled, args);
    let stored = stored_bytes(outlook, sampled, raw.0, args);
    let rate = rate(sampled, args);
    let mut lines = vec![
        line("windows", "windows", windows(outlook)),
        line("files", "files", (Some(files), files_text(outlook))),
        line("files that would fail", "files", would_fail(files, sampled)),
        line("raw", "bytes", raw.clone()),
        line("stored", "bytes", stored.clone()),
    ];
    let big = big_files(files, sampled);
    lines.extend(object_lines(outlook, (raw.0, stored.0, big), pack, partition_rows, args));
    let hours = rate.0.map(|rate| files / (rate * cores) / SECONDS_PER_HOUR);
    lines.push(line("rate of a core", "files/s", rate));
    lines.push(line("packing", "h", (hours, format!(
        "{cores} cores (--cores) of all workers together, each at that rate all the time: sources, \
         network and store give and take that much, nothing fails and nobody waits"
    ))));
    if let Some(rows) = args.rows_per_second {
        let assumption = format!(
            "one coordinator, {rows} rows/s (--rows-per-second), while workers pack the window before"
        );
        lines.push(line("splitting", "h", (Some(files / rows / SECONDS_PER_HOUR), assumption)));
    }
    let workers = hours.map(|hours| hours * cores * args.core_hour_price);
    lines.push(line(
        "workers",
        "price",
        (
            workers,
            format!(
                "{} per core and hour (--core-hour-price), while they pack",
                args.core_hour_price
            ),
        ),
    ));
    lines
}

fn windows(outlook: &Outlook) -> Figure {
    let how = match (outlook.windows_counted, outlook.indexed) {
        (true, _) => {
            "counted in the catalog: those with rows; a stretch without any costs one step"
        }
        (false, false) => {
            "all from the first row on, with rows or without: created_at is not indexed, so that \
             looking for each would read the whole table"
        }
        (false, true) => "the first 4,000 with rows were counted, and every one after them",
    };
    (Some(outlook.windows as f64), how.to_owned())
}

fn files_text(outlook: &Outlook) -> String {
    format!(
        "counted in the catalog: created_at after {} and not after {}, {} days before now",
        outlook.from, outlook.target, outlook.lag_days
    )
}

fn would_fail(files: f64, sampled: &Sampled) -> Figure {
    let (failures, rows) = (sampled.failures(), sampled.read + sampled.big + sampled.failures());
    if rows == 0 {
        let why = sampled.trouble.as_deref().unwrap_or("there are no rows to sample");
        return (None, format!("no file of the sample was looked at here: {why}"));
    }
    let reasons: Vec<_> =
        sampled.failed.iter().map(|(reason, files)| format!("{files} {reason}")).collect();
    let mut text = match reasons.is_empty() {
        true => format!(
            "none of the {rows} sampled; they become error rows, and hold a window when many"
        ),
        false => format!(
            "{failures} of the {rows} sampled ({}); the first: {}",
            reasons.join(", "),
            sampled.trouble.as_deref().unwrap_or("unknown")
        ),
    };
    if sampled.unreadable > 0 {
        text.push_str(&format!("; {} more could not be read on this machine", sampled.unreadable));
    }
    (Some(files * failures as f64 / rows as f64), text)
}

fn raw_bytes(outlook: &Outlook, sampled: &Sampled, args: &PlanArgs) -> Figure {
    let files = outlook.files as f64;
    if let Some(mean) = args.file_bytes {
        return (Some(files * mean), format!("{mean} bytes a file (--file-bytes)"));
    }
    if let Some(bytes) = outlook.bytes {
        return (Some(bytes as f64), "the sum of the catalog's size column".to_owned());
    }
    let Some(told) = sampled.told() else { return (None, sampled.silence("--file-bytes")) };
    let mean = sampled.bytes_raw as f64 / told;
    let text = format!(
        "{mean:.0} bytes a file, the mean of {told} sampled: there is no database.size_column. Rows \
         were taken from {}",
        match outlook.indexed {
            true => "stretches spread evenly over the time, whatever their number in each",
            false => "the first window alone: created_at is not indexed",
        }
    );
    (Some(files * mean), text)
}

fn stored_bytes(outlook: &Outlook, sampled: &Sampled, raw: Option<f64>, args: &PlanArgs) -> Figure {
    if let Some(ratio) = args.stored_ratio {
        let text = format!("{ratio} of the raw bytes (--stored-ratio)");
        return (raw.map(|raw| raw * ratio), text);
    }
    if outlook.files == 0 {
        return (Some(0.0), "nothing is to be stored".to_owned());
    }
    if sampled.told().is_none() || sampled.bytes_raw == 0 {
        return (None, sampled.silence("--stored-ratio"));
    }
    let ratio = sampled.bytes_stored as f64 / sampled.bytes_raw as f64;
    let entry = ENTRY_BYTES + sampled.uid_bytes as f64 / sampled.rows.max(1) as f64;
    let stored = raw.map(|raw| raw * ratio + outlook.files as f64 * entry);
    let text = format!(
        "payloads at {ratio:.3} of the raw bytes, as the sample was with the configured codec, and \
         {entry:.0} bytes of index a file; manifests and receipts come on top"
    );
    (stored, text)
}

fn rate(sampled: &Sampled, args: &PlanArgs) -> Figure {
    if let Some(rate) = args.files_per_core_second {
        return (Some(rate), "as given (--files-per-core-second)".to_owned());
    }
    if sampled.read == 0 || sampled.seconds <= 0.0 {
        return (None, sampled.silence("--files-per-core-second"));
    }
    let text = format!(
        "{} files of the sample, read and compressed on one thread of this machine in {:.3} s, with \
         caches as they were; building and uploading shards is not in it",
        sampled.read, sampled.seconds
    );
    (Some(sampled.read as f64 / sampled.seconds), text)
}

/// Files that become objects of their own, and their bytes, were they as frequent as in the sample.
fn big_files(files: f64, sampled: &Sampled) -> (f64, f64) {
    let share = sampled.told().map_or(0.0, |told| files / told);
    (sampled.big as f64 * share, sampled.bytes_big as f64 * share)
}

fn object_lines(
    outlook: &Outlook,
    (raw, stored, big): (Option<f64>, Option<f64>, (f64, f64)),
    pack: &PackSettings,
    partition_rows: u64,
    args: &PlanArgs,
) -> Vec<Line> {
    let line =
        |what, unit, value: Option<f64>, assumption: String| Line { what, value, unit, assumption };
    // Without files there is nothing to cut.
    let known = raw.zip(stored).map(|(raw, stored)| (raw, stored, stored / raw.max(1.0)));
    let it = known.filter(|_| outlook.files > 0).map(|(raw_bytes, _, stored_ratio)| {
        let (files, windows) = (outlook.files as f64, outlook.windows as f64);
        let max_shard_bytes = pack.max_shard_size as f64;
        let partition_rows = partition_rows as f64;
        objects(
            Volume {
                files,
                raw_bytes,
                windows,
                stored_ratio,
                big_files: big.0,
                big_bytes: big.1.min(raw_bytes),
            },
            Cutting { n_bits: pack.n_bits.get(), max_shard_bytes, partition_rows },
        )
    });
    let nothing = (outlook.files == 0).then_some(0.0);
    let of = |figure: fn(&estimate::Objects) -> f64| it.as_ref().map(figure).or(nothing);
    let prices =
        Prices { puts: args.put_price, gets: args.get_price, gb_month: args.gb_month_price };
    let costs = it.map(|it| estimate::costs(&it, stored.unwrap_or_default(), prices));
    let cost = |figure: fn(&estimate::Costs) -> f64| costs.as_ref().map(figure).or(nothing);
    let shards = match it {
        Some(it) => format!(
            "n_bits {}, about {:.0} KiB each, were every window like the others",
            pack.n_bits.get(),
            it.shard_bytes / 1024.0
        ),
        None => "unknown while the bytes are, or none".to_owned(),
    };
    vec![
        line(
            "partitions",
            "",
            of(|it| it.partitions),
            format!("a window is cut into partitions of at most {partition_rows} rows"),
        ),
        line("shards", "", of(|it| it.shards), shards),
        line("PUT, POST and LIST", "requests", of(|it| it.puts), estimate::PUTS.to_owned()),
        line("GET and HEAD", "requests", of(|it| it.gets), estimate::GETS.to_owned()),
        line(
            "requests that write or list",
            "price",
            cost(|it| it.puts),
            format!("{} per 1,000 (--put-price)", args.put_price),
        ),
        line(
            "requests that read",
            "price",
            cost(|it| it.gets),
            format!("{} per 1,000 (--get-price)", args.get_price),
        ),
        line(
            "each month",
            "price",
            cost(|it| it.month),
            format!("{} per GB and month (--gb-month-price)", args.gb_month_price),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use protocol::Timestamp;

    use super::*;
    use crate::cli::{Cli, Command};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn args(words: &str) -> PlanArgs {
        let words =
            ["des", "plan", "--config", "des.yaml"].into_iter().chain(words.split_whitespace());
        match Cli::parse_from(words).command {
            Command::Plan(args) => args,
            _ => unreachable!("it is a plan"),
        }
    }

    fn outlook() -> Outlook {
        Outlook {
            from: at("2024-11-01"),
            begun: true,
            target: at("2024-12-01"),
            lag_days: 7,
            files: 30_000_000,
            bytes: None,
            windows: 30,
            windows_counted: true,
            indexed: true,
        }
    }

    fn sampled() -> Sampled {
        let sample = Sample {
            read: 390,
            bytes_raw: 390 * 4_000,
            bytes_stored: 390 * 2_000,
            failed: BTreeMap::from([(FailureReason::Missing, 10)]),
            took: Duration::from_millis(39),
            first_trouble: Some("/data/a: No such file or directory".to_owned()),
            ..Sample::default()
        };
        Sampled::new(400, 400 * 26, sample, None)
    }

    fn told(outlook: &Outlook, sampled: &Sampled, words: &str) -> Vec<Line> {
        lines(outlook, sampled, &PackSettings::default(), 50_000, (&args(words), 10.0))
    }

    fn value(lines: &[Line], what: &str) -> Option<f64> {
        lines.iter().find(|line| line.what == what).expect("a line").value
    }

    #[test]
    fn figures_follow_from_the_sample() {
        let lines = told(&outlook(), &sampled(), "");
        let close = |what: &str, expected: f64| {
            let found = value(&lines, what).expect("it is known");
            assert!((found - expected).abs() < expected / 1e6, "{what}: {found}");
        };
        close("raw", 3e7 * 4_000.0);
        close("stored", 3e7 * (2_000.0 + 74.0 + 26.0));
        close("files that would fail", 3e7 * 10.0 / 400.0);
        close("rate of a core", 10_000.0);
        close("packing", 3e7 / 100_000.0 / 3_600.0);
        close("shards", 30.0 * 256.0);
        assert!(lines.iter().all(|line| line.assumption.len() > 10), "{lines:?}");
        let json = serde_json::to_string_pretty(&lines).expect("it is JSON");
        insta::assert_snapshot!(json);
    }

    #[test]
    fn the_catalogs_sizes_and_flags_come_first() {
        let sized = Outlook { bytes: Some(60_000_000_000), ..outlook() };
        let lines = told(&sized, &sampled(), "");
        assert_eq!(value(&lines, "raw"), Some(6e10));
        let flags = "--file-bytes 1000 --stored-ratio 0.5 --files-per-core-second 3000 \
                     --rows-per-second 1000 --put-price 1 --gb-month-price 2 --core-hour-price 6";
        let lines = told(&sized, &Sampled::default(), flags);
        assert_eq!((value(&lines, "raw"), value(&lines, "stored")), (Some(3e10), Some(1.5e10)));
        assert_eq!(value(&lines, "each month"), Some(30.0));
        let hours = value(&lines, "packing").expect("hours");
        assert!((hours - 1_000.0 / 3_600.0).abs() < 1e-9, "{hours}");
        let workers = value(&lines, "workers").expect("a price");
        assert!((workers - hours * 60.0).abs() < 1e-9, "{workers}");
        assert!((value(&lines, "splitting").expect("hours") - 3e4 / 3_600.0).abs() < 1e-9);
        let puts = value(&lines, "PUT, POST and LIST").expect("requests");
        assert_eq!(value(&lines, "requests that write or list"), Some(puts / 1_000.0));
    }

    #[test]
    fn what_is_unknown_says_why_and_nothing_is_nothing() {
        let trouble = Some("source.roots: /data is not mounted".to_owned());
        let silent = Sampled::new(400, 0, Sample::default(), trouble);
        let lines = told(&outlook(), &silent, "");
        for unknown in ["raw", "stored", "shards", "packing", "each month", "workers"] {
            assert_eq!(value(&lines, unknown), None, "{unknown}");
        }
        let stored = lines.iter().find(|line| line.what == "stored").expect("a line");
        assert!(stored.assumption.contains("/data is not mounted"), "{}", stored.assumption);
        assert!(stored.assumption.contains("--stored-ratio"), "{}", stored.assumption);
        let nothing = Outlook { files: 0, windows: 0, bytes: Some(0), ..outlook() };
        let lines = told(&nothing, &Sampled::default(), "--files-per-core-second 10");
        for zero in ["files", "raw", "stored", "shards", "packing", "each month"] {
            assert_eq!(value(&lines, zero), Some(0.0), "{zero}");
        }
    }
}
