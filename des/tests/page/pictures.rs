//! Pictures of the page for the papers, taken where `DES_TEST_SCREENSHOTS` says.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::browser::Browser;

/// Pixels that a picture is high at most.
const HIGHEST: u64 = 6_000;

/// Takes a picture of the whole page; in a run that is to take none, it looks all the same.
#[track_caller]
pub(crate) fn take(browser: &Browser, name: &str) {
    let picture = browser.picture(HIGHEST);
    assert!(picture.len() > 10_000, "there is nothing to be seen");
    let Some(directory) = std::env::var_os("DES_TEST_SCREENSHOTS") else { return };
    // Tests run in the directory of their crate.
    let directory = PathBuf::from("..").join(directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join(name);
    let mut decode = Command::new("base64");
    let mut child = decode
        .arg("--decode")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&path).expect("a file"))
        .spawn()
        .expect("base64 of coreutils");
    let mut pipe = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut pipe, picture.as_bytes()).expect("written");
    drop(pipe);
    assert!(child.wait().expect("it ends").success());
}
