//! `des migrate` beside `tar | zstd`, in turn, on the same files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use crate::generate;

/// What to measure.
pub(crate) struct Plan {
    pub(crate) files: u64,
    pub(crate) days: u64,
    pub(crate) n_bits: u8,
    pub(crate) runs: usize,
    pub(crate) des: Option<PathBuf>,
}

/// What was measured. Seconds are wall time of whole commands, medians over the counted runs.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    files: u64,
    mean_file_bytes: u64,
    runs: usize,
    des_seconds: f64,
    des_files_per_second: f64,
    tar_zstd_seconds: f64,
    tar_zstd_files_per_second: f64,
    /// Median of the pairs' ratios, des to tar | zstd.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    /// Largest resident set of `des`, as the kernel counted it.
    des_peak_rss_mib: Option<u64>,
    des_stored_bytes: u64,
    tar_zstd_bytes: u64,
}

/// Makes the files, runs each command once to warm up, then both in turn.
pub(crate) fn run(plan: &Plan, dir: Option<PathBuf>) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("des-bench-").tempdir()?;
    let dir = dir.unwrap_or_else(|| temporary.path().to_owned());
    let des = match &plan.des {
        Some(des) => des.clone(),
        None => std::env::current_exe()?.with_file_name("des"),
    };
    ensure!(des.is_file(), "{} is not there: cargo build --release", des.display());
    let made = generate::make(&dir, plan.files, plan.days)?;
    write_config(&dir, plan.n_bits)?;
    let (mut des_times, mut tar_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = DesRun::default();
    for round in 0..=plan.runs {
        last = run_des(&des, &dir, plan.files)?;
        let tar = run_tar(&dir)?;
        if round > 0 {
            des_times.push(last.seconds);
            tar_times.push(tar);
            ratios.push(last.seconds / tar);
        }
    }
    let tar_zstd_bytes = dir.join("files.tar.zst").metadata()?.len();
    let (des_seconds, tar_seconds) = (median(&mut des_times), median(&mut tar_times));
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let files = plan.files as f64;
    let ratio = median(&mut ratios);
    Ok(Report {
        files: plan.files,
        mean_file_bytes: made.mean(),
        runs: plan.runs,
        des_seconds: rounded(des_seconds),
        des_files_per_second: (files / des_seconds).round(),
        tar_zstd_seconds: rounded(tar_seconds),
        tar_zstd_files_per_second: (files / tar_seconds).round(),
        ratio: rounded(ratio),
        ratio_min: rounded(ratios.first().copied().unwrap_or_default()),
        ratio_max: rounded(ratios.last().copied().unwrap_or_default()),
        des_peak_rss_mib: last.peak_rss_mib,
        des_stored_bytes: last.stored_bytes,
        tar_zstd_bytes,
    })
}

fn write_config(dir: &Path, n_bits: u8) -> anyhow::Result<()> {
    let config = serde_json::json!({
        "database": { "url": format!("sqlite:///{}/catalog.sqlite", dir.display()) },
        "packer": { "output_dir": dir.join("archive"), "n_bits": n_bits },
        "watermark": { "config_db_url": format!("sqlite:///{}/ledger.sqlite", dir.display()) },
        "worker": { "spool_dir": dir },
        "coordinator": { "spool_dir": dir },
    });
    // JSON is YAML.
    Ok(std::fs::write(dir.join("des.yaml"), config.to_string())?)
}

#[derive(Default)]
struct DesRun {
    seconds: f64,
    stored_bytes: u64,
    peak_rss_mib: Option<u64>,
}

/// Archives everything into a new archive, and checks that all of it is there.
fn run_des(des: &Path, dir: &Path, files: u64) -> anyhow::Result<DesRun> {
    for leftover in ["archive", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
        let path = dir.join(leftover);
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
        } else if path.exists() {
            std::fs::remove_file(&path)?;
        }
    }
    let began = Instant::now();
    let mut child = Command::new(des)
        .args(["migrate", "--mode", "single", "--output", "json", "--config"])
        .arg(dir.join("des.yaml"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", des.display()))?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let peak = std::thread::spawn(move || watch_peak(&status));
    let mut printed = String::new();
    if let Some(stdout) = child.stdout.as_mut() {
        std::io::Read::read_to_string(stdout, &mut printed)?;
    }
    let ended = child.wait()?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(ended.success(), "des failed: {printed}");
    let result: serde_json::Value = serde_json::from_str(&printed)?;
    let archived = result["files_archived"].as_u64();
    ensure!(archived == Some(files), "des archived {archived:?} of {files} files");
    let stored_bytes = result["bytes_stored"].as_u64().context("bytes_stored")?;
    Ok(DesRun { seconds, stored_bytes, peak_rss_mib: peak.join().unwrap_or_default() })
}

/// The kernel's high-water mark of a process, read until the process is gone.
fn watch_peak(status: &Path) -> Option<u64> {
    let mut peak = None;
    while let Ok(text) = std::fs::read_to_string(status) {
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        match kib {
            Some(kib) => peak = Some(kib / 1024),
            None => break,
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    peak
}

/// `tar cf - files | zstd -3 -T2`, whole.
fn run_tar(dir: &Path) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut tar = Command::new("tar")
        .args(["cf", "-", "files"])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let Some(stream) = tar.stdout.take() else { bail!("tar has no output") };
    let zstd = Command::new("zstd")
        .args(["-q", "-3", "-T2", "-f", "-o", "files.tar.zst"])
        .current_dir(dir)
        .stdin(stream)
        .status()
        .context("cannot start zstd: install Debian's package zstd")?;
    ensure!(tar.wait()?.success() && zstd.success(), "tar | zstd failed");
    Ok(began.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
