//! Alerts and dashboards ask for metrics that there are, and each alert has its runbook.

use std::collections::BTreeSet;

use serde_json::Value;

use super::programs::{files, path, program, succeeds, text, yaml};
use super::scrape::of_paper;

const ROLES: [&str; 4] = ["all", "coordinator", "leader", "worker"];
/// Label of all that is of one job, where a process serves several.
const JOB: &str = "des_job";
/// Prometheus' own, and that one.
const ADDED: [&str; 4] = ["job", "instance", "le", JOB];

/// What a process counts for all of its jobs.
const OF_PROCESSES: [&str; 2] = ["des_worker_slots", "process_resident_memory_bytes"];
/// The dashboards' variable, in a query.
const CHOSEN: &str = "des_job=~\"$des_job\"";

fn dashboards() -> Vec<(String, Value)> {
    let names = files("compose/grafana/dashboards", ".json").into_iter();
    let read = |name: &str| text(&format!("compose/grafana/dashboards/{name}"));
    names
        .map(|name| (serde_json::from_str(&read(&name)).map(|it| (name, it))).expect("JSON"))
        .collect()
}

/// Every query of the dashboards as Grafana asks it when all jobs are chosen, with file and title of its
/// panel.
pub(crate) fn panels() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for (name, board) in dashboards() {
        for panel in board["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("queries") {
                assert_eq!(
                    target["datasource"]["uid"], "prometheus",
                    "the one that is provisioned"
                );
                let expr = target["expr"].as_str().expect("a query").replace("$des_job", ".*");
                assert!(!expr.contains('$'), "a variable that is not known: {expr}");
                let title = panel["title"].as_str().expect("a title");
                queries.push((format!("{name}: {title}"), expr));
            }
        }
    }
    queries
}

/// Every query, with where it stands.
pub(crate) fn queries() -> Vec<(String, String)> {
    let mut queries = panels();
    for rule in rules() {
        let expr = rule["expr"].as_str().expect("a query").to_owned();
        queries.push((rule["alert"].as_str().expect("a name").to_owned(), expr));
    }
    let scaled = yaml("compose/kubernetes/autoscaling/scaled-object.yaml");
    for trigger in scaled["spec"]["triggers"].as_array().expect("triggers") {
        if let Some(query) = trigger["metadata"]["query"].as_str() {
            queries.push(("KEDA".to_owned(), query.to_owned()));
        }
    }
    let paper = text("docs/metrics.md");
    for block in paper.split("```promql\n").skip(1) {
        let block = block.split("```").next().expect("an end");
        let lines = block.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        queries.extend(lines.map(|line| ("metrics.md".to_owned(), line.to_owned())));
    }
    assert!(queries.len() > 60, "{}", queries.len());
    queries
}

fn rules() -> Vec<Value> {
    let groups = yaml("compose/prometheus/alerts.yaml")["groups"].clone();
    let groups = groups.as_array().expect("groups").clone();
    groups.iter().flat_map(|it| it["rules"].as_array().expect("rules").clone()).collect()
}

/// The selectors of a query: names with what stands in braces behind them.
pub(crate) fn selectors(query: &str) -> Vec<(String, String)> {
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == ':';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(is_name) {
        let before = rest[..at].chars().next_back();
        let name: String = rest[at..].chars().take_while(|it| is_name(*it)).collect();
        rest = &rest[at + name.len()..];
        let is_metric = ["des_", "process_"].iter().any(|it| name.starts_with(it)) || name == "up";
        if !is_metric || name == JOB || before == Some('"') {
            continue;
        }
        let matchers = rest.strip_prefix('{').and_then(|it| it.split_once('}'));
        let (inside, after) = matchers.unwrap_or(("", rest));
        found.push((name, inside.to_owned()));
        rest = after;
    }
    found
}

#[test]
fn selectors_are_found() {
    let query =
        "sum by (des_job) (rate(des_a_total{class!~\"files|up\", x=\"1\"}[5m])) > 0 and up == 0";
    let expected = [("des_a_total", "class!~\"files|up\", x=\"1\""), ("up", "")];
    assert_eq!(selectors(query), expected.map(|(name, it)| (name.to_owned(), it.to_owned())));
    assert!(selectors("vector(1)").is_empty());
}

