//! What may be asked over HTTP, by whom, and what every answer carries.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::blocks::blocks;
use crate::setup::Fleet;
use crate::{LIMIT, TOKEN, serve_on_an_address};

/// Status, head and body of a request; it must be answered.
#[track_caller]
fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let host = headers.iter().any(|it| it.starts_with("Host: "));
    let host = if host { String::new() } else { format!("Host: {address}\r\n") };
    let headers: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
    (status, head.to_ascii_lowercase(), body.to_owned())
}

const JSON: &str = "Content-Type: application/json";
const REASON: &str = "{\"reason\": \"drill\"}";

#[test]
fn nothing_is_done_without_the_token_or_for_another_site() {
    let mut fleet = Fleet::new(60);
    let address = serve_on_an_address(&mut fleet);
    let coordinator = fleet.start("coordinator");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let mut coordinator = coordinator;
    coordinator.run_until(LIMIT, || {
        TcpStream::connect(&address).is_ok()
            && send(&address, "GET", "/api/status", &[], "").0 == 200
    });
    let wrong = bearer.replace("guesses", "guessed");
    let foreign = "Origin: http://elsewhere.example";
    let own = format!("Origin: http://{address}");
    let long = json!({ "reason": "x".repeat(5_000) }).to_string();
    let cases: [(&[&str], &str, u16); 9] = [
        (&[JSON], REASON, 401),
        (&[JSON, &wrong], REASON, 401),
        (&[&bearer], REASON, 415),
        (&["Content-Type: text/plain", &bearer], REASON, 415),
        (&[JSON, &bearer, foreign], REASON, 403),
        (&[JSON, &bearer, "Sec-Fetch-Site: cross-site"], REASON, 403),
        (&[JSON, &bearer], &long, 413),
        (&[JSON, &bearer], "{\"reason\": \" \"}", 400),
        (&[JSON, &bearer], "{\"why\": \"drill\"}", 400),
    ];
    for (headers, body, expected) in cases {
        let (status, _, told) = send(&address, "POST", "/api/pause", headers, body);
        assert_eq!(status, expected, "{headers:?}: {told}");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert!(told["error"].as_str().is_some_and(|it| !it.contains(TOKEN)), "{told}");
    }
    let (status, head, _) = send(&address, "GET", "/api/pause", &[JSON, &bearer], "");
    assert_eq!(status, 405, "{head}");
    assert_eq!(fleet.value("SELECT count(*) FROM des_pauses"), "0", "nothing was done");
    // Few of those who guess are made to wait at a time; the others are sent away at once.
    let guess = || send(&address, "POST", "/api/pause", &[JSON, &wrong], REASON).0;
    let guesses: Vec<u16> = std::thread::scope(|scope| {
        let guessing: Vec<_> = (0..32).map(|_| scope.spawn(guess)).collect();
        guessing.into_iter().map(|it| it.join().expect("an answer")).collect()
    });
    assert!(guesses.iter().all(|it| [401, 429].contains(it)), "{guesses:?}");
    assert!(guesses.contains(&401), "{guesses:?}");

    let may = [JSON, bearer.as_str(), own.as_str(), "Sec-Fetch-Site: same-origin"];
    let (status, _, told) = send(&address, "POST", "/api/pause", &may, REASON);
    assert_eq!(status, 200, "{told}");
    let (status, _, told) = send(&address, "POST", "/api/pause", &may, REASON);
    assert!(status == 409 && told.contains("drill"), "it is paused already: {told}");
    let (status, _, told) = send(&address, "POST", "/api/resume", &may, REASON);
    assert_eq!(status, 200, "{told}");
    let throttle = |body: Value| send(&address, "POST", "/api/throttle", &may, &body.to_string());
    for (body, expected, told) in [
        (json!({"reason": "drill"}), 409, "is not throttled"),
        (json!({"reason": "drill", "max_files_per_second": "many"}), 400, "many"),
        (json!({"reason": "drill", "max_files_per_second": 0}), 409, "pause"),
        (json!({"reason": "drill", "not_between": "lunch"}), 409, "lunch"),
        (json!({"reason": " ", "max_files_per_second": 5}), 400, "say why"),
        (json!({"reason": "drill", "max_files_per_second": 5000}), 200, "at most 5000 files"),
        (json!({"reason": "drill", "max_bytes_per_second": "20MiB"}), 200, "20971520 bytes"),
        (json!({"reason": "drill", "max_active_connections": "some"}), 400, "some"),
        (json!({"reason": "drill", "max_active_connections": 1}), 409, "pg_read_all_stats"),
        (json!({"reason": "drill", "query": "SELECT 0"}), 400, "query"),
        // Nobody is sure to be a standby of the tests' server.
        (json!({"reason": "drill", "max_replication_lag": "no time"}), 400, "no time"),
        (json!({"reason": "drill", "max_replication_lag": "none"}), 200, "any replication lag"),
        (json!({"reason": "drill"}), 200, "Taken back"),
    ] {
        let (status, _, answer) = throttle(body.clone());
        assert!(status == expected && answer.contains(told), "{body}: {status} {answer}");
    }
    assert_eq!(fleet.value("SELECT count(*) FROM des_throttles"), "0");
    let [role, _] = fleet.secrets();
    fleet.administer(&format!("GRANT pg_read_all_stats TO {role}"));
    // What the page cannot say it does not take back, and does not stumble over either.
    fleet.execute("CREATE TABLE archive.busy AS SELECT 0 AS jobs");
    let query = "SELECT/**/jobs/**/FROM/**/archive.busy";
    fleet.json(&format!("throttle --query {query} --max-files-per-second 7 --reason drill"));
    fleet.execute("DROP TABLE archive.busy");
    let (status, _, told) = throttle(json!({"reason": "drill", "max_active_connections": 9000}));
    assert_eq!(status, 200, "{told}");
    let row = "SELECT concat_ws(' ', files_per_second, query, max_active_connections) \
               FROM des_throttles";
    assert_eq!(fleet.value(row), format!("{query} 9000"));
    let (status, _, told) = throttle(json!({"reason": "drill"}));
    assert_eq!((status, fleet.value(row).as_str()), (200, query), "{told}");
    fleet.json("throttle --off --reason drill");
    let never = json!({"reason": "drill", "window": "1999-01-01T00:00:00Z"}).to_string();
    let (status, _, told) = send(&address, "POST", "/api/replay", &may, &never);
    assert!(status == 409 && told.contains("no committed window"), "{told}");
}

