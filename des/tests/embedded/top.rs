//! `des workers` and `des top`: what the coordinator that leads knows, asked over HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Place, Running};

const LIMIT: Duration = Duration::from_secs(90);

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// What `des top` draws in a terminal of its own, in which `key` is pressed once there is something.
fn at_a_terminal(place: &Place, key: &str) -> String {
    let command =
        format!("{} top --config {}", env!("CARGO_BIN_EXE_des"), place.config().display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().expect("script, of Debian's bsdutils");
    let (mut keys, mut screen) =
        (child.stdin.take().expect("in"), child.stdout.take().expect("out"));
    let (mut drawn, mut piece) = (Vec::new(), [0; 4_096]);
    while !String::from_utf8_lossy(&drawn).contains("watermark") {
        let count = screen.read(&mut piece).expect("a screen");
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&drawn));
        drawn.extend_from_slice(&piece[..count]);
    }
    keys.write_all(key.as_bytes()).expect("pressed");
    screen.read_to_end(&mut drawn).expect("a screen");
    let ended = child.wait().expect("it ends");
    let drawn = String::from_utf8_lossy(&drawn).into_owned();
    assert!(ended.success(), "{ended}: {drawn}");
    drawn
}

#[test]
fn workers_and_the_archive_are_shown_by_whoever_leads() {
    let mut place = Place::new();
    place.fill(8..10, 30);
    place.load();
    let address = free_address();
    place.set("http.listen", address.as_str());
    place.des("workers").expect(1).says(["no coordinator answers at http://", "--url"]);
    let mut leader = place.start("migrate --mode continuous --interval 1h --workers 1");
    let idle = |place: &Place| {
        let run = place.des("workers --output json");
        run.code == Some(0) && run.json()["workers"][0]["slots_busy"] == 0
    };
    let settled = |place: &Place| {
        let run = place.des("stats --output json");
        run.code == Some(0) && run.json()["archived_until"] == place.cutoff()
    };
    leader.run_until(LIMIT, || settled(&place) && idle(&place));
    let told = place.json("workers");
    let worker = &told["workers"][0];
    let name = worker["worker"].as_str().expect("a name");
    assert!(name.starts_with("worker-"), "{told}");
    let host = worker["host"].as_str().expect("a host");
    assert!(name.contains(host) && !host.is_empty(), "{told}");
    assert!(worker["since"].as_str() <= worker["heard_at"].as_str(), "{told}");
    assert_eq!((&worker["tasks"], &told["listening"]), (&json!([]), &json!(null)), "{told}");
    let human = place.des("workers").expect(0).text();
    assert!(human.starts_with("worker ") && human.contains("idle"), "{human}");

    let shown = place.des("top --once").expect(0).text();
    for part in ["des  job default", "watermark    ", &place.cutoff(), "lag          0 s", name] {
        assert!(shown.contains(part), "`{part}` is missing:\n{shown}");
    }
    for key in ["q", "\u{3}"] {
        let drawn = at_a_terminal(&place, key);
        assert!(drawn.contains("\u{1b}[?1049h") && drawn.contains("job default"), "{drawn:?}");
        assert!(drawn.ends_with("\u{1b}[?1049l"), "the terminal is given back: {drawn:?}");
    }
    // Where there is no terminal, and for programs, there is no live view.
    place.des("top").expect(2).says(["--once"]);
    place.des("top --once --output json").expect(2).says(["des workers --output json"]);
    let by_url = |words: &str| {
        let words = words.split(' ').map(str::to_owned);
        Running::start(place.command(), words).end(LIMIT)
    };
    by_url(&format!("workers --url http://{address}/")).expect(0);
    by_url("workers --url somewhere").expect(2).says(["use http://host:port"]);
    by_url("workers").expect(2).says(["--config"]);
    leader.signal(Signal::TERM);
    leader.end(LIMIT).expect(0);
}

#[test]
fn a_standby_says_who_is_to_be_asked() {
    let mut place = Place::new();
    place.fill(9..10, 3);
    place.load();
    place.json("init");
    place.json("pause --reason drill");
    // A run that is paused waits, and leads.
    let mut leader = place.start("migrate --mode continuous --interval 1h");
    leader.told("serving HTTP address=", LIMIT);
    let holder = "SELECT count(*) FROM des_lease WHERE holder <> ''";
    leader.run_until(LIMIT, || place.sql().value(holder) == "1");
    let address = free_address();
    place.set("http.listen", address.as_str());
    let mut standby = place.start("migrate --mode continuous --interval 1h");
    standby.run_until(LIMIT, || {
        let run = place.des("workers");
        run.code == Some(1) && run.stderr.contains("only it hears the workers")
    });
    let run = place.des("workers").expect(1).says(["does not lead", "coordinator-", "--url"]);
    drop(run);
    let shown = place.des("top --once").expect(0).text();
    assert!(shown.contains("standing by") && shown.contains("only it hears"), "{shown}");
    for it in [standby, leader] {
        it.signal(Signal::TERM);
        it.end(LIMIT).expect(0);
    }
}
