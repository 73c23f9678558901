//! Traces across processes: one per window, whoever leads, and none that anything waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::otlp::{Receiver, Seen};
use crate::private_postgres::free_ports;
use crate::process::{Run, Running};
use crate::programs::program;
use crate::scrape::Scrape;
use crate::setup::Fleet;
use crate::{LIMIT, note};

/// Small partitions, so that windows have several.
fn traced(files: usize, endpoint: &str) -> Fleet {
    let mut fleet = Fleet::new(files);
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("tracing", "otlp_endpoint", endpoint.into());
    fleet
}

/// Drains it, whose last spans are sent by then.
#[track_caller]
fn stop(process: Running) -> Run {
    process.signal(Signal::TERM);
    process.end(LIMIT).expect(0)
}

/// All spans by their ids, of which there are no two.
#[track_caller]
fn by_id(spans: &[Seen]) -> BTreeMap<&str, &Seen> {
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "an id is there twice");
    by_id
}

/// Every committed window is one trace, with one root, into which every span's parents lead.
#[track_caller]
fn assert_one_trace_per_window(fleet: &Fleet, spans: &[Seen]) {
    let ids = by_id(spans);
    let mut roots = BTreeMap::new();
    for span in spans {
        assert!(span.began <= span.ended, "{span:?}");
        if span.name == "window" {
            assert_eq!(span.parent, "", "{span:?}");
            let before = roots.insert(&span.trace, span);
            assert!(before.is_none(), "two roots: {before:?}, {span:?}");
            continue;
        }
        let parent = ids.get(span.parent.as_str());
        let parent = parent.unwrap_or_else(|| panic!("its parent is not there: {span:?}"));
        assert_eq!(parent.trace, span.trace, "{span:?}");
    }
    let traces: BTreeSet<_> = spans.iter().map(|span| &span.trace).collect();
    assert_eq!(traces, roots.keys().copied().collect(), "a trace without its window");
    let windows: BTreeSet<_> =
        roots.values().map(|it| format!("{} {}", it.get("window"), it.get("revision"))).collect();
    assert_eq!(windows.len(), roots.len(), "a window with two traces");
    let committed = "SELECT count(*) FROM des_windows WHERE state = 'committed'";
    assert_eq!(roots.len().to_string(), fleet.value(committed));
    for span in spans {
        if let Some(window) = span.attributes.get("window") {
            assert_eq!(window, roots[&span.trace].get("window"), "{span:?}");
        }
    }
}

/// Every partition of the ledger was executed in its window's trace, and every shard uploaded there.
#[track_caller]
fn assert_every_partition_and_shard(fleet: &Fleet, spans: &[Seen]) {
    let ids = by_id(spans);
    let partitions = fleet.value(
        "SELECT json_agg(json_build_array(to_char(window_end AT TIME ZONE 'UTC', \
         'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), partition::text, row_count::text)) FROM des_partitions",
    );
    let partitions: BTreeSet<[String; 3]> = serde_json::from_str(&partitions).expect("JSON");
    assert!(partitions.len() > 20, "{partitions:?}");
    let done = spans.iter().filter(|it| it.name == "task" && it.get("result") == "done");
    let done: BTreeSet<_> =
        done.map(|it| ["window", "partition", "rows"].map(|key| it.get(key).to_owned())).collect();
    assert_eq!(done, partitions);
    for (name, above, service) in [
        ("task", "publish", "des-coordinator"),
        ("answer", "task", "des-worker"),
        ("accept", "answer", "des-worker"),
        ("upload", "pack", "des-worker"),
        ("pack", "task", "des-worker"),
        ("publish", "window", "des-coordinator"),
    ] {
        for span in spans.iter().filter(|span| span.name == name) {
            let parent = ids[span.parent.as_str()];
            assert_eq!((parent.name.as_str(), parent.service.as_str()), (above, service));
        }
    }
    let uploads = spans.iter().filter(|span| span.name == "upload");
    let uploaded: BTreeSet<_> = uploads.map(|it| it.get("object").to_owned()).collect();
    let objects = fleet.objects().into_keys().filter(|key| key.ends_with(".des"));
    let shards: BTreeSet<_> =
        objects.map(|key| key.rsplit('/').next().expect("a name").to_owned()).collect();
    assert_eq!(uploaded, shards);
}

