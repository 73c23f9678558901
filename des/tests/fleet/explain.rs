//! What `des explain` says of a fleet, in six situations one after the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::broker::Broker;
use crate::process::{Run, Running};
use crate::setup::Fleet;
use crate::told::mentioned;

/// Asks until the sentence holds all of these texts; the facts.
#[track_caller]
pub(crate) fn explained(fleet: &Fleet, texts: &[&str]) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let facts = fleet.json("explain");
        let sentence = facts["explanation"].as_str().expect("a sentence");
        if texts.iter().all(|text| sentence.contains(text)) {
            return facts;
        }
        assert!(Instant::now() < deadline, "{texts:?} is not said:\n{facts:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The page with what is said in the six situations, in blocks of text.
const PAGE: &str = "../docs/explain.md";
const BLOCK: &str = "```text\n";

/// What is said, without what differs from run to run: who, where, and when. The fleet's first day is
/// 2025-03-01, and any time that is no midnight of its days 10:20:30 on 2025-03-20.
fn without_chance(fleet: &Fleet, facts: &Value, text: &str) -> String {
    let mut told: String = text
        .lines()
        .filter(|line| !line.starts_with("slow "))
        .fold(String::new(), |all, line| all + line + "\n");
    for (day, shown) in (0..30).map(|day| (day, day + 1)) {
        told = told.replace(&fleet.window_end(day), &format!("2025-03-{shown:02}T00:00:00Z"));
    }
    for (value, shown) in
        [(&facts["lease"]["holder"], "coordinator-a-1"), (&facts["paused"]["by"], "ops@host-a")]
    {
        if let Some(value) = value.as_str() {
            told = told.replace(value, shown);
        }
    }
    let [name, _] = fleet.secrets();
    told = told.replace(&name, "des");
    let mut words = Vec::new();
    for word in told.split(' ') {
        let (bare, rest) = word.split_at(word.rfind('Z').map_or(0, |at| at + 1));
        let is_chance =
            chrono::DateTime::parse_from_rfc3339(bare).is_ok_and(|_| !bare.starts_with("2025-03-"));
        words.push(if is_chance { format!("2025-03-20T10:20:30Z{rest}") } else { word.to_owned() });
    }
    // Of a lease it is said how long it has been held.
    let mut told = words.join(" ");
    if let Some((before, after)) = told.split_once("coordinator-a-1 for ") {
        let (_, after) = after.split_once(", epoch ").expect("its epoch");
        told = format!("{before}coordinator-a-1 for 12 s, epoch {after}");
    }
    told
}

/// Asks until it says what the page has as its block of this number. With `DES_TEST_WRITE` it is written
/// there, once it has stayed the same for a while. Gives the sentence.
#[track_caller]
fn as_on_the_page(fleet: &Fleet, number: usize, asked: impl Fn(&str) -> Run) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = std::fs::read_to_string(&path).expect("the page");
    let (before, after) = match page.match_indices(BLOCK).nth(number) {
        Some((at, _)) => page.split_at(at + BLOCK.len()),
        None => panic!("the page has no block {number}"),
    };
    let (written, rest) = after.split_at(after.find("```\n").expect("its end"));
    let writes = std::env::var_os("DES_TEST_WRITE").is_some();
    let (mut last, mut same, deadline) = (String::new(), 0, Instant::now() + LIMIT);
    loop {
        let facts = asked("explain --output json").expect(0).json();
        let told = without_chance(fleet, &facts, &asked("explain").expect(0).text());
        let sentence = told.lines().next().unwrap_or_default().to_owned();
        same = if told == last { same + 1 } else { 0 };
        if writes && same > 10 {
            std::fs::write(&path, format!("{before}{told}{rest}")).expect("written");
            return sentence;
        }
        if !writes && told == written {
            return sentence;
        }
        assert!(Instant::now() < deadline, "the page has\n{written}\nand it says\n{told}");
        last = told;
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn six_situations_are_told_apart() {
    // Of every window some files are missing, and not one may be.
    let mut fleet = Fleet::new(600);
    fleet.configure("coordinator", "max_failed_files", json!(0));
    fleet.configure("coordinator", "max_failed_ratio", json!(0.0));
    fleet.configure("coordinator", "max_attempts", json!(1));
    fleet.configure("coordinator", "partition_rows", json!(20));
    fleet.configure("worker", "slots", json!(1));
    // A worker that is frozen for a while is not given up by the broker meanwhile.
    let (url, _) = fleet.broker();
    fleet.configure("broker", "url", json!(format!("{url}?heartbeat=3600")));
    fleet.des("init").expect(0);
    let mut sentences = BTreeSet::new();

    // 1. Nobody leads.
    let facts = explained(&fleet, &["nobody leads", "files are due"]);
    assert_eq!((&facts["lease"], &facts["windows"]), (&Value::Null, &json!([])), "{facts:#}");
    sentences.insert(as_on_the_page(&fleet, 0, |words| fleet.des(words)));

    // 2. Somebody leads, and no worker listens.
    let coordinator = fleet.start("coordinator");
    let facts = explained(&fleet, &["no worker listens", "Start `des worker`"]);
    let lease = &facts["lease"];
    assert!(lease["holder"].as_str().is_some_and(|it| it.starts_with("coordinator-")), "{lease}");
    assert!(lease["age_seconds"].as_i64().is_some_and(|age| (0..600).contains(&age)), "{lease}");
    let window = &facts["windows"][0];
    assert!(window["since"].is_string() && window["partitions"]["all"].as_u64() > Some(1));
    let slowest = &window["slowest"];
    assert!(slowest["rows"].as_u64() > Some(0) && slowest["worker"].is_null(), "{slowest}");
    let human = fleet.des("explain").expect(0).text();
    for text in ["lease      coordinator-", " for ", "open since ", "it waits most for partition "]
    {
        assert!(human.contains(text), "`{text}` is not said:\n{human}");
    }
    sentences.insert(as_on_the_page(&fleet, 1, |words| fleet.des(words)));

    // 3. An operator paused it, and said why.
    fleet.des("pause --reason file-server-moves").expect(0);
    let facts = explained(&fleet, &["paused the archive", "file-server-moves", "des resume"]);
    assert_eq!(facts["paused"]["reason"], "file-server-moves", "{facts:#}");
    sentences.insert(as_on_the_page(&fleet, 2, |words| fleet.des(words)));

    // 4. A message that nobody could read, while a worker that listens comes to no end.
    let broker = Broker::of(&fleet);
    let worker = fleet.start("worker");
    let deadline = Instant::now() + LIMIT;
    while broker.consumers("tasks") != Some(1) {
        assert!(Instant::now() < deadline, "the worker never listens");
        std::thread::sleep(Duration::from_millis(100));
    }
    worker.signal(Signal::STOP);
    fleet.des("resume").expect(0);
    broker.publish("outcomes", "des.outcome.v1", b"{ not what it should be");
    let facts = explained(&fleet, &["is moving", "1 messages that nobody could read"]);
    assert_eq!(facts["broker"]["dead_letters"], 1, "{facts:#}");
    let human = fleet.des("explain").expect(0).text();
    assert!(human.contains("dead       1 messages that nobody could read"), "{human}");
    sentences.insert(as_on_the_page(&fleet, 3, |words| fleet.des(words)));
    let letters = broker.dead_letter_reasons();
    assert!(letters.len() == 1 && letters[0].0 == "outcomes", "{letters:?}");

    // 5. The broker does not answer; then the store.
    let away = |words: &str| fleet.des_with("broker.url", "amqp://127.0.0.1:1/%2f", words);
    let facts = away("explain --output json").expect(0).json();
    assert_eq!((&facts["troubles"][0]["what"], &facts["broker"]), (&json!("broker"), &Value::Null));
    assert_eq!(facts["windows"][0]["partitions"]["all"], 4, "what can be asked is: {facts:#}");
    sentences.insert(as_on_the_page(&fleet, 4, away));
    let away = fleet.des_with("store.endpoint", "http://127.0.0.1:1", "explain --output json");
    let facts = away.expect(0).json();
    assert_eq!(facts["troubles"][0]["what"], "store", "{facts:#}");
    let sentence = facts["explanation"].as_str().expect("a sentence");
    assert!(sentence.contains("while the store does not answer: "), "{sentence}");

    // 6. A window is held: how many files failed, what to do.
    worker.signal(Signal::CONT);
    let end = fleet.window_end(1);
    let list = format!("des errors --held --window {end}");
    let facts = explained(&fleet, &["is held", "files failed", &list, "des release --window"]);
    let held = &facts["windows"][0];
    assert_eq!((&held["held"], &held["slowest"]), (&json!(true), &Value::Null), "{held}");
    assert!(held["files_failed"].as_u64() > Some(0) && held["since"].is_string(), "{held}");
    sentences.insert(as_on_the_page(&fleet, 5, |words| fleet.des(words)));
    // What it says to run is what lists them.
    let listed = fleet.des(list.strip_prefix("des ").expect("a command")).expect(0).text();
    assert_eq!(listed.matches("missing").count(), 2, "{listed}");

    assert_eq!(sentences.len(), 6, "two of them are told alike: {sentences:#?}");
    for process in [worker, coordinator] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
}

/// An address that is free.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// Freezes the worker while whoever leads hears that it works on what is waited for most; what is said.
#[track_caller]
fn frozen_at_work(fleet: &Fleet, worker: &Running) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        worker.signal(Signal::STOP);
        // What it said before arrives, and the status is read anew.
        std::thread::sleep(Duration::from_millis(2_500));
        let facts = fleet.json("explain");
        if facts["windows"][0]["slowest"]["worker"].is_string() {
            return facts;
        }
        assert!(Instant::now() < deadline, "it is never at work: {facts:#}");
        worker.signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn the_slowest_partitions_worker_is_named_as_long_as_whoever_leads_answers() {
    let mut fleet = Fleet::new(3_000);
    fleet.configure("coordinator", "partition_rows", json!(12));
    fleet.configure("worker", "slots", json!(1));
    let address = free_address();
    fleet.configure("http", "listen", json!(address));
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) > 0 FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(open).as_deref() == Some("true"));
    fleet.configure("http", "listen", json!("127.0.0.1:0"));
    let mut worker = fleet.start("worker");
    worker.told("serving HTTP address=", LIMIT);
    fleet.configure("http", "listen", json!(address));

    let facts = frozen_at_work(&fleet, &worker);
    let slowest = &facts["windows"][0]["slowest"];
    let name = slowest["worker"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("worker-") && slowest["since"].is_string(), "{slowest}");
    mentioned(&fleet, &mut coordinator, &[&format!("files, with {name} since 20")]);

    // Where nobody answers, nothing is said of it, and nothing is the worse for it.
    fleet.configure("http", "listen", json!(free_address()));
    let facts = fleet.json("explain");
    let slowest = &facts["windows"][0]["slowest"];
    assert!(slowest["worker"].is_null() && slowest["since"].is_null(), "{slowest}");
    assert_eq!(facts["troubles"], json!([]));
    worker.signal(Signal::CONT);
    fleet.wait_until_archived(LIMIT);
}
