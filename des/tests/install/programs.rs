//! Files of the repository, and programs that are not of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A file or directory of the repository.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

#[track_caller]
pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

#[track_caller]
pub(crate) fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// Every document of a YAML file.
#[track_caller]
pub(crate) fn documents(name: &str) -> Vec<Value> {
    parsed(name, &text(name))
}

/// The documents of a text of YAML, whose name is for whoever reads what is wrong with it.
#[track_caller]
pub(crate) fn parsed(name: &str, text: &str) -> Vec<Value> {
    let parse = |it| serde_saphyr::from_str(it).unwrap_or_else(|why| panic!("{name}: {why}"));
    text.split("\n---\n").map(parse).collect()
}

/// The names of the files of a directory of the repository that end so, sorted.
#[track_caller]
pub(crate) fn files(directory: &str, ends: &str) -> Vec<String> {
    let entries =
        std::fs::read_dir(path(directory)).unwrap_or_else(|why| panic!("{directory}: {why}"));
    let names =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ends)).collect();
    names.sort();
    assert!(!names.is_empty(), "{directory} has no {ends}");
    names
}

/// A program that `./test` looks for or installs; `None` where it said that it is not there.
#[track_caller]
pub(crate) fn program(name: &str) -> Option<Command> {
    let not_run = std::env::var("DES_TEST_NOT_RUN");
    if not_run.as_ref().is_ok_and(|names| names.split(' ').any(|it| it == name)) {
        use std::io::Write as _;
        let told = format!("NOT RUN: a check by {name}, which is not there\n");
        std::io::stderr().write_all(told.as_bytes()).expect("stderr");
        return None;
    }
    let checkers = std::env::var("DES_TEST_CHECKERS").unwrap_or_else(|_| {
        panic!("DES_TEST_CHECKERS is not set: run ./test, which installs {name}")
    });
    let of_pypi = Path::new(&checkers).join("venv/bin").join(name);
    let mut command = Command::new(if of_pypi.exists() { of_pypi } else { name.into() });
    command.current_dir(checkers);
    Some(command)
}

pub(crate) fn said(output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{stdout}{stderr}")
}

/// What it says on stdout and stderr; it must exit with 0.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let said = said(&output);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}

/// What it says; it must find something wrong.
#[track_caller]
pub(crate) fn complains(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let said = said(&output);
    assert!(!output.status.success(), "{command:?} finds nothing wrong:\n{said}");
    said
}

/// The words of a list.
#[track_caller]
pub(crate) fn words(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap_or_else(|| panic!("a list: {list}"));
    list.iter().map(|it| it.as_str().unwrap_or_else(|| panic!("a text: {it}")).to_owned()).collect()
}

/// `des` must know the command line: all that it complains of is that the configuration is not here.
#[track_caller]
pub(crate) fn assert_known_to_des(arguments: &[String]) {
    let nowhere = "/nonexistent/des.yaml";
    let config = arguments.iter().position(|it| it == "--config").expect("a configuration") + 1;
    let mut arguments = arguments.to_vec();
    nowhere.clone_into(&mut arguments[config]);
    let output =
        Command::new(env!("CARGO_BIN_EXE_des")).args(&arguments).output().expect("it runs");
    let said = said(&output);
    let expected = format!("cannot read the configuration {nowhere}");
    assert!(output.status.code() == Some(2) && said.contains(&expected), "{arguments:?}: {said}");
}