/// Names and attributes are those of docs/tracing.md.
#[track_caller]
fn assert_as_in_the_paper(spans: &[Seen]) {
    let paper = include_str!("../../../docs/tracing.md");
    let rows = paper.lines().filter(|line| line.starts_with("| `"));
    let named = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut written = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').collect();
        let [_, name, service, _parent, attributes, _meaning, _] = cells[..] else {
            panic!("{row}")
        };
        for name in named(name) {
            let service = format!("des-{}", service.trim());
            written.insert(name, (service, named(attributes)));
        }
    }
    let mut seen: BTreeMap<_, (String, BTreeSet<String>)> = BTreeMap::new();
    for span in spans {
        let entry = seen.entry(span.name.clone()).or_default();
        entry.0 = span.service.clone();
        entry.1.extend(span.attributes.keys().cloned());
    }
    assert_eq!(seen, written);
}

/// A window's spans as a tree, with the milliseconds at which they began and ended.
fn drawn(spans: &[Seen], window: &Seen) -> String {
    fn draw(spans: &[Seen], it: &Seen, depth: usize, from: u64, text: &mut String) {
        let millis = |at: u64| (at.saturating_sub(from)) as f64 / 1e6;
        let noted = ["partition", "attempt", "rows", "bytes", "result"];
        let noted =
            noted.iter().filter_map(|key| Some(format!("{key}={}", it.attributes.get(*key)?)));
        text.push_str(&format!(
            "{:7.1} {:7.1}  {:indent$}{} {}\n",
            millis(it.began),
            millis(it.ended),
            "",
            it.name,
            noted.collect::<Vec<_>>().join(" "),
            indent = depth * 2
        ));
        let mut below: Vec<_> = spans.iter().filter(|span| span.parent == it.id).collect();
        below.sort_by_key(|span| span.began);
        for span in below {
            draw(spans, span, depth + 1, from, text);
        }
    }
    let mut text = String::new();
    draw(spans, window, 0, window.began, &mut text);
    text
}

/// Log lines in JSON: whatever is about a partition names its window, and its trace.
#[track_caller]
fn lines_about_partitions(run: &Run, traces: &BTreeMap<String, String>) -> Vec<Value> {
    let lines = run.stderr.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let mut about = Vec::new();
    for line in lines {
        let fields = &line["fields"];
        if let Some(window) = fields["window"].as_str() {
            assert_eq!(
                fields["trace_id"].as_str(),
                traces.get(window).map(String::as_str),
                "{line}"
            );
        }
        if !fields["partition"].is_null() {
            assert!(fields["window"].is_string(), "{line}");
            about.push(line);
        }
    }
    about
}

#[test]
fn every_window_is_one_trace_across_coordinator_broker_worker_and_store() {
    let receiver = Receiver::start();
    let mut fleet = traced(160, &receiver.endpoint);
    let json_logs = ["--log-format", "json"];
    // A worker that loses its mount says so, of partitions that others do then. It must not begin any
    // before.
    fleet.des("init").expect(0);
    let mounted = tempfile::tempdir().expect("a directory");
    let roots = fleet.configured("source", "roots");
    fleet.configure("source", "roots", json!([mounted.path()]));
    let mut unfit = fleet.start_with("worker", &json_logs);
    unfit.told("worker ready", LIMIT);
    mounted.close().expect("removed");
    fleet.configure("source", "roots", roots);
    let coordinator = fleet.start_with("coordinator", &json_logs);
    unfit.told("\"class\":\"mount\"", LIMIT);
    let workers = [fleet.start("worker"), fleet.start("worker")];
    fleet.wait_until_archived(LIMIT);
    let runs = [stop(unfit), stop(coordinator)];
    workers.into_iter().for_each(|worker| drop(stop(worker)));

    let spans = receiver.spans();
    assert_one_trace_per_window(&fleet, &spans);
    assert_every_partition_and_shard(&fleet, &spans);
    assert_as_in_the_paper(&spans);
    let instances = |service: &str| {
        let of_service = spans.iter().filter(|span| span.service == service);
        of_service.map(|span| span.instance.clone()).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((instances("des-coordinator"), instances("des-worker")), (1, 3));
    for secret in fleet.secrets() {
        assert!(!receiver.was_told(&secret), "a password is in a span");
    }

    let windows = spans.iter().filter(|span| span.name == "window");
    let traces = windows.map(|it| (it.get("window").to_owned(), it.trace.clone())).collect();
    for (run, class) in runs.iter().zip(["mount", "mount"]) {
        let about = lines_about_partitions(run, &traces);
        assert!(about.iter().any(|line| line["fields"]["class"] == class), "{about:#?}");
    }
    let windows = spans.iter().filter(|span| span.name == "window");
    let size = |it: &&Seen| spans.iter().filter(|span| span.trace == it.trace).count();
    note(&drawn(&spans, windows.min_by_key(size).expect("a window")));
}

/// The collector that `./test` installs, between des and `receiver`, and its endpoint; `None` where it
/// could not be installed.
fn collector(receiver: &Receiver) -> Option<(Running, String)> {
    let program = program("rotel-agent")?;
    let [http, grpc] = free_ports();
    let endpoint = format!("http://127.0.0.1:{http}");
    let [over_http, over_grpc] = [http, grpc].map(|port| format!("127.0.0.1:{port}"));
    let mut words = vec!["start", "--exporter", "otlp", "--otlp-exporter-protocol", "http"];
    words.extend(["--otlp-exporter-endpoint", &receiver.endpoint]);
    words.extend(["--otlp-http-endpoint", &over_http, "--otlp-grpc-endpoint", &over_grpc]);
    let running = Running::start(program, words);
    let deadline = Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", http)).is_err() {
        assert!(Instant::now() < deadline, "the collector does not listen");
        std::thread::sleep(Duration::from_millis(100));
    }
    Some((running, endpoint))
}