#[test]
fn dashboards_are_of_the_job_that_is_chosen_or_of_all() {
    for (name, board) in dashboards() {
        let [variable] = board["templating"]["list"].as_array().expect("variables").as_slice()
        else {
            panic!("{name}: one variable")
        };
        assert_eq!((&variable["name"], &variable["multi"]), (&JOB.into(), &true.into()), "{name}");
        // What has no such label is only found by a pattern that nothing matches.
        assert_eq!((&variable["allValue"], &variable["includeAll"]), (&".*".into(), &true.into()));
        for panel in board["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("queries") {
                let query = target["expr"].as_str().expect("a query");
                for (metric, matchers) in selectors(query) {
                    let chooses = matchers.ends_with(CHOSEN);
                    let is_of_all = OF_PROCESSES.contains(&metric.as_str());
                    assert_ne!(chooses, is_of_all, "{name}: {}: {query}", panel["title"]);
                }
            }
        }
    }
    let shown = panels().into_iter().flat_map(|(_, query)| selectors(&query));
    let shown: BTreeSet<_> = shown.map(|(metric, _)| metric).collect();
    for metric in ["des_throttled", "des_queue_unacked"] {
        assert!(shown.contains(metric), "no panel shows {metric}");
    }
}

#[test]
fn every_query_asks_for_metrics_of_the_paper() {
    let paper = of_paper(&ROLES);
    for (place, query) in queries() {
        let selectors = selectors(&query);
        assert!(!selectors.is_empty(), "{place}: {query}");
        for (name, matchers) in selectors.into_iter().filter(|(name, _)| name != "up") {
            let parts = ["_bucket", "_sum", "_count"];
            let family = parts.iter().find_map(|it| name.strip_suffix(it)).unwrap_or(&name);
            let is_part = paper.get(family).is_some_and(|(kind, _)| kind == "histogram");
            let known = if is_part { paper.get(family) } else { paper.get(&name) };
            let (kind, labels) = known.unwrap_or_else(|| panic!("{place}: there is no {name}"));
            assert_eq!(kind == "histogram", is_part && family != name, "{place}: {name}");
            let asked = matchers.split(',').filter_map(|it| it.split(['=', '!']).next());
            for label in asked.map(str::trim).filter(|it| !it.is_empty()) {
                assert!(
                    labels.contains(label) || ADDED.contains(&label),
                    "{place}: {name} has no {label}"
                );
            }
            let grows =
                ["rate(", "increase("].iter().any(|it| query.contains(&format!("{it}{name}")));
            assert_eq!(grows, kind != "gauge", "{place}: a {kind} is not asked for like this");
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let runbooks = text("docs/runbooks.md");
    let sections: BTreeSet<&str> =
        runbooks.lines().filter_map(|it| it.strip_prefix("## ")).collect();
    let mut alerts = BTreeSet::new();
    let rules = rules();
    for rule in &rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(alerts.insert(name), "{name} is there twice");
        let link = format!("docs/runbooks.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], link);
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        let severity = rule["labels"]["severity"].as_str().expect("a severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        let section = runbooks.split(&format!("\n## {name}\n")).nth(1);
        let section = section.and_then(|it| it.split("\n## ").next()).unwrap_or_default();
        for part in ["**Means**", "**Look at**", "**Do**"] {
            assert!(section.contains(part), "{name} says nothing of {part}");
        }
    }
    assert_eq!(sections, alerts);
}

#[test]
fn promtool_accepts_everything_and_each_alert_fires_when_it_should() {
    let prometheus = |name: &str| path("compose/prometheus").join(name);
    let Some(mut check) = program("promtool") else { return };
    succeeds(check.args(["check", "config"]).arg(prometheus("prometheus.yaml")));
    let mut check = program("promtool").expect("it was there");
    succeeds(check.args(["check", "rules", "--lint-fatal"]).arg(prometheus("alerts.yaml")));
    let mut test = program("promtool").expect("it was there");
    test.current_dir(path("compose/prometheus")).args(["test", "rules", "alerts.test.yaml"]);
    succeeds(&mut test);
    let tests = yaml("compose/prometheus/alerts.test.yaml");
    let tests = tests["tests"].as_array().expect("tests");
    for rule in rules() {
        let cases = tests.iter().flat_map(|it| it["alert_rule_test"].as_array().expect("cases"));
        let of_alert: Vec<_> = cases.filter(|it| it["alertname"] == rule["alert"]).collect();
        let fires = |it: &&&Value| !it["exp_alerts"].as_array().expect("alerts").is_empty();
        assert!(of_alert.iter().any(|it| fires(&it)), "{} never fires", rule["alert"]);
        assert!(of_alert.iter().filter(|it| !fires(it)).count() >= 3, "{}", rule["alert"]);
    }
}
