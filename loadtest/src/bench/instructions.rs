//! Instructions per file, counted by valgrind: what a regression shows in, whatever the machine does.

use anyhow::Context as _;
use serde_json::json;

use super::Bench;
use super::embedded::Ground;
use crate::generate::Spec;
use crate::measure::line::{Line, Target};

/// Two sets, so that what a run costs whatever it archives can be told from what a file costs.
const FILES: [u64; 2] = [2_000, 6_000];

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Line>> {
    let line = Line::new(
        "instructions",
        "instructions per file of `des migrate --workers 1`, files of 3.5 KB, 1 day, n_bits 4 \
         (valgrind --tool=callgrind)",
        Target::Told,
        "instructions/file",
    );
    if std::process::Command::new("valgrind").arg("--version").output().is_err() {
        return Ok(vec![line.note("valgrind is not installed: not measured")]);
    }
    let few = instructions(bench, FILES[0])?;
    let many = instructions(bench, FILES[1])?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (each, total, files) = {
        let between = (FILES[1] - FILES[0]) as f64;
        (many.saturating_sub(few) as f64 / between, many as f64, FILES[1] as f64)
    };
    let fixed = total - each * files;
    Ok(vec![
        line.measured(crate::measure::spread::Spread::of([each]))
            .one("of a run without files", "million instructions", fixed / 1e6)
            .one(format!("of a run over {} files", FILES[1]), "million instructions", total / 1e6),
    ])
}

fn instructions(bench: &Bench, files: u64) -> anyhow::Result<u64> {
    // One thread that reads: how two share their work would be counted, too.
    let more = json!({ "worker": { "readers": 1 } });
    let spec = Spec::usual(files, 1);
    let ground = Ground::make(&bench.des, &bench.dir, &spec, 4, &more)?;
    ground.clear()?;
    let counts = bench.dir.join("callgrind.out");
    let of_valgrind = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", counts.display()),
    ];
    let mut words: Vec<String> = of_valgrind.into();
    words.extend(ground.migrate_command());
    words.extend(["--workers".to_owned(), "1".to_owned()]);
    let (ran, _) = ground.run(&words)?;
    ground.clear()?;
    collected(&ran.stderr).with_context(|| format!("valgrind said no sum: {}", ran.stderr))
}

/// The sum that callgrind prints at the end: `==123== Collected : 4567`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().rev().find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_found_among_what_valgrind_says() {
        let said = "==7== Events    : Ir\n==7== Collected : 123456\n==7==\n==7== I   refs:  1\n";
        assert_eq!(collected(said), Some(123_456));
        assert_eq!(collected("nothing"), None);
    }
}