#[test]
fn traces_come_whole_through_a_collector() {
    let receiver = Receiver::start();
    let Some((collector, endpoint)) = collector(&receiver) else { return };
    let fleet = traced(160, &endpoint);
    let coordinator = fleet.start("coordinator");
    let worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    stop(coordinator);
    stop(worker);
    // Its last batch is sent as it ends.
    collector.signal(Signal::TERM);
    collector.end(LIMIT);
    let spans = receiver.spans();
    assert_one_trace_per_window(&fleet, &spans);
    assert_every_partition_and_shard(&fleet, &spans);
    for secret in fleet.secrets() {
        assert!(!receiver.was_told(&secret), "a password is in a span");
    }
}

#[test]
fn a_coordinator_that_takes_over_goes_on_with_the_trace() {
    let receiver = Receiver::start();
    let fleet = traced(120, &receiver.endpoint);
    let mut first = fleet.start("coordinator");
    // Nobody works yet: its windows stay open. What it has sent was ended before, in this order.
    let published = || receiver.spans().into_iter().find(|span| span.name == "publish");
    first.run_until(LIMIT, || published().is_some());
    first.signal(Signal::KILL);
    first.end(LIMIT);
    let before = published().expect("it was there");
    let second = fleet.start("coordinator");
    let worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    stop(second);
    stop(worker);

    let spans = receiver.spans();
    assert_one_trace_per_window(&fleet, &spans);
    assert_every_partition_and_shard(&fleet, &spans);
    let of_trace = spans.iter().filter(|span| span.trace == before.trace);
    let of_trace = of_trace.filter(|span| span.service == "des-coordinator");
    let mut named: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for span in of_trace {
        named.entry(&span.instance).or_default().insert(span.name.as_str());
    }
    assert_eq!(named.len(), 2, "{named:?}");
    let (first, others) =
        named.remove(&before.instance).zip(named.into_values().next()).expect("both");
    assert!(first.contains("plan") && !first.contains("window"), "{first:?}");
    assert!(others.contains("window") && !others.contains("plan"), "{others:?}");
}

#[test]
fn a_receiver_that_does_not_answer_is_said_once_and_holds_nothing_up() {
    // It takes connections, and never a request.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let fleet = traced(120, &format!("http://{address}"));
    let mut processes = [fleet.start("coordinator"), fleet.start("worker")];
    fleet.wait_until_archived(LIMIT);
    for process in &mut processes {
        let dropped = |process: &mut Running| {
            Scrape::of(process).value("des_trace_spans_total{result=\"dropped\"}")
        };
        // More than one batch, each of which takes as long as a request may.
        let (first, deadline) = (dropped(process), std::time::Instant::now() + LIMIT);
        let mut last = first;
        while last == 0.0 || last == first {
            assert!(std::time::Instant::now() < deadline, "{first} {last}");
            std::thread::sleep(std::time::Duration::from_millis(200));
            last = dropped(process);
        }
        let sent = Scrape::of(process).value("des_trace_spans_total{result=\"sent\"}");
        assert_eq!(sent, 0.0);
    }
    fleet.assert_tables_say_so();
    for process in processes {
        let run = stop(process);
        let told = run.stderr.matches("traces are dropped").count();
        assert_eq!(told, 1, "{run}");
    }
}
