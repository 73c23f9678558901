//! The judge is judged: a product that does wrong in every way we know, one after the other, each
//! of which the harness has to catch.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::oracle::Finding;
use super::sabotage::Sabotage;

/// What became of one sabotage.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) sabotage: &'static str,
    pub(crate) wrong: &'static str,
    /// The message that caught it; nothing when it got away.
    pub(crate) caught_by: Option<String>,
    pub(crate) seconds: f64,
}

impl Verdict {
    pub(crate) fn of(sabotage: &Sabotage, findings: &[Finding], seconds: f64) -> Self {
        // A fleet that gets stuck has not been caught for that.
        let caught = findings.iter().find(|it| sabotage.sins.contains(&it.sin));
        let caught_by = caught.map(|it| format!("{:?}: {}", it.sin, it.what));
        Self { sabotage: sabotage.name, wrong: sabotage.wrong, caught_by, seconds }
    }

    /// Whether the judge did what is asked of it.
    pub(crate) const fn is_good(&self) -> bool {
        self.caught_by.is_some()
    }
}

/// For people.
pub(crate) fn table(verdicts: &[Verdict]) -> String {
    let caught = verdicts.iter().filter(|verdict| verdict.caught_by.is_some()).count();
    let mut text = String::new();
    for verdict in verdicts {
        let by = verdict.caught_by.as_deref().unwrap_or("NOT CAUGHT");
        text.push_str(&format!("{:<24} {}\n{:<24} {by}\n", verdict.sabotage, verdict.wrong, ""));
    }
    text + &format!("{caught} of {} sabotages were caught\n", verdicts.len())
}

/// Builds `des` with every sabotage compiled in, apart from the one for use.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    let target = root.join("target").join("chaos");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--locked", "-p", "des-fleet", "--features", "sabotage", "--target-dir"])
        .arg(&target)
        .current_dir(root)
        .stdin(Stdio::null());
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if profile == "release" {
        command.arg("--release");
    }
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "des could not be built for sabotage: cargo ended with {status}");
    Ok(target.join(profile).join("des"))
}
