//! What fails beside the leader's loop is waited out there: a catalog that is away keeps no open
//! window, and a store that refuses for a while loses nothing.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::{Method, Response, StatusCode};
use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::process::Running;
use crate::s3_server::{Gate, S3Server, Setup};
use crate::setup::Fleet;

/// Waits until `des explain` says all of this in its first line.
#[track_caller]
fn explained(fleet: &Fleet, process: &mut Running, told: &[&str]) {
    process.run_until(LIMIT, || {
        let explained = fleet.des("explain").text();
        let sentence = explained.lines().next().unwrap_or_default();
        told.iter().all(|text| sentence.contains(text))
    });
}

/// A line to a server that can be cut: whatever goes over it ends, and nothing new begins.
#[derive(Default)]
struct Line {
    is_cut: AtomicBool,
    ends: Mutex<Vec<TcpStream>>,
}

impl Line {
    /// The line, and where it begins.
    fn to(server: SocketAddr) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let line = Arc::new(Self::default());
        let of_listener = Arc::clone(&line);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let two = || [&client, &server].map(|end| end.try_clone().expect("a socket"));
                of_listener.ends.lock().unwrap_or_else(PoisonError::into_inner).extend(two());
                if of_listener.is_cut.load(Ordering::Relaxed) {
                    of_listener.end_all();
                    continue;
                }
                for reversed in [false, true] {
                    let [mut from, mut to] = two();
                    if reversed {
                        std::mem::swap(&mut from, &mut to);
                    }
                    std::thread::spawn(move || {
                        let _until_it_ends = copy(&mut from, &mut to);
                        let _ended_already = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        (line, address)
    }

    fn end_all(&self) {
        for end in self.ends.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ended_already = end.shutdown(Shutdown::Both);
        }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.end_all();
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

#[test]
fn open_windows_commit_while_the_catalog_is_away() {
    const IN_FLIGHT: i64 = 4;
    let mut fleet = Fleet::new(400);
    let direct = fleet.database_url();
    let (before, rest) = direct.split_once('@').expect("a URL with a user");
    let (host, database) = rest.split_once('/').expect("a URL with a database");
    let (line, address) = Line::to(host.parse().expect("an address"));
    let by_line = format!("{before}@{address}/{database}");
    fleet.configure("watermark", "config_db_url", json!(direct));
    fleet.configure("database", "url", json!(by_line));
    fleet.configure("coordinator", "windows_in_flight", json!(IN_FLIGHT));
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(open) == Some(IN_FLIGHT.to_string()));
    let epoch = fleet.epoch();

    line.cut();
    let _worker = fleet.start("worker");
    let committed = "SELECT count(*) FROM des_windows WHERE state = 'committed'";
    coordinator.run_until(LIMIT, || fleet.value(committed) == IN_FLIGHT.to_string());
    let watermark = fleet.watermark();
    let address = address.to_string();
    explained(&fleet, &mut coordinator, &["cannot pass the window that ends at", &address]);
    assert_eq!((fleet.watermark(), fleet.epoch()), (watermark, epoch));

    line.mend();
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    let told = fleet.des("explain").expect(0).text();
    assert!(told.starts_with("Nothing is due"), "{told}");
    fleet.assert_everything_is_there();
    fleet.assert_committed_once();
    coordinator.signal(Signal::TERM);
    coordinator.end(LIMIT).expect(0).says(["trying again", &address]);
}

/// An S3 server that does not let anybody read some objects while it is told so.
fn bucket_that_refuses(folders: &'static [&'static str], refuses: &Arc<AtomicBool>) -> S3Server {
    let refuses = Arc::clone(refuses);
    let gate: Gate = Arc::new(move |request, service| {
        let path = request.uri().path();
        let refused = refuses.load(Ordering::Relaxed)
            && request.method() == Method::GET
            && folders.iter().any(|folder| path.contains(folder));
        Box::pin(async move {
            if !refused {
                return service.call(request).await;
            }
            let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code>\
                        <Message>Access Denied.</Message></Error>";
            let mut response = Response::new(s3s::Body::from(text.to_owned()));
            *response.status_mut() = StatusCode::FORBIDDEN;
            Ok(response)
        })
    });
    S3Server::start(Setup { gate: Some(gate), ..Setup::default() }).expect("a server")
}

#[test]
fn a_pass_that_may_not_read_its_certificate_for_a_while_is_not_dropped() {
    let refuses = Arc::new(AtomicBool::new(false));
    let mut fleet = Fleet::over(bucket_that_refuses(&["/_des/certificates/"], &refuses), 200);
    let mut coordinator = fleet.start("coordinator");
    let _worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let late = fleet.add_late_file(3);
    let epoch = fleet.epoch();
    refuses.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let words =
            format!("reconcile --from {} --to {}", fleet.window_end(2), fleet.window_end(3));
        let fleet = &fleet;
        let reconciled = scope.spawn(move || fleet.des(&words));
        let told = ["was asked for and waits", "_des/certificates/", "403"];
        explained(fleet, &mut coordinator, &told);
        // What has nothing to do with it goes on.
        assert_eq!(fleet.epoch(), epoch);
        refuses.store(false, Ordering::Relaxed);
        reconciled.join().expect("it ran").expect(0);
    });
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    fleet.assert_archived(&late);
    let told = fleet.des("explain").expect(0).text();
    assert!(told.starts_with("Nothing is due"), "{told}");
}

#[test]
fn manifests_and_receipts_that_may_not_be_read_for_a_while_cost_no_attempts() {
    let refuses = Arc::new(AtomicBool::new(false));
    let folders = &["/_des/manifests/", "/_des/receipts/"];
    let mut fleet = Fleet::over(bucket_that_refuses(folders, &refuses), 400);
    fleet.configure("coordinator", "partition_rows", json!(5));
    fleet.configure("coordinator", "max_attempts", json!(2));
    let mut coordinator = fleet.start("coordinator");
    let open = "SELECT count(*) > 1 FROM des_windows WHERE state = 'open'";
    coordinator.run_until(LIMIT, || fleet.try_value(open).as_deref() == Some("true"));
    let epoch = fleet.epoch();
    let worker = fleet.start("worker");
    coordinator.run_until(LIMIT, || fleet.shards() > 3);
    refuses.store(true, Ordering::Relaxed);
    let setbacks = "SELECT coalesce(max(setbacks), 0) > 3 FROM des_partitions";
    coordinator.run_until(LIMIT, || fleet.value(setbacks) == "true");
    let told = fleet.des("explain").expect(0).text();
    assert!(told.contains("403"), "{told}");
    refuses.store(false, Ordering::Relaxed);
    fleet.wait_until_archived(LIMIT);
    assert_eq!(fleet.value("SELECT sum(attempts) FROM des_partitions"), "0", "files' fault?");
    assert_eq!(fleet.epoch(), epoch, "it led all the time");
    fleet.assert_everything_is_there();
    fleet.assert_tables_say_so();
    fleet.assert_committed_once();
    worker.signal(Signal::TERM);
    worker.end(LIMIT).expect(0);
    coordinator.signal(Signal::TERM);
    let run = coordinator.end(LIMIT).expect(0);
    for text in ["planned anew", "split into two"] {
        assert!(!run.stderr.contains(text), "{run}");
    }
}
