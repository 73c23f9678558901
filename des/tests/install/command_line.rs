//! Completions, man pages and `des ready`.

use std::process::Command;

use super::programs::{complains, program, succeeds};

fn des() -> Command {
    Command::new(env!("CARGO_BIN_EXE_des"))
}

/// Every command, as `des help` lists them.
fn commands() -> Vec<String> {
    let help = succeeds(des().arg("--help"));
    let after = help.split_once("Commands:\n").expect("a list of commands").1;
    let lines = after.lines().take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.filter_map(|line| line.split_whitespace().next());
    let names: Vec<_> = names.filter(|name| *name != "help").map(str::to_owned).collect();
    assert!(names.len() > 20 && names.contains(&"migrate".to_owned()), "{names:?}");
    names
}

#[test]
fn bash_completes_commands_options_and_values() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("des.bash");
    let text = succeeds(des().args(["completions", "bash"]));
    std::fs::write(&script, &text).expect("written");
    succeeds(Command::new("bash").arg("-n").arg(&script));
    let complete = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let program = format!(
            "source {}; COMP_WORDS=({}''); COMP_CWORD={}; _des des \"${{COMP_WORDS[COMP_CWORD]}}\" \
             \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            line,
            words.len() - 1
        );
        succeeds(Command::new("bash").args(["--norc", "-c", &program]))
    };
    assert_eq!(complete("des rebu"), "rebuild-ledger\n");
    assert_eq!(complete("des migrate --mo"), "--mode\n");
    let modes = complete("des migrate --mode ");
    assert!(modes.contains("single") && modes.contains("continuous"), "{modes}");
    for name in commands() {
        assert!(text.contains(&format!("des,{name})")), "{name} is not completed");
    }
}

#[test]
fn other_shells_have_completions_and_unknown_ones_are_refused() {
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let text = succeeds(des().args(["completions", shell]));
        assert!(text.contains("rebuild-ledger"), "{shell}");
    }
    let why = complains(des().args(["completions", "cmd"]));
    assert!(why.contains("possible values: bash"), "{why}");
}

#[test]
fn every_command_has_a_man_page_that_man_and_mandoc_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("made/man1");
    let told = succeeds(des().args(["man", "--dir"]).arg(&pages));
    let mut expected: Vec<_> = commands().iter().map(|name| format!("des-{name}.1")).collect();
    // The program's own, and the one command that stands below another.
    expected.extend(["des.1", "des-audit-export.1"].map(str::to_owned));
    expected.sort();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&pages).expect("a directory") {
        let entry = entry.expect("an entry");
        assert!(told.contains(&entry.path().display().to_string()), "{told}");
        found.push(entry.file_name().into_string().expect("UTF-8"));
    }
    found.sort();
    assert_eq!(found, expected);
    let paths: Vec<_> = found.iter().map(|name| pages.join(name)).collect();
    let overview = std::fs::read_to_string(pages.join("des.1")).expect("a page");
    for name in commands() {
        assert!(overview.contains(&format!("des\\-{}(1)", name.replace('-', "\\-"))), "{name}");
    }
    if let Some(mut mandoc) = program("mandoc") {
        succeeds(mandoc.args(["-Tlint", "-Werror"]).args(&paths));
    }
    if program("man").is_some() {
        for path in &paths {
            let mut man = program("man").expect("it was there");
            man.args(["--warnings", "--encoding=UTF-8", "-l"]).arg(path);
            let output =
                man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100").output().expect("it runs");
            let (shown, warned) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && warned.is_empty(), "{}: {warned}", path.display());
            assert!(shown.contains("SYNOPSIS") && shown.contains("DES Fleet"), "{shown}");
        }
    }
}

#[test]
fn ready_says_what_is_wrong_with_the_question() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("des.yaml");
    let ask = |listen: &str| {
        let text = format!("{{packer: {{output_dir: /archive}}, http: {{listen: {listen}}}}}");
        std::fs::write(&config, text).expect("written");
        let output = des().args(["ready", "--timeout", "2s", "--config"]).arg(&config).output();
        let output = output.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = taken.local_addr().expect("an address").to_string();
    let (code, why) = ask(&format!("\"{mute}\""));
    assert!(code == Some(1) && why.contains("did not answer in time"), "{why}");
    drop(taken);
    let (code, why) = ask(&format!("\"{mute}\""));
    assert!(code == Some(1) && why.contains("nobody answers at"), "{why}");
    let (code, why) = ask("off");
    assert!(code == Some(2) && why.contains("http.listen"), "{why}");
}
