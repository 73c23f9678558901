//! What README.md and docs/ say of this program's commands is what there is.

use clap::Parser as _;

use crate::Cli;

#[path = "../../des/tests/support/blocks.rs"]
mod blocks;

#[path = "../../des/tests/support/commands.rs"]
mod commands;

/// The words of `loadtest` and its arguments, where a command runs it.
fn of_loadtest(words: &[String]) -> Option<&[String]> {
    let at = words.windows(2).position(|it| it[0].ends_with("/loadtest"));
    let by_cargo =
        words.windows(3).position(|it| it == ["-p", "loadtest", "--"].map(str::to_owned));
    at.or(by_cargo.map(|at| at + 2)).map(|at| &words[at..])
}

#[test]
fn every_command_in_a_block_can_be_run() {
    let mut count = 0;
    for (place, words) in commands::commands() {
        if let Some(words) = of_loadtest(&words) {
            let parsed = Cli::try_parse_from(words).map(|_| ());
            assert!(parsed.is_ok(), "{place}: {words:?}\n{}", parsed.expect_err("it fails"));
            count += 1;
        }
    }
    assert!(count > 8, "the commands were not found: {count}");
}
