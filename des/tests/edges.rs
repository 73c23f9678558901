//! The layers: which crate may use which, and what the innermost one does without.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// What each crate may use of the workspace. Dependencies of tests are held to the same, so that
/// no crate's tests need what the crate itself must not know.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("des-fleet", &["coordinator", "worker", "retriever", "backends", "protocol"]),
    ("coordinator", &["backends", "protocol"]),
    ("worker", &["backends", "protocol"]),
    ("retriever", &["backends", "protocol"]),
    ("loadtest", &["retriever", "backends", "protocol"]),
    ("backends", &["protocol"]),
    ("protocol", &[]),
];

/// No I/O, no runtime: neither directly nor through others.
const NOT_IN_PROTOCOL: [&str; 8] =
    ["tokio", "sqlx", "lapin", "object_store", "reqwest", "hyper", "async-trait", "mio"];

fn metadata() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).other_options(["--locked".into()]);
    command.exec().expect("cargo metadata")
}

#[test]
fn every_edge_of_the_workspace_is_allowed() {
    let metadata = metadata();
    let members: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, known, "a crate came or went: say here what it may use");
    for package in metadata.workspace_packages() {
        let allowed = ALLOWED.iter().find(|(name, _)| package.name.as_str() == *name);
        let (_, allowed) = allowed.expect("it is known");
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            assert!(
                !members.contains(name) || allowed.contains(&name),
                "{} must not depend on {name}",
                package.name
            );
        }
    }
}

#[test]
fn the_protocol_does_without_a_runtime_and_without_io() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("the dependency graph");
    let protocol = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name.as_str() == "protocol")
        .expect("protocol");
    let mut reached: BTreeSet<&PackageId> = BTreeSet::new();
    let mut left = vec![&protocol.id];
    while let Some(id) = left.pop() {
        if !reached.insert(id) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == *id).expect("a node");
        let needed = node.deps.iter().filter(|dependency| {
            dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
        });
        left.extend(needed.map(|dependency| &dependency.pkg));
    }
    let names: BTreeSet<&str> = reached.iter().map(|id| metadata[*id].name.as_str()).collect();
    assert!(names.contains("blake3"), "the graph was not walked: {names:?}");
    for unwanted in NOT_IN_PROTOCOL {
        assert!(!names.contains(unwanted), "protocol depends on {unwanted}");
    }
}
