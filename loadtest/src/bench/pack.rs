//! Packing: the whole of `des migrate` beside `tar | zstd` on the same files, and beside restic and
//! rclone where they are installed.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::Bench;
use super::aside::Aside;
use super::embedded::Ground;
use crate::generate::Spec;
use crate::measure::child::{Ran, run};
use crate::measure::line::{Line, Plot, Target};
use crate::measure::spread::Spread;

/// Shards of realistic size: one day.
const USUAL: (u64, u8) = (1, 4);
/// Many shards of few files: 28 days.
const SPARSE: (u64, u8) = (28, 8);
/// The number of files that the targets are about.
const MAIN: u64 = 100_000;
/// Of runs over a million files.
const LONG_RUNS: usize = 3;

/// What one number of files came to.
struct Measured {
    files: u64,
    mean_bytes: u64,
    usual: Vec<(Ran, u64)>,
    sparse: Vec<(Ran, u64)>,
    tar: Vec<Ran>,
    tar_bytes: u64,
    verify: Vec<Ran>,
    others: Vec<(&'static str, Vec<f64>)>,
}

/// Every line about packing.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let sizes: &[u64] = match (bench.files.as_slice(), bench.quick) {
        ([], true) => &[10_000, MAIN],
        ([], false) => &[10_000, MAIN, 1_000_000],
        (asked, _) => asked,
    };
    let mut measured = Vec::new();
    for files in sizes {
        measured.push(one_size(bench, *files)?);
    }
    let main = measured.iter().find(|it| it.files == MAIN).or_else(|| measured.last());
    let Some(main) = main else { return Ok(Vec::new()) };
    let mut lines = vec![usual_line(main), sparse_line(main), verify_line(main)];
    if measured.len() > 1 {
        lines.push(sizes_line(&measured));
    }
    Ok(lines)
}

fn one_size(bench: &Bench, files: u64) -> anyhow::Result<Measured> {
    let nothing = json!({});
    let make = |(days, n_bits): (u64, u8)| {
        Ground::make(&bench.des, &bench.dir, &Spec::usual(files, days), n_bits, &nothing)
    };
    let (usual, sparse) = (make(USUAL)?, make(SPARSE)?);
    let mut it = Measured {
        files,
        mean_bytes: usual.bytes / files.max(1),
        usual: Vec::new(),
        sparse: Vec::new(),
        tar: Vec::new(),
        tar_bytes: 0,
        verify: Vec::new(),
        others: Vec::new(),
    };
    let runs = if files > MAIN { bench.runs.min(LONG_RUNS) } else { bench.runs };
    let installed = [("restic", "restic"), ("rclone", "rclone")];
    it.others = installed.map(|(name, _)| (name, Vec::new())).into();
    let aside = Aside::below(&bench.dir)?;
    // The first round warms up.
    for round in 0..=runs {
        let packed = timed(bench, &usual, files)?;
        bench.settle()?;
        let verified = usual.verify_deep()?;
        let (tar, tar_bytes) = tar_zstd(bench, files)?;
        let scattered = timed(bench, &sparse, files)?;
        sparse.clear()?;
        it.tar_bytes = tar_bytes;
        if round > 0 {
            it.usual.push(packed);
            it.verify.push(verified);
            it.tar.push(tar);
            it.sparse.push(scattered);
        }
        for (name, times) in &mut it.others {
            if is_installed(name) && (round > 0 || files <= MAIN) {
                times.push(other(bench, &aside, name, files)?);
            }
        }
    }
    usual.clear()?;
    Ok(it)
}

/// One whole `des migrate` into a new archive, and the bytes that it stored.
fn timed(bench: &Bench, ground: &Ground, files: u64) -> anyhow::Result<(Ran, u64)> {
    ground.clear()?;
    settle(bench, files)?;
    let (ran, result) = ground.migrate()?;
    Ok((ran, result["bytes_stored"].as_u64().unwrap_or_default()))
}

