//! The objects for Kubernetes: against the schemas of Kubernetes and of the operators, and against each
//! other.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::programs::{
    assert_known_to_des, complains, documents, files, path, program, said, succeeds, text, words,
    yaml,
};

pub(crate) const DIRECTORIES: [&str; 4] = ["fleet", "single", "autoscaling", "monitoring"];
const KUBERNETES: &str = "1.33";
/// Holds each object of stdin, one a line, to the schema of its custom resource.
const CHECK_CUSTOM: &str = r#"
import { readFileSync } from "node:fs";
const models = {
  "keda.sh/v1alpha1": await import("@kubernetes-models/keda/keda.sh/v1alpha1"),
  "monitoring.coreos.com/v1":
    await import("@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1"),
};
for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const object = JSON.parse(line);
  const models_of_version = models[object.apiVersion];
  const Model = models_of_version[object.kind] ?? models_of_version.default[object.kind];
  new Model(object).validate();
  console.log(`${object.kind} is right`);
}
"#;

pub(crate) fn directory(name: &str) -> String {
    format!("compose/kubernetes/{name}")
}

/// The files of a directory that its kustomization names as objects.
fn resources(name: &str) -> Vec<String> {
    let directory = directory(name);
    let named = words(&yaml(&format!("{directory}/kustomization.yaml"))["resources"]);
    named.into_iter().map(|file| format!("{directory}/{file}")).collect()
}

/// The examples of secrets.
pub(crate) fn secrets(names: &[&str]) -> Vec<Value> {
    let of_pods = ["fleet", "single"].iter().filter(|it| names.contains(it));
    of_pods
        .flat_map(|name| documents(&format!("{}/secrets.example.yaml", directory(name))))
        .collect()
}

/// Every object as it is written, of which kustomize makes what `kubectl apply -k` applies, and the
/// examples of secrets.
pub(crate) fn objects(names: &[&str]) -> Vec<Value> {
    let written = names.iter().flat_map(|name| resources(name)).flat_map(|file| documents(&file));
    written.chain(secrets(names)).collect()
}

pub(crate) fn is_custom(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().expect("a version");
    ["keda.sh", "monitoring.coreos.com"].iter().any(|it| version.starts_with(it))
}

pub(crate) fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found =
        objects.iter().filter(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The template of a Deployment's or CronJob's pods.
pub(crate) fn pods(object: &Value) -> Option<&Value> {
    match object["kind"].as_str() {
        Some("Deployment") => Some(&object["spec"]["template"]),
        Some("CronJob") => Some(&object["spec"]["jobTemplate"]["spec"]["template"]),
        _ => None,
    }
}

/// The custom ones have schemas of their own.
#[track_caller]
pub(crate) fn assert_of_the_schema_of_kubernetes(objects: &[Value]) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut paths = Vec::new();
    for (number, object) in objects.iter().filter(|it| !is_custom(it)).enumerate() {
        let path = dir.path().join(format!("{number}.yaml"));
        std::fs::write(&path, object.to_string()).expect("written");
        paths.push(path);
    }
    assert!(paths.len() > 12, "{paths:?}");
    let Some(mut validate) = program("kubernetes-validate") else { return };
    succeeds(validate.args(["--strict", "-k", KUBERNETES]).args(&paths));
}

#[test]
fn objects_are_of_the_schema_of_kubernetes() {
    assert_of_the_schema_of_kubernetes(&objects(&DIRECTORIES));
    let Some(mut validate) = program("kubernetes-validate") else { return };
    let wrong = text("compose/kubernetes/fleet/worker-deployment.yaml")
        .replace("terminationGracePeriodSeconds", "terminationGraceSeconds");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("wrong.yaml");
    std::fs::write(&path, wrong).expect("written");
    let why = complains(validate.args(["--strict", "-k", KUBERNETES]).arg(&path));
    assert!(why.contains("terminationGraceSeconds"), "{why}");
}

/// What the models of the operators say of custom objects; `None` where these cannot be had.
fn checked_by_models(objects: &[Value]) -> Option<Output> {
    let _models = program("@kubernetes-models")?;
    let mut node = program("node")?;
    node.args(["--input-type=module", "-e", CHECK_CUSTOM]);
    node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = node.spawn().expect("node runs");
    let lines: String = objects.iter().map(|it| format!("{it}\n")).collect();
    running.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("written");
    Some(running.wait_with_output().expect("it ends"))
}

#[track_caller]
pub(crate) fn assert_of_the_schemas_of_the_operators(objects: &[Value]) {
    let custom: Vec<_> = objects.iter().filter(|it| is_custom(it)).cloned().collect();
    let kinds: BTreeSet<_> = custom.iter().filter_map(|it| it["kind"].as_str()).collect();
    let expected = ["PrometheusRule", "ScaledObject", "ServiceMonitor", "TriggerAuthentication"];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    let Some(output) = checked_by_models(&custom) else { return };
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches(" is right").count(), custom.len(), "{said}");
}

