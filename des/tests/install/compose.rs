//! compose.yaml, which nobody here can bring up: against the schema of its specification, and against
//! what it promises.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};

use super::programs::{assert_known_to_des, complains, path, program, succeeds, text, words, yaml};

const COMPOSE: &str = "compose/compose.yaml";
/// Gives a volume to its user, and ends.
const ROOT: &str = "garage-owner";

fn services() -> Map<String, Value> {
    let services = yaml(COMPOSE)["services"].as_object().expect("services").clone();
    assert!(services.len() >= 8, "{:?}", services.keys());
    services
}

fn networks(service: &Value) -> BTreeSet<String> {
    service.get("networks").map(words).unwrap_or_default().into_iter().collect()
}

/// The names in `${NAME}`, `${NAME:?why}` and `${NAME:-default}`.
fn variables(text: &str) -> BTreeSet<String> {
    let ends = |it: &str| it.split(['}', ':']).next().unwrap_or_default().to_owned();
    text.split("${").skip(1).map(ends).collect()
}

#[test]
fn compose_yaml_is_of_the_specification() {
    let Some(mut check) = program("check-jsonschema") else { return };
    succeeds(check.args(["--builtin-schema", "vendor.compose-spec"]).arg(path(COMPOSE)));
    let wrong = text(COMPOSE).replacen("    healthcheck:", "    healthchecks:", 1);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("wrong.yaml"), wrong).expect("written");
    let mut check = program("check-jsonschema").expect("it was there");
    check.args(["--builtin-schema", "vendor.compose-spec"]).arg(dir.path().join("wrong.yaml"));
    let why = complains(&mut check);
    assert!(why.contains("healthchecks"), "{why}");
}

#[test]
fn every_variable_has_an_example_and_every_example_is_used() {
    let example = text("compose/.env.example");
    let lines = example.lines().filter(|line| !line.starts_with('#'));
    let named: BTreeSet<_> =
        lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(named, variables(&text(COMPOSE)));
    assert!(text(".gitignore").lines().any(|line| line == "/compose/.env"), "secrets stay here");
}