#[test]
fn a_name_of_somebody_else_does_not_lead_to_the_page() {
    let mut fleet = Fleet::new(60);
    let address = serve_on_an_address(&mut fleet);
    fleet.configure("http", "allowed_hosts", json!(["des.example.org"]));
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || TcpStream::connect(&address).is_ok());
    let asked = |path: &str, host: &str| send(&address, "GET", path, &[host], "");
    for path in ["/", "/page.js", "/api/status", "/api/events"] {
        let (status, _, told) = asked(path, "Host: rebound.example:8080");
        assert!(status == 403 && told.contains("http.allowed_hosts"), "{path}: {told}");
    }
    for host in ["Host: des.example.org", "Host: localhost:1", "Host: [::1]:8080"] {
        assert_eq!(asked("/", host).0, 200, "{host}");
    }
    for path in ["/metrics", "/healthz"] {
        assert_eq!(asked(path, "Host: rebound.example").0, 200, "{path}");
    }
}

#[test]
fn every_answer_forbids_what_no_page_of_ours_needs() {
    let mut fleet = Fleet::new(60);
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || TcpStream::connect(&address).is_ok());
    for path in ["/", "/page.css", "/page.js", "/icon.svg", "/api/status", "/metrics", "/nowhere"] {
        let (_, head, body) = send(&address, "GET", path, &[], "");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; \
             connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'; require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(header), "{path}: {header}\n{head}");
        }
        // The namespace of SVG is a name, and is not fetched.
        let elsewhere = body.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("://"), "{path} names something elsewhere");
    }
    // A worker has no page.
    fleet.configure("http", "listen", json!("127.0.0.1:0"));
    let mut worker = fleet.start("worker");
    let worker = worker.told("serving HTTP address=", LIMIT);
    for path in ["/", "/api/status", "/api/events"] {
        assert_eq!(send(&worker, "GET", path, &[], "").0, 404, "{path}");
    }
}

#[test]
fn so_many_may_watch_and_no_more() {
    let mut fleet = Fleet::new(60);
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || TcpStream::connect(&address).is_ok());
    let watch = || {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let request = format!("GET /api/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).expect("an answer");
        (String::from_utf8_lossy(&begin).into_owned(), stream)
    };
    let mut watching: Vec<_> = (0..16).map(|_| watch()).collect();
    assert!(watching.iter().all(|(begin, _)| begin == "HTTP/1.1 200"), "{watching:?}");
    assert_eq!(watch().0, "HTTP/1.1 503");
    // Whoever goes makes room, as soon as that is noticed.
    watching.pop();
    coordinator.run_until(LIMIT, || watch().0 == "HTTP/1.1 200");
    // The others are told.
    let (_, stream) = &mut watching[0];
    let mut told = String::new();
    let mut chunk = [0; 4_096];
    while !told.contains("event: status") {
        let count = stream.read(&mut chunk).expect("more");
        assert!(count > 0, "it ended: {told}");
        told.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}

/// As they are written, by a shell and curl; only the address is another one.
#[test]
fn what_the_papers_ask_with_curl_is_done() {
    let not_run = std::env::var("DES_TEST_NOT_RUN").unwrap_or_default();
    if not_run.split(' ').any(|it| it == "curl") {
        let told = b"NOT RUN: there is no curl, which the papers' commands need\n";
        std::io::stderr().write_all(told).expect("stderr");
        return;
    }
    let mut fleet = Fleet::new(20);
    let address = serve_on_an_address(&mut fleet);
    let mut coordinator = fleet.start("coordinator");
    coordinator.run_until(LIMIT, || {
        TcpStream::connect(&address).is_ok()
            && send(&address, "GET", "/api/status", &[], "").0 == 200
    });
    let asks = blocks().into_iter().filter(|it| it.language == "sh" && it.text.contains("curl "));
    let mut count = 0;
    for block in asks {
        let script = block.text.replace("127.0.0.1:8080", &address);
        assert_ne!(script, block.text, "{}: another address than http.listen", block.place);
        let mut shell = Command::new("sh");
        let ran = shell.args(["-euc", &script]).env("DES_ADMIN_TOKEN", TOKEN).output();
        let ran = ran.expect("a shell");
        assert!(ran.status.success(), "{}: {ran:?}", block.place);
        let answer: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        assert!(answer["done"].is_string(), "{}: {answer}", block.place);
        count += 1;
    }
    assert!(count > 0, "the commands were not found");
    let reason = fleet.value("SELECT reason FROM des_pauses");
    assert_eq!(reason, "backup of the sources", "docs/page.md pauses");
}