#[test]
fn custom_objects_are_of_the_schemas_of_keda_and_the_prometheus_operator() {
    let objects = objects(&DIRECTORIES);
    assert_of_the_schemas_of_the_operators(&objects);
    let mut wrong = one(&objects, "ScaledObject", "des-worker").clone();
    wrong["spec"]["maxReplicaCount"] = "many".into();
    let Some(output) = checked_by_models(&[wrong]) else { return };
    let said = said(&output);
    assert!(!output.status.success() && said.contains("maxReplicaCount"), "{said}");
}

#[test]
fn every_file_has_its_place_and_every_place_its_file() {
    assert_eq!(files("compose/kubernetes", "").len(), DIRECTORIES.len());
    for name in DIRECTORIES {
        let directory = directory(name);
        let kustomization = yaml(&format!("{directory}/kustomization.yaml"));
        assert_eq!(kustomization["namespace"], "des");
        let mut named: BTreeSet<String> = words(&kustomization["resources"]).into_iter().collect();
        for generator in kustomization["configMapGenerator"].as_array().into_iter().flatten() {
            for file in words(&generator["files"]) {
                let (key, file) = file.split_once('=').expect("key=file");
                assert_eq!(key, "des.yaml");
                named.insert(file.to_owned());
            }
        }
        let there: BTreeSet<String> = files(&directory, ".yaml")
            .into_iter()
            .filter(|file| file != "kustomization.yaml" && !file.ends_with(".example.yaml"))
            .collect();
        assert_eq!(there, named, "{name}");
    }
}

/// What a pod names is among the objects; each pod has one of the ConfigMaps `maps` for itself.
#[track_caller]
pub(crate) fn assert_pods_find_what_they_name(objects: &[Value], image: &Value, maps: &[&str]) {
    let mut mounted = Vec::new();
    for pods in objects.iter().filter_map(pods) {
        let container = &pods["spec"]["containers"][0];
        assert_eq!(container["image"], *image);
        assert_known_to_des(&words(&container["args"]));
        one(objects, "ServiceAccount", pods["spec"]["serviceAccountName"].as_str().expect("one"));
        for secret in container["envFrom"].as_array().expect("secrets") {
            one(objects, "Secret", secret["secretRef"]["name"].as_str().expect("a name"));
        }
        let volumes = pods["spec"]["volumes"].as_array().expect("volumes");
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            assert!(volumes.iter().any(|it| it["name"] == mount["name"]), "{mount}");
        }
        mounted.extend(volumes.iter().filter_map(|it| it["configMap"]["name"].as_str()));
        assert_confined(pods);
    }
    mounted.sort_unstable();
    assert_eq!(mounted, maps, "ConfigMaps that pods name, and those that are made");
}

#[test]
fn names_fit_together() {
    for name in ["fleet", "single"] {
        let kustomization = yaml(&format!("{}/kustomization.yaml", directory(name)));
        let maps = kustomization["configMapGenerator"].as_array().expect("maps").iter();
        let maps: Vec<_> = maps.filter_map(|it| it["name"].as_str()).collect();
        assert_pods_find_what_they_name(
            &objects(&[name]),
            &kustomization["images"][0]["name"],
            &maps,
        );
    }
}

#[test]
fn labels_and_ports_fit_together() {
    assert_labels_and_ports_fit(&objects(&["fleet"]), &objects(&["monitoring"]));
}

#[track_caller]
pub(crate) fn assert_labels_and_ports_fit(fleet: &[Value], monitoring: &[Value]) {
    let labels: Vec<_> =
        fleet.iter().filter_map(pods).map(|it| it["metadata"]["labels"].clone()).collect();
    let selects = |selector: &Value| {
        let wanted = selector.as_object().expect("labels");
        labels.iter().filter(|it| wanted.iter().all(|(key, value)| it[key] == *value)).count()
    };
    for object in fleet {
        match object["kind"].as_str().expect("a kind") {
            "Service" => {
                assert_eq!(selects(&object["spec"]["selector"]), 1, "{object}");
                assert_eq!(object["spec"]["ports"][0]["name"], "http", "what the monitor scrapes");
            }
            "PodDisruptionBudget" | "Deployment" => {
                assert_eq!(selects(&object["spec"]["selector"]["matchLabels"]), 1, "{object}");
            }
            _ => {}
        }
    }
    let monitor = one(monitoring, "ServiceMonitor", "des");
    let wanted = &monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"];
    let services = fleet.iter().filter(|it| it["kind"] == "Service");
    assert!(
        services
            .into_iter()
            .all(|it| it["metadata"]["labels"]["app.kubernetes.io/name"] == *wanted)
    );
}