#[test]
fn what_is_mounted_awaited_and_joined_is_there() {
    let whole = yaml(COMPOSE);
    let services = services();
    for (name, service) in &services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume["source"].as_str();
            match (volume["type"].as_str(), source) {
                (Some("bind"), Some(source)) => {
                    assert!(path("compose").join(source).exists(), "{name} mounts {source}");
                    assert_eq!(volume["read_only"], true, "{name} writes {source}");
                }
                (Some("volume"), Some(source)) => {
                    assert!(whole["volumes"].get(source).is_some(), "{name}: {source}");
                }
                (Some("volume"), None) => {}
                other => panic!("{name}: {other:?}"),
            }
        }
        for network in networks(service) {
            assert!(whole["networks"].get(&network).is_some(), "{name}: {network}");
        }
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            let other = services.get(other).unwrap_or_else(|| panic!("{name} awaits {other}"));
            match how["condition"].as_str() {
                Some("service_healthy") => assert!(other["healthcheck"].is_object(), "{name}"),
                Some("service_completed_successfully") => assert_eq!(other["restart"], "no"),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn services_are_confined_limited_pinned_and_watched() {
    for (name, service) in &services() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(words(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        let user = service["user"].as_str().unwrap_or_else(|| panic!("{name} has no user"));
        assert_eq!(user.starts_with("0:"), name == ROOT, "{name}: {user}");
        let limits = &service["deploy"]["resources"]["limits"];
        assert!(limits["memory"].is_string() && limits["cpus"].is_string(), "{name}: {limits}");
        let (_, tag) = service["image"].as_str().and_then(|it| it.split_once(':')).expect("a tag");
        assert!(tag.starts_with(|it: char| it.is_ascii_digit() || it == 'v'), "{name}: {tag}");
        assert!(tag.matches('.').count() >= 1, "{name}: {tag} is not one version");
        let runs_on = service["restart"] != "no";
        assert_eq!(service["healthcheck"]["test"].is_array(), runs_on, "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().expect("a port");
            assert!(port.starts_with("127.0.0.1:"), "{name} listens on {port}");
        }
    }
}

#[test]
fn workers_reach_no_database_and_know_no_password_of_one() {
    let services = services();
    let (worker, postgres) = (&services["worker"], &services["postgres"]);
    assert!(networks(worker).is_disjoint(&networks(postgres)));
    let environment = worker["environment"].to_string();
    for secret in ["postgres", "DES_DATABASE_URL", "DES_LEDGER_URL", "READER", "LEDGER"] {
        assert!(!environment.contains(secret), "{environment}");
    }
    for other in ["rabbitmq", "garage", "prometheus"] {
        assert!(!networks(worker).is_disjoint(&networks(&services[other])), "{other}");
    }
}

#[test]
fn each_coordinator_has_a_port_for_its_page_and_reaches_outside_by_nothing_else() {
    let (whole, services) = (yaml(COMPOSE), services());
    let coordinator = &services["coordinator"];
    let replicas = coordinator["deploy"]["replicas"].as_u64().expect("a number");
    let port = words(&coordinator["ports"]).remove(0);
    let ports = port.strip_prefix("127.0.0.1:").and_then(|it| it.strip_suffix(":8080"));
    let (first, last) = ports.and_then(|it| it.split_once('-')).expect("a range");
    let number = |text: &str| text.parse::<u64>().expect("a port");
    assert_eq!(number(last) - number(first) + 1, replicas, "{port}");
    // Ports of a container on internal networks alone are not published.
    let is_open = |name: &String| whole["networks"][name].get("internal").is_none();
    for (name, service) in &services {
        let open: Vec<_> = networks(service).into_iter().filter(is_open).collect();
        assert_eq!(service["ports"].is_array(), !open.is_empty(), "{name}: {open:?}");
    }
    let beside = services.iter().filter(|(_, service)| networks(service).contains("page"));
    assert_eq!(beside.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["coordinator"]);
}

#[test]
fn roles_are_started_with_what_des_knows_and_stopped_with_time_to_drain() {
    let services = services();
    for role in ["coordinator", "worker"] {
        let service = &services[role];
        assert_known_to_des(&words(&service["command"]));
        let healthy = words(&service["healthcheck"]["test"]);
        assert_eq!(healthy[..2], ["CMD", "/usr/local/bin/des"]);
        assert_known_to_des(&healthy[2..]);
        let grace = service["stop_grace_period"].as_str().expect("a time");
        let grace = humantime::parse_duration(grace).expect("a time");
        let config = yaml(&format!("compose/des/{role}.yaml"));
        let drain = config["worker"]["drain_timeout"].as_str().unwrap_or("300s");
        let drain = humantime::parse_duration(drain).expect("a time");
        assert!(grace >= drain + Duration::from_secs(15), "{role}: {grace:?}");
        assert!(service["deploy"]["replicas"].as_u64() >= Some(2), "{role}");
    }
}

#[test]
fn prometheus_and_grafana_find_each_other() {
    let services = services();
    let config = yaml("compose/prometheus/prometheus.yaml");
    let mut watched = BTreeSet::new();
    for job in config["scrape_configs"].as_array().expect("jobs") {
        for found in job["dns_sd_configs"].as_array().into_iter().flatten() {
            for name in words(&found["names"]) {
                assert_eq!(found["port"], 8080, "where des listens");
                assert_eq!(job["job_name"], format!("des-{name}"), "what alerts call it");
                let service = &services[&name];
                assert!(!networks(service).is_disjoint(&networks(&services["prometheus"])));
                watched.insert(name);
            }
        }
    }
    assert_eq!(watched.into_iter().collect::<Vec<_>>(), ["coordinator", "worker"]);
    let source = yaml("compose/grafana/provisioning/datasources/prometheus.yaml");
    let source = &source["datasources"][0];
    assert_eq!(
        (&source["url"], &source["uid"]),
        (&"http://prometheus:9090".into(), &"prometheus".into())
    );
    let provider = yaml("compose/grafana/provisioning/dashboards/des.yaml");
    let directory = provider["providers"][0]["options"]["path"].as_str().expect("a directory");
    let mounted = services["grafana"]["volumes"].as_array().expect("volumes");
    assert!(mounted.iter().any(|it| it["target"] == directory), "{directory} is not mounted");
    let home = &services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let home = home.as_str().and_then(|it| it.strip_prefix(directory)).expect("a dashboard");
    assert!(path(&format!("compose/grafana/dashboards{home}")).exists(), "{home}");
}

#[test]
fn traces_find_their_way_from_des_over_the_collector_to_jaeger() {
    let services = services();
    let reaches = |from: &str, url: &Value, port: &str| {
        let place = url.as_str().and_then(|url| url.strip_prefix("http://")).expect("a URL");
        let (to, of_url) = place.split_once(':').expect("a port");
        assert_eq!(of_url, port, "{from}: {url}");
        assert!(!networks(&services[from]).is_disjoint(&networks(&services[to])), "{from}: {to}");
        to.to_owned()
    };
    let collector = yaml("compose/otel/collector.yaml");
    let listens = collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"].as_str();
    let (_, port) = listens.and_then(|it| it.rsplit_once(':')).expect("a port");
    for role in ["coordinator", "worker"] {
        let url = &services[role]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"];
        assert_eq!(reaches(role, url, port), "otel-collector");
    }
    let traces = &collector["service"]["pipelines"]["traces"];
    for part in ["receivers", "processors", "exporters"] {
        for name in words(&traces[part]) {
            assert!(collector[part].get(&name).is_some(), "{part}: {name}");
        }
    }
    let exporter = words(&traces["exporters"]).remove(0);
    let url = &collector["exporters"][exporter]["endpoint"];
    assert_eq!(reaches("otel-collector", url, "4318"), "jaeger");
    let command = words(&services["otel-collector"]["command"]);
    let file = command[0].strip_prefix("--config=").expect("its configuration");
    let volume = &services["otel-collector"]["volumes"][0];
    let inside = file.strip_prefix(volume["target"].as_str().expect("a target"));
    assert_eq!(inside, Some("/collector.yaml"));
}

/// The value of a variable in `.env.example`.
fn example(name: &str) -> String {
    let text = text("compose/.env.example");
    let found = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
    found.unwrap_or_else(|| panic!("{name} has no example")).to_owned()
}

/// The default bucket is made of what Garage finds in its environment and file, and des asks for it by
/// its own: nobody has started the two together, so that each must say the same.
#[test]
fn garage_makes_the_bucket_that_des_asks_for() {
    let services = services();
    let garage = &services["garage"];
    assert_eq!(
        words(&garage["command"]),
        ["/garage", "server", "--single-node", "--default-bucket"]
    );
    let mounted = &garage["volumes"][0];
    assert_eq!(
        (&mounted["source"], &mounted["target"]),
        (&"./garage/garage.toml".into(), &"/etc/garage.toml".into()),
        "where it looks by itself"
    );
    let text = text("compose/garage/garage.toml");
    let config = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        value.unwrap_or_else(|| panic!("no {key} in garage.toml")).trim_matches('"').to_owned()
    };
    assert_eq!(config("replication_factor"), "1", "what --single-node asks for");
    let data = garage["volumes"][1]["target"].as_str().expect("a directory");
    for key in ["metadata_dir", "data_dir"] {
        assert!(config(key).starts_with(data), "{key} is in no volume");
    }
    let (_, port) = config("api_bind_addr")
        .split_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .expect("a port");
    assert_eq!(port, "3900");
    let made = &garage["environment"];
    for role in ["coordinator", "worker"] {
        let asks = &services[role]["environment"];
        assert_eq!(asks["DES_STORE_ENDPOINT"], format!("http://garage:{port}"), "{role}");
        let url = asks["DES_STORE_URL"].as_str().and_then(|it| it.strip_prefix("s3://"));
        let bucket = url.and_then(|it| it.split('/').next()).expect("a bucket");
        assert_eq!(made["GARAGE_DEFAULT_BUCKET"], bucket, "{role}");
        assert_eq!(made["GARAGE_DEFAULT_ACCESS_KEY"], asks["AWS_ACCESS_KEY_ID"], "{role}");
        assert_eq!(made["GARAGE_DEFAULT_SECRET_KEY"], asks["AWS_SECRET_ACCESS_KEY"], "{role}");
        let store = yaml(&format!("compose/des/{role}.yaml"))["store"].clone();
        assert_eq!(store["region"], config("s3_region"), "{role}");
        assert_eq!(
            (&store["url"], &store["endpoint"]),
            (&"${DES_STORE_URL}".into(), &"${DES_STORE_ENDPOINT}".into())
        );
    }
    // The form that Garage gives its own keys, and the one that it takes for the secret of its RPC.
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
    };
    let variables = ["S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "GARAGE_RPC_SECRET"];
    let takes = ["GARAGE_DEFAULT_ACCESS_KEY", "GARAGE_DEFAULT_SECRET_KEY", "GARAGE_RPC_SECRET"];
    for (variable, key) in variables.into_iter().zip(takes) {
        let value = made[key].as_str().expect("a value");
        assert!(value.starts_with(&format!("${{{variable}:?")), "{key}: {value}");
        let example = example(variable);
        let is_right = match example.strip_prefix("GK") {
            Some(rest) => variable == "S3_ACCESS_KEY_ID" && is_hex(rest, 24),
            None => variable != "S3_ACCESS_KEY_ID" && is_hex(&example, 64),
        };
        assert!(is_right, "{variable}: {example}");
    }
}

/// A server of dashboards that anybody on the machine reaches, in releases of which the first ones of
/// 11.2 let viewers run commands (CVE-2024-9264).
#[test]
fn grafana_is_a_release_without_the_hole_of_2024() {
    let services = services();
    let tag =
        services["grafana"]["image"].as_str().and_then(|it| it.strip_prefix("grafana/grafana:"));
    let numbers = tag.expect("Grafana's image").split('.').map(|it| it.parse().expect("a number"));
    assert!(numbers.collect::<Vec<u32>>() >= vec![11, 2, 3], "{tag:?}");
}
