//! The Dockerfile, which nobody here can build.

use std::process::Command;

use super::programs::{path, succeeds, text};

/// What the base image has for a program: glibc and libgcc.
const IN_THE_IMAGE: [&str; 6] = [
    "linux-vdso.so.1",
    "libgcc_s.so.1",
    "libm.so.6",
    "libc.so.6",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
];

#[test]
fn the_binary_needs_no_library_that_the_image_lacks() {
    let needed = succeeds(Command::new("ldd").arg(env!("CARGO_BIN_EXE_des")));
    let names: Vec<&str> =
        needed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"libc.so.6"), "{needed}");
    for name in names {
        assert!(IN_THE_IMAGE.contains(&name), "{name} is not in the image:\n{needed}");
    }
}

#[test]
fn the_build_sees_every_crate_and_no_secret() {
    let ignored = text(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "nothing but what is named");
    let let_in: Vec<&str> = lines.map(|line| line.strip_prefix('!').expect("a name")).collect();
    for name in &let_in {
        assert!(path(name).exists(), "{name} is not there");
    }
    let workspace = text("Cargo.toml");
    let members = workspace.split_once("members = [").expect("members").1;
    let members = members.split_once(']').expect("an end").0.split('"').skip(1).step_by(2);
    for name in members.chain(["Cargo.toml", "Cargo.lock", "migrations"]) {
        assert!(let_in.contains(&name), "{name} is kept from the build");
    }
    assert!(!let_in.iter().any(|name| name.starts_with("compose") || name.starts_with('.')));
}

#[test]
fn images_are_pinned_and_nobody_is_root() {
    let dockerfile = text("Dockerfile");
    let from: Vec<&str> =
        dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let stages: Vec<&str> =
        from.iter().filter_map(|it| it.split_once(" AS ")).map(|it| it.1).collect();
    assert_eq!(stages, ["build", "base", "samples", "des"], "the last one is what is built");
    for image in from.iter().filter_map(|it| it.split(' ').next()) {
        let is_stage = stages.contains(&image);
        let tag = image.split_once(':').map(|(_, tag)| tag);
        assert!(is_stage || tag.is_some_and(|tag| tag != "latest"), "{image}");
    }
    let (_, version) = text("Cargo.toml")
        .split_once("rust-version = \"")
        .map(|(before, after)| (before.to_owned(), after.to_owned()))
        .expect("a version");
    let version = version.split('"').next().expect("a version").to_owned();
    assert!(from[0].starts_with(&format!("rust:{version}-")), "{} is not {version}", from[0]);
    let users: Vec<&str> =
        dockerfile.lines().filter_map(|line| line.strip_prefix("USER ")).collect();
    assert_eq!(users, ["65532:65532"], "of the base of both images");
    for copied in dockerfile.lines().filter_map(|line| line.strip_prefix("COPY --from=build ")) {
        let source = copied.split(' ').find(|it| !it.starts_with("--")).expect("a source");
        let made = ["/out/data", "/out/spool"].contains(&source);
        let built = source
            .strip_prefix("/out/")
            .is_some_and(|name| dockerfile.contains(&format!("target/release/{name}")));
        assert!(made || built, "{source} is never made");
    }
}