/// What the namespace's `restricted` demands, and a root that nobody writes.
#[track_caller]
fn assert_confined(pods: &Value) {
    let (pod, container) = (&pods["spec"], &pods["spec"]["containers"][0]);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(words(&container["securityContext"]["capabilities"]["drop"]), ["ALL"]);
    assert!(container["resources"]["limits"]["memory"].is_string());
}

#[test]
fn workers_know_no_database_and_pods_are_stopped_with_time_to_drain() {
    let fleet = objects(&["fleet"]);
    let worker = pods(one(&fleet, "Deployment", "des-worker")).expect("pods");
    let secrets = worker["spec"]["containers"][0]["envFrom"].to_string();
    assert!(secrets.contains("des-broker-and-store") && !secrets.contains("des-databases"));
    let policy = one(&fleet, "NetworkPolicy", "des-databases");
    let who = &policy["spec"]["podSelector"]["matchExpressions"][1]["values"];
    assert_eq!(words(who), ["coordinator", "migrate"]);
    let single = objects(&["single"]);
    let migrate = pods(one(&single, "CronJob", "des-migrate")).expect("pods");
    for (pods, config) in [(worker, "fleet/worker.yaml"), (migrate, "single/migrate.yaml")] {
        let config = yaml(&directory(config));
        let drain = config["worker"]["drain_timeout"].as_str().expect("a time");
        let drain = humantime::parse_duration(drain).expect("a time");
        let grace = pods["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        assert!(Duration::from_secs(grace) >= drain + Duration::from_secs(15), "{grace}");
    }
}

#[test]
fn keda_asks_for_the_queue_and_the_workers_that_there_are() {
    let scaling = objects(&["autoscaling"]);
    let scaled = one(&scaling, "ScaledObject", "des-worker");
    let fleet = objects(&["fleet"]);
    one(&fleet, "Deployment", scaled["spec"]["scaleTargetRef"]["name"].as_str().expect("a name"));
    let queue = &scaled["spec"]["triggers"][0]["metadata"]["queueName"];
    assert_eq!(*queue, "des.tasks", "broker.prefix is `des` unless something else is said");
    let broker = yaml(&directory("fleet/worker.yaml"))["broker"].clone();
    assert!(broker.get("prefix").is_none(), "{broker}");
    // What waits, what is due, and what is in hand: none of them alone keeps workers that have work.
    let triggers = scaled["spec"]["triggers"].as_array().expect("triggers").iter();
    let queries: Vec<_> =
        triggers.filter_map(|trigger| trigger["metadata"]["query"].as_str()).collect();
    assert!(queries.iter().any(|query| query.contains("des_worker_slots_busy")), "{queries:?}");
    let due = queries.iter().find(|query| query.contains("des_backlog_seconds")).expect("a query");
    assert!(due.contains("[10m"), "workers as they were while the pace was measured: {due}");
    let access = one(&scaling, "TriggerAuthentication", "des-broker");
    let key = &access["spec"]["secretTargetRef"][0];
    let secret = one(&fleet, "Secret", key["name"].as_str().expect("a name"));
    assert!(secret["stringData"].get(key["key"].as_str().expect("a key")).is_some(), "{key}");
}

#[test]
fn a_pod_that_is_not_ready_keeps_no_node_from_being_drained() {
    let fleet = objects(&["fleet"]);
    let budgets: Vec<_> = fleet.iter().filter(|it| it["kind"] == "PodDisruptionBudget").collect();
    assert_eq!(budgets.len(), 2);
    for budget in budgets {
        assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow", "{budget}");
    }
}

/// A process without a limit of CPU sees all cores of its machine.
#[test]
fn a_process_that_does_everything_has_a_number_of_workers() {
    let single = objects(&["single"]);
    let migrate = pods(one(&single, "CronJob", "des-migrate")).expect("pods");
    let args = words(&migrate["spec"]["containers"][0]["args"]);
    assert!(args.windows(2).any(|pair| pair == ["--workers", "4"]), "{args:?}");
    let unit = super::programs::text("compose/systemd/des-migrate.service");
    assert!(unit.contains(" --workers 4 "), "{unit}");
}

#[test]
fn the_operators_rules_are_those_of_compose() {
    let rule = yaml(&directory("monitoring/prometheus-rule.yaml"));
    assert_eq!(rule["spec"]["groups"], yaml("compose/prometheus/alerts.yaml")["groups"]);
    assert!(path("docs/runbooks.md").exists());
}
