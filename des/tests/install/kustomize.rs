//! What `kubectl apply -k` would apply: kustomize, which is in kubectl, makes it of each directory of
//! compose/kubernetes, and it is held to what the objects as they are written are held to.

use std::path::Path;

use serde_json::Value;

use super::kubernetes::{
    DIRECTORIES, assert_labels_and_ports_fit, assert_of_the_schema_of_kubernetes,
    assert_of_the_schemas_of_the_operators, assert_pods_find_what_they_name, directory, is_custom,
    objects, one, secrets,
};
use super::programs::{complains, files, parsed, path, program, succeeds, text};

/// What it makes of a directory; `None` where there is no kubectl.
#[track_caller]
fn kustomized(directory: &Path) -> Option<Vec<Value>> {
    let made = succeeds(program("kubectl")?.arg("kustomize").arg(directory));
    Some(parsed(&directory.display().to_string(), &made))
}

fn of(objects: &[Value], kind: &str) -> Vec<String> {
    let names = objects.iter().filter(|it| it["kind"] == kind);
    names.map(|it| it["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn what_would_be_applied_is_right_and_complete() {
    let mut whole = Vec::new();
    for name in DIRECTORIES {
        let Some(made) = kustomized(&path(&directory(name))) else { return };
        let written = objects(&[name]);
        for object in written.iter().filter(|it| it["kind"] != "Secret") {
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            one(&made, kind.as_str().expect("a kind"), name.as_str().expect("a name"));
        }
        let maps = of(&made, "ConfigMap");
        let of_secrets = of(&written, "Secret");
        assert_eq!(made.len() - maps.len(), written.len() - of_secrets.len(), "{name}");
        assert_eq!(maps.is_empty(), of_secrets.is_empty(), "{name}: {maps:?}");
        for object in &made {
            let (metadata, is_place) = (&object["metadata"], object["kind"] == "Namespace");
            assert_eq!(metadata[if is_place { "name" } else { "namespace" }], "des", "{object}");
            let part_of = &metadata["labels"]["app.kubernetes.io/part-of"];
            assert!(is_custom(object) || part_of == "des-fleet", "{object}");
        }
        whole.push((name, made));
    }
    for (name, made) in &whole {
        let maps = of(made, "ConfigMap");
        if !maps.is_empty() {
            let image = "registry.example.com/des-fleet:0.1.0".into();
            let with_secrets: Vec<_> = made.iter().cloned().chain(secrets(&[name])).collect();
            let maps: Vec<_> = maps.iter().map(String::as_str).collect();
            assert_pods_find_what_they_name(&with_secrets, &image, &maps);
        }
    }
    let made = |of: &str| &whole.iter().find(|(name, _)| *name == of).expect("it was made").1;
    assert_labels_and_ports_fit(made("fleet"), made("monitoring"));
    let all: Vec<_> = whole.iter().flat_map(|(_, made)| made.clone()).collect();
    assert_of_the_schema_of_kubernetes(&all);
    assert_of_the_schemas_of_the_operators(&all);
}

#[test]
fn another_configuration_is_another_config_map_and_a_file_that_is_missing_is_told() {
    let copy = tempfile::tempdir().expect("a directory");
    for file in files(&directory("fleet"), ".yaml") {
        let from = path(&directory("fleet")).join(&file);
        std::fs::copy(from, copy.path().join(&file)).expect("copied");
    }
    let Some(before) = kustomized(copy.path()) else { return };
    let config = copy.path().join("worker.yaml");
    let changed = text("compose/kubernetes/fleet/worker.yaml").replace("slots: 2", "slots: 3");
    std::fs::write(&config, changed).expect("written");
    let after = kustomized(copy.path()).expect("it was there");
    let [before, after] = [before, after].map(|it| of(&it, "ConfigMap"));
    let is_hashed = |name: &String, plain: &str| {
        name.strip_prefix(plain).is_some_and(|hash| hash.len() == 11 && hash.starts_with('-'))
    };
    assert!(is_hashed(&before[0], "des-coordinator") && before[0] == after[0], "{after:?}");
    assert!(is_hashed(&before[1], "des-worker") && before[1] != after[1], "{after:?}");
    std::fs::remove_file(config).expect("removed");
    let mut kubectl = program("kubectl").expect("it was there");
    let why = complains(kubectl.arg("kustomize").arg(copy.path()));
    assert!(why.contains("worker.yaml"), "{why}");
}
