//! Everything that a fleet talks to, over TLS: what is trusted, and what is said of what is not.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::LIMIT;
use crate::encrypted::{Broker, Certificate, Proxy, postgres};
use crate::private_postgres::{PASSWORD, PrivatePostgres};
use crate::s3_server::{S3Server, Setup};
use crate::setup::Fleet;

/// What is told of a certificate that is not trusted.
const REFUSED: [&str; 2] = ["invalid peer certificate", "is not trusted here"];

/// A fleet whose configuration knows its three servers by TLS alone.
struct Encrypted {
    fleet: Fleet,
    /// What comes after `127.0.0.1` or another name of this machine.
    broker_port: u16,
    store_port: u16,
    _proxy: Proxy,
    _servers: (PrivatePostgres, Broker),
}

impl Encrypted {
    fn new(of: &Certificate) -> Self {
        let servers = (postgres(of), Broker::start(of));
        let s3 = S3Server::start(Setup::default()).expect("a server");
        let plain = s3.endpoint.strip_prefix("http://").expect("an address").to_owned();
        let proxy = Proxy::before(plain, of);
        // The test itself checks no certificate, and is let in by TLS alone.
        let fleet = Fleet::on(&servers.0.url(), s3, 200);
        let (broker_port, store_port) = (servers.1.port, proxy.address.port());
        Self { fleet, broker_port, store_port, _proxy: proxy, _servers: servers }
    }

    /// The servers by this name of their machine, trusted by these authorities.
    fn configure(&mut self, host: &str, of_database: &Path, of_others: &Path) {
        let url = self.fleet.database_url();
        let (url, _) = url.split_once('?').unwrap_or((&url, ""));
        let (access, place) = url.split_once('@').expect("a user");
        let (_, port_and_name) = place.split_once(':').expect("a port");
        let url = format!(
            "{access}@{host}:{port_and_name}?sslmode=verify-full&sslrootcert={}",
            of_database.display()
        );
        self.fleet.configure("database", "url", json!(url));
        let url = format!("amqps://des:{PASSWORD}@{host}:{}/%2f", self.broker_port);
        self.fleet.configure("broker", "url", json!(url));
        let endpoint = format!("https://{host}:{}", self.store_port);
        self.fleet.configure("store", "endpoint", json!(endpoint));
        self.fleet.set_variable("SSL_CERT_FILE", of_others);
    }

    /// `--check` refuses each of them for its certificate, and says what to do.
    #[track_caller]
    fn assert_refused(&self) {
        let run = self.fleet.des("migrate --check --output json").expect(1);
        let check = run.json();
        let findings = check["findings"].as_array().expect("findings");
        for (what, advice) in [
            ("catalog", "sslrootcert=... at the end of the database's URL"),
            ("ledger", "sslrootcert=... at the end of the database's URL"),
            ("store", "SSL_CERT_FILE"),
            ("broker", "SSL_CERT_FILE"),
        ] {
            let told = findings.iter().find(|it| it["what"] == what && it["verdict"] == "error");
            let told = told.unwrap_or_else(|| panic!("{what} is not refused: {check:#}"));
            let text = told.to_string();
            for word in REFUSED.iter().chain([&advice]) {
                assert!(text.contains(word), "`{word}` is not said of {what}: {check:#}");
            }
        }
        assert!(!run.to_string().contains(PASSWORD), "a password is said:\n{run}");
    }
}

#[test]
fn a_fleet_talks_to_everything_over_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = Certificate::issue(&dir.path().join("ours"));
    let others = Certificate::issue(&dir.path().join("others"));
    let mut encrypted = Encrypted::new(&ours);

    // Another authority than the one that issued the certificates; then another name than they hold.
    encrypted.configure("127.0.0.1", &others.authority, &others.authority);
    encrypted.assert_refused();
    let fleet = &encrypted.fleet;
    for role in ["coordinator", "worker"] {
        let run = fleet.run(role, &fleet.path(&format!("{role}.yaml")));
        assert!(run.code.is_some_and(|code| code != 0), "{run}");
        run.says(REFUSED);
    }
    encrypted.configure("localhost", &ours.authority, &ours.authority);
    encrypted.assert_refused();
    assert!(encrypted.fleet.objects().is_empty(), "nothing was to change");

    encrypted.configure("127.0.0.1", &ours.authority, &ours.authority);
    let fleet = &encrypted.fleet;
    let coordinator = fleet.start("coordinator");
    let worker = fleet.start("worker");
    fleet.wait_until_archived(LIMIT);
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name LIKE 'des%' AND NOT ssl";
    assert_eq!(fleet.value(plain), "0", "somebody is there without TLS");
    fleet.assert_everything_is_there();
    for process in [worker, coordinator] {
        process.signal(Signal::TERM);
        process.end(LIMIT).expect(0);
    }
}
