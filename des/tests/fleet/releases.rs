//! A worker of another release: one for which tasks are of a newer version than it knows, and one
//! whose answers are of a newer version than its coordinator knows.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::LIMIT;
use crate::broker::Broker;
use crate::lines::{Change, Changes, Line};
use crate::scrape::Scrape;
use crate::setup::Fleet;
use crate::told::{counted, explained};

/// How every message begins, and how one of a release to come will.
const NEWER: Change = (b"{\"version\":1,", b"{\"version\":9,");

/// The same fleet's broker, by way of such a line.
fn broker_by(changes: Changes, fleet: &Fleet) -> Value {
    let (direct, _prefix) = fleet.broker();
    let (before, rest) = direct.split_once('@').expect("a URL with a user");
    let (host, vhost) = rest.split_once('/').expect("a URL with a vhost");
    let (_line, address) = Line::that_changes(changes, host.parse().expect("an address"));
    json!(format!("{before}@{address}/{vhost}"))
}

#[test]
fn what_a_worker_of_another_release_cannot_read_or_say_waits_for_a_current_one() {
    let older = Changes { downwards: Some(NEWER), ..Changes::default() };
    let newer = Changes { upwards: Some(NEWER), ..Changes::default() };
    for (changes, lane, what) in [(older, "tasks", "task"), (newer, "outcomes", "outcome")] {
        let mut fleet = Fleet::new(300);
        let broker = Broker::of(&fleet);
        let direct = fleet.configured("broker", "url");
        fleet.configure("broker", "url", broker_by(changes, &fleet));
        let mut other = fleet.start("worker");
        // By then it has read where its broker is.
        other.told("serving HTTP address=", LIMIT);
        fleet.configure("broker", "url", direct);
        let mut coordinator = fleet.start("coordinator");

        let told = ["messages that nobody could read", "of another release", "Upgrade"];
        explained(&fleet, &mut coordinator, &told);
        counted(&mut coordinator, "des_queue_ready{queue=\"dead\"}", 1.0);
        let reader = if lane == "tasks" { &mut other } else { &mut coordinator };
        let unread = format!("des_dead_letters_total{{queue=\"{lane}\"}}");
        assert!(Scrape::of(reader).value(&unread) > 0.0);
        let committed = "SELECT count(*) FROM des_windows WHERE state = 'committed' \
                         AND row_count > 0";
        assert_eq!(fleet.value(committed), "0", "nothing commits without it");
        let watermark = "SELECT archived_until = origin FROM des_archive_config, des_archives";
        assert_eq!(fleet.value(watermark), "true");
        let reasons = broker.dead_letter_reasons();
        let said = format!(
            "this {what} message has version 9, and this release reads up to version 1: use a \
             newer release of des"
        );
        assert!(!reasons.is_empty(), "they are kept");
        for (from, reason) in &reasons {
            assert_eq!((from.as_str(), reason), (lane, &said));
        }

        other.signal(Signal::TERM);
        let other = other.end(LIMIT).expect(0);
        let _current = fleet.start("worker");
        fleet.wait_until_archived(LIMIT);
        fleet.assert_everything_is_there();
        fleet.assert_tables_say_so();
        fleet.assert_committed_once();
        let counted = "SELECT sum(attempts + interruptions) FROM des_partitions";
        assert_eq!(fleet.value(counted), "0", "it costs no attempts");
        coordinator.signal(Signal::TERM);
        let coordinator = coordinator.end(LIMIT).expect(0);
        let reader = if lane == "tasks" { other } else { coordinator };
        reader.says(["dead letter: ", &said]);
    }
}