/// `tar cf - files | zstd -3 -T2`, whole, and how many bytes it made.
fn tar_zstd(bench: &Bench, files: u64) -> anyhow::Result<(Ran, u64)> {
    let output = bench.dir.join("files.tar.zst");
    settle(bench, files)?;
    let pipe = format!("tar cf - files-{files} | zstd -q -3 -T2 -f -o files.tar.zst");
    let mut shell = Command::new("bash");
    let ran = run(shell.args(["-o", "pipefail", "-c", &pipe]).current_dir(&bench.dir))?;
    let bytes = output.metadata()?.len();
    std::fs::remove_file(&output)?;
    Ok((ran, bytes))
}

/// Has earlier runs' bytes on disk and, unless caches are to be cold, the files in the cache: whoever comes
/// after a long run would find them gone from it otherwise, and the next one find them there.
fn settle(bench: &Bench, files: u64) -> anyhow::Result<()> {
    bench.settle()?;
    if !bench.cold {
        let read = format!("tar cf - files-{files} | cat >/dev/null");
        let mut shell = Command::new("bash");
        run(shell.args(["-o", "pipefail", "-c", &read]).current_dir(&bench.dir))?;
    }
    Ok(())
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// A backup of the same files with another program into a new repository; seconds.
fn other(bench: &Bench, aside: &Aside, name: &str, files: u64) -> anyhow::Result<f64> {
    let source = bench.dir.join(format!("files-{files}"));
    let of = format!("of-{name}");
    let target = bench.dir.join(&of);
    aside.put(&[&of])?;
    let restic = |words: &[&str], last: Option<&Path>| {
        let mut command = Command::new("restic");
        command.env("RESTIC_PASSWORD", "bench").arg("--no-cache").arg("-q").arg("-r").arg(&target);
        command.args(words).args(last);
        command
    };
    let mut command = match name {
        "restic" => {
            run(&mut restic(&["init"], None))?;
            restic(&["backup"], Some(&source))
        }
        _ => {
            let mut command = Command::new("rclone");
            command.arg("copy").arg(&source).arg(&target);
            command
        }
    };
    settle(bench, files)?;
    let ran = run(&mut command)?;
    aside.put(&[&of])?;
    Ok(ran.seconds)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_second(files: u64, seconds: impl Iterator<Item = f64>) -> Spread {
    Spread::of(seconds.map(|seconds| files as f64 / seconds))
}

fn times(runs: &[(Ran, u64)]) -> impl Iterator<Item = f64> + '_ {
    runs.iter().map(|(ran, _)| ran.seconds)
}

fn ratio(des: &[(Ran, u64)], tar: &[Ran]) -> Spread {
    Spread::of_ratios(times(des).zip(tar.iter().map(|ran| ran.seconds)))
}

/// Ratio, rates, processor time and memory of one shape.
fn with_figures(line: Line, it: &Measured, runs: &[(Ran, u64)]) -> Line {
    let cpu = Spread::of(runs.iter().map(|(ran, _)| ran.cpu_seconds));
    let tar_cpu = Spread::of(it.tar.iter().map(|ran| ran.cpu_seconds));
    let cpu_ratio = Spread::of_ratios(
        runs.iter().map(|(ran, _)| ran.cpu_seconds).zip(it.tar.iter().map(|ran| ran.cpu_seconds)),
    );
    let peak = Spread::of(runs.iter().map(|(ran, _)| ran.memory.peak_mib));
    let stored = runs.last().map_or(0, |(_, bytes)| *bytes);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let stored = stored as f64 / it.tar_bytes.max(1) as f64;
    let tar_times = || it.tar.iter().map(|ran| ran.seconds);
    line.measured(ratio(runs, &it.tar))
        .figure("des", "files/s", per_second(it.files, times(runs)))
        .figure("tar | zstd", "files/s", per_second(it.files, tar_times()))
        .figure("processor time, des to tar | zstd", "×", cpu_ratio)
        .figure("des, processor time", "s", cpu)
        .figure("tar | zstd, processor time", "s", tar_cpu)
        .figure("des, peak resident memory", "MiB", peak)
        .one("des's stored bytes to tar.zst's", "×", stored)
}

fn usual_line(it: &Measured) -> Line {
    let what = format!(
        "`des migrate` beside `tar | zstd -3 -T2`: {} files of {} bytes on average, 1 day, \
         n_bits 4",
        it.files, it.mean_bytes
    );
    let line = Line::new("pack", what, Target::AtMost(0.7), "×");
    let mut line = with_figures(line, it, &it.usual);
    for (name, times) in &it.others {
        line = if times.is_empty() {
            line.note(format!("{name} is not installed: not measured"))
        } else {
            let tar = Spread::of(it.tar.iter().map(|ran| ran.seconds)).median;
            line.figure(
                format!("{name} beside tar | zstd"),
                "×",
                Spread::of(times.iter().map(|it| it / tar)),
            )
        };
    }
    let memory = it.usual.last().map(|(ran, _)| ran.memory.samples.clone()).unwrap_or_default();
    line.plot(Plot {
        title: format!("Resident memory of `des migrate`, {} files", it.files),
        x: "seconds",
        y: "MiB",
        series: vec![("des".to_owned(), memory)],
    })
}

fn sparse_line(it: &Measured) -> Line {
    let what = format!(
        "the same into many small shards: {} files, 28 days, n_bits 8 (up to 7,168 shards)",
        it.files
    );
    let line = Line::new("pack-sparse", what, Target::Told, "×");
    with_figures(line, it, &it.sparse)
}

fn verify_line(it: &Measured) -> Line {
    let what = format!("`verify --deep` beside `des migrate`, {} files", it.files);
    let verify = || it.verify.iter().map(|ran| ran.seconds);
    Line::new("verify", what, Target::AtLeast(3.0), "× the pack rate")
        .measured(Spread::of_ratios(times(&it.usual).zip(verify())))
        .figure("verify --deep", "files/s", per_second(it.files, verify()))
        .figure("des migrate", "files/s", per_second(it.files, times(&it.usual)))
}

/// How far the rates of the sizes lie apart.
fn sizes_line(measured: &[Measured]) -> Line {
    let rates = |it: &Measured| per_second(it.files, times(&it.usual)).median;
    let all = Spread::of(measured.iter().map(rates));
    let mut line = Line::new(
        "pack-sizes",
        "files/s of `des migrate` by number of files, 1 day, n_bits 4: slowest to fastest",
        Target::AtLeast(0.85),
        "×",
    )
    .measured(Spread::of([all.min / all.max]));
    let mut points = [Vec::new(), Vec::new(), Vec::new()];
    for it in measured {
        let tar = per_second(it.files, it.tar.iter().map(|ran| ran.seconds));
        let (usual, sparse) =
            (per_second(it.files, times(&it.usual)), per_second(it.files, times(&it.sparse)));
        line = line
            .figure(format!("des, {} files", it.files), "files/s", usual)
            .figure(
                format!("des, {} files, to tar | zstd", it.files),
                "×",
                ratio(&it.usual, &it.tar),
            )
            .figure(format!("tar | zstd, {} files", it.files), "files/s", tar);
        #[expect(clippy::cast_precision_loss, reason = "a plot")]
        let x = it.files as f64;
        for (points, rate) in points.iter_mut().zip([usual, sparse, tar]) {
            points.push((x, rate.median));
        }
    }
    let names = ["des, 1 day, n_bits 4", "des, 28 days, n_bits 8", "tar | zstd -3 -T2"];
    let series = names.map(str::to_owned).into_iter().zip(points).collect();
    let title = "Files a second by number of files".to_owned();
    line.plot(Plot { title, x: "files", y: "files/s", series })
}
