//! An embedded archive: generated files, a SQLite catalog of them, and `des` on both.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::aside::Aside;
use crate::generate::{Spec, catalog};
use crate::measure::child::{Ran, run};

/// Files, their catalog, and a place for the archive.
pub(crate) struct Ground {
    des: PathBuf,
    dir: PathBuf,
    before: Aside,
    rows: u64,
    /// Bytes in all rows' files.
    pub(crate) bytes: u64,
}

impl Ground {
    /// Makes files (`dir/files-N`) and catalog; the archive's configuration has `more` in it.
    pub(crate) fn make(
        des: &Path,
        dir: &Path,
        spec: &Spec,
        n_bits: u8,
        more: &Value,
    ) -> anyhow::Result<Self> {
        let files = dir.join(format!("files-{}", spec.files));
        let bytes = spec.make_files(&files)?;
        let dir = dir.join(format!("run-{}-{}-{n_bits}", spec.rows, spec.days));
        std::fs::create_dir_all(&dir)?;
        let catalog = dir.join("catalog.sqlite");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(catalog::sqlite(&catalog, spec, &files))?;
        let mut config = json!({
            "database": { "url": format!("sqlite:///{}", catalog.display()) },
            "packer": { "output_dir": dir.join("archive"), "n_bits": n_bits },
            "watermark": { "config_db_url": format!("sqlite:///{}/ledger.sqlite", dir.display()) },
            "worker": { "spool_dir": dir },
            "coordinator": { "spool_dir": dir },
        });
        for (section, keys) in more.as_object().into_iter().flatten() {
            for (key, value) in keys.as_object().into_iter().flatten() {
                config[section][key] = value.clone();
            }
        }
        // JSON is YAML.
        std::fs::write(dir.join("des.yaml"), config.to_string())?;
        let before = Aside::below(&dir)?;
        Ok(Self { des: des.to_owned(), dir, before, rows: spec.rows, bytes })
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.dir.join("archive")
    }

    /// Bytes of the ledger, its write-ahead log included: what a run wrote, or more.
    pub(crate) fn ledger_bytes(&self) -> u64 {
        let of = |name| std::fs::metadata(self.dir.join(name)).map_or(0, |it| it.len());
        ["ledger.sqlite", "ledger.sqlite-wal"].into_iter().map(of).sum()
    }

    /// Puts the archive and its ledger aside.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        self.before.put(&["archive", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"])
    }

    /// `des migrate` as it is to be run, into a new archive.
    pub(crate) fn migrate_command(&self) -> Vec<String> {
        let config = self.dir.join("des.yaml").display().to_string();
        let words = ["migrate", "--mode", "single", "--output", "json", "--config"];
        let program = self.des.display().to_string();
        let words = words.map(str::to_owned);
        std::iter::once(program).chain(words).chain([config]).collect()
    }

    /// Archives everything into a new archive, and checks that all of it is there; the run and what
    /// `des` said of it.
    pub(crate) fn migrate(&self) -> anyhow::Result<(Ran, Value)> {
        self.run(&self.migrate_command())
    }

    /// Runs a command that ends in `des migrate`, such as one under a profiler.
    pub(crate) fn run(&self, words: &[String]) -> anyhow::Result<(Ran, Value)> {
        let (program, arguments) = words.split_first().context("a command")?;
        let ran = run(Command::new(program).args(arguments))?;
        let result: Value = serde_json::from_str(&ran.stdout)?;
        let archived = result["files_archived"].as_u64();
        ensure!(
            archived == Some(self.rows),
            "des archived {archived:?} of {} files: {result}",
            self.rows
        );
        Ok((ran, result))
    }

    /// Reads everything back.
    pub(crate) fn verify_deep(&self) -> anyhow::Result<Ran> {
        let config = self.dir.join("des.yaml");
        let mut command = Command::new(&self.des);
        command.args(["verify", "--deep", "--output", "json", "--config"]).arg(config);
        let ran = run(&mut command)?;
        let result: Value = serde_json::from_str(&ran.stdout)?;
        ensure!(result["files"].as_u64() == Some(self.rows), "not all was verified: {result}");
        Ok(ran)
    }
}
