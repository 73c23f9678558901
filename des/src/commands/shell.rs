//! `des completions` and `des man`: what a shell and `man` need to know of the command line, made
//! from the command line itself.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::CommandFactory as _;
use serde::Serialize;

use crate::cli::{Cli, CompletionsArgs};
use crate::output::{Exit, Failure, Output};

pub(super) fn completions(args: CompletionsArgs, output: Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "des", &mut script);
    output.raw(&script)?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Pages {
    pages: Vec<PathBuf>,
}

pub(super) fn man(dir: &Path, output: Output) -> Result<Exit, Failure> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut des = Cli::command().disable_help_subcommand(true);
    des.build();
    let mut done = Pages { pages: Vec::new() };
    write_pages(dir, &des, &mut done.pages)?;
    output.result(&done, |it| {
        let lines = it.pages.iter().map(|page| format!("{}\n", page.display()));
        lines.collect()
    })?;
    Ok(Exit::Done)
}

/// The page of `command`, and those of the commands below it.
fn write_pages(
    dir: &Path,
    command: &clap::Command,
    written: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or("des").to_owned();
    let man = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("des ", env!("CARGO_PKG_VERSION")))
        .manual("DES Fleet");
    let path = dir.join(format!("{name}.1"));
    let cannot = || format!("cannot write {}", path.display());
    let mut page = Vec::new();
    man.render(&mut page)?;
    std::fs::write(&path, page).with_context(cannot)?;
    written.push(path);
    command.get_subcommands().try_for_each(|below| write_pages(dir, below, written))
}
