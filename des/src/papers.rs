//! What README.md, CONTRIBUTING.md and docs/ say of commands and configurations is what there is.

use std::path::Path;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::config::{Config, REFERENCE};

#[path = "../tests/support/blocks.rs"]
mod blocks;

#[path = "../tests/support/commands.rs"]
mod commands;

use blocks::{blocks, papers};
use commands::{commands, words};

/// The words of `des` and its arguments, where a command runs it, by whatever path or other program.
fn of_des(words: &[String]) -> Option<&[String]> {
    let is_des = |word: &String| word == "des" || word.ends_with("/des");
    // To kubectl, `des` is also a namespace: what runs in a pod stands behind `--`.
    let words = match words.first().is_some_and(|it| it == "kubectl") {
        true => words.split(|it| it == "--").nth(1)?,
        false => words,
    };
    let is_command = |word: &String| word.starts_with(|it: char| it.is_ascii_lowercase());
    let direct = words.windows(2).position(|it| is_des(&it[0]) && is_command(&it[1]));
    let by_cargo = words.starts_with(&["cargo", "run", "--release", "--"].map(str::to_owned));
    direct.or(by_cargo.then_some(3)).map(|at| &words[at..])
}

#[test]
fn every_command_in_a_block_can_be_run() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (place, words) in commands() {
        if let Some(words) = of_des(&words) {
            if let Err(error) = Cli::try_parse_from(words) {
                wrong.push(format!("{place}: {words:?}\n{error}"));
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 50, "the commands were not found: {count}");
}

/// Programs that are not ours, in commands that few tests run: what these name of the repository is
/// there. Commands of `curl` are run by a test of the page, of `psql` and `rabbitmqctl` by one of the fleet.
const OTHERS: [&str; 18] = [
    ".ci/run",
    "aws",
    "cargo",
    "cd",
    "cp",
    "curl",
    "docker",
    "echo",
    "export",
    "install",
    "kubectl",
    "pngquant",
    "psql",
    "rabbitmqctl",
    "systemctl",
    "systemd-run",
    "test",
    "useradd",
];

#[test]
fn what_a_command_names_of_the_repository_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut count, mut wrong) = (0, Vec::new());
    for (place, words) in commands() {
        let mut words = words.iter().skip_while(|it| it.contains('=')).map(String::as_str);
        let Some(program) = words.next() else { continue };
        let ours = [program, program.rsplit('/').next().unwrap_or_default()];
        if !ours.iter().any(|it| ["des", "loadtest"].contains(it) || OTHERS.contains(it)) {
            wrong.push(format!("{place}: {program} is no program that a test knows"));
        }
        // `target` is made; the others are directories of the repository.
        let is_ours = |word: &&str| {
            let beginnings = ["compose/", "docs/", "migrations/", ".ci/", "./test"];
            beginnings.iter().any(|it| word.starts_with(it))
        };
        for word in std::iter::once(program).chain(words).filter(is_ours) {
            let (directory, name) = word.rsplit_once('/').unwrap_or((".", word));
            let listing = std::fs::read_dir(root.join(directory));
            let mut names = listing
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|it| it.file_name().into_string().ok());
            let fits = |it: String| match name.split_once('*') {
                Some((begin, end)) => it.starts_with(begin) && it.ends_with(end),
                None => it == name || name.is_empty(),
            };
            if !names.any(fits) {
                wrong.push(format!("{place}: there is no {word}"));
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 8, "the paths were not found: {count}");
}

/// In running text arguments are left out, and values are named rather than given.
#[test]
fn every_command_in_a_sentence_exists_with_its_options() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (name, text) in papers() {
        let text = text.replace('\n', " ");
        let spans = text.split('`').skip(1).step_by(2);
        let is_command = |span: &&str| span.starts_with("des ") && !span.starts_with("des help");
        for span in spans.filter(is_command) {
            if let Err(error) = Cli::try_parse_from(words(span)) {
                let vague = [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::DisplayHelp,
                    ErrorKind::DisplayVersion,
                    ErrorKind::ValueValidation,
                    ErrorKind::InvalidValue,
                    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                ];
                if !vague.contains(&error.kind()) {
                    wrong.push(format!("{name}: `{span}`\n{error}"));
                }
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 80, "the commands were not found: {count}");
}

#[test]
fn every_configuration_is_valid() {
    let variable = |name: &str| {
        let value = match name {
            "DES_BROKER_URL" => "amqp://user:password@broker/%2f",
            "DES_ADMIN_TOKEN" => "0123456789abcdef",
            name if name.ends_with("_URL") => "postgresql://user:password@host/db",
            name if name.ends_with("_PASSWORD") => "password",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let mut count = 0;
    for block in blocks().into_iter().filter(|block| block.language == "yaml") {
        let has = |section: &str| block.text.lines().any(|line| line.starts_with(section));
        let least = if has("packer:") || has("store:") { "" } else { "packer: {output_dir: /a}\n" };
        let text = format!("{least}{}", block.text);
        let read = Config::parse(Path::new(&block.place), &text, &variable);
        assert!(read.is_ok(), "{}", read.expect_err("it fails"));
        count += 1;
    }
    assert!(count > 10, "the configurations were not found: {count}");
}

#[test]
fn what_is_called_json_is_json() {
    let documents = blocks().into_iter().filter(|block| block.language == "json");
    let count = documents.map(|block| {
        for line in document_or_lines(&block.text) {
            let read = serde_json::from_str::<serde_json::Value>(line);
            assert!(read.is_ok(), "{}: {}", block.place, read.expect_err("it fails"));
        }
    });
    assert!(count.count() > 4, "the documents were not found");
}

/// A log has a document on every line.
fn document_or_lines(text: &str) -> Vec<&str> {
    if text.starts_with("{\n") { vec![text] } else { text.lines().collect() }
}

/// docs/configuration.md, as it follows from the reference.
fn configuration_page() -> String {
    let (head, sections) = REFERENCE.split_once("\n\n").expect("a head");
    let mut page = "# Configuration\n\nEvery key, with its default and its meaning. This page is made \
                    from `des/des.reference.yaml`,\nwhich is part of the program: `des config` prints it. \
                    Tests hold its keys and defaults to\nwhat the program reads.\n\n"
        .to_owned();
    let rules = head.lines().skip(2).map(|line| line.trim_start_matches('#').trim_start());
    page += &format!("```text\n{}\n```\n", rules.collect::<Vec<_>>().join("\n"));
    for section in sections.split("\n\n") {
        let named =
            section.lines().find(|line| line.starts_with(|it: char| it.is_ascii_lowercase()));
        let name = named.and_then(|line| line.split(':').next()).expect("a section has a name");
        page += &format!("\n## {name}\n\n```yaml\n{}\n```\n", section.trim_end());
    }
    page
}

/// `DES_TEST_WRITE=1 cargo test -p des-fleet papers` writes it.
#[test]
fn the_page_of_the_configuration_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("DES_TEST_WRITE").is_some() {
        std::fs::write(&path, configuration_page()).expect("written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page, configuration_page(), "docs/configuration.md is not up to date");
}
