//! Leaders that freeze, and lose their network, in the middle of a transaction that has the lease's
//! row locked: real processes, with a proxy between the first of them and PostgreSQL.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::setup::Fleet;
use crate::stalling_proxy::{Cut, StallingProxy};
use crate::{LIMIT, note};

#[test]
fn a_leader_that_freezes_inside_a_commit_is_taken_over_from() {
    for cut in Cut::ALL {
        let mut fleet = Fleet::new(300);
        // Longer than PostgreSQL waits for a client by default.
        fleet.configure("coordinator", "lease_ttl", json!("3s"));
        let (proxy, direct) = behind_a_proxy(&mut fleet);
        let mut frozen = fleet.start("coordinator");
        frozen.run_until(LIMIT, || {
            fleet.try_value("SELECT epoch > 0 FROM des_lease").as_deref() == Some("true")
        });
        fleet.configure("database", "url", json!(direct));
        let mut standby = fleet.start("coordinator");
        let (epoch, watermark) = (fleet.epoch(), fleet.watermark());

        proxy.stall_at("SET state = 'committed'", cut);
        let _worker = fleet.start("worker");
        frozen.run_until(LIMIT, || proxy.is_stalled());
        let since = Instant::now();
        frozen.signal(Signal::STOP);
        standby.run_until(LIMIT, || fleet.epoch() > epoch);
        note(&format!(
            "a standby leads {:?} after its leader froze inside a commit, with a lease of 3 s \
             ({cut:?})",
            since.elapsed()
        ));
        let leads = fleet.epoch();
        proxy.heal();
        frozen.signal(Signal::CONT);
        fleet.wait_until_archived(LIMIT);

        assert!(frozen.is_running(), "it stands by");
        assert!(fleet.watermark() > watermark);
        assert_eq!(fleet.epoch(), leads, "nobody took the lease from the new leader");
        // Its certificate may be there. What it did not commit was certified again, and counts.
        let of_it = format!(
            "SELECT count(*) FROM des_windows WHERE certificate LIKE '%-e{epoch:010}.json'"
        );
        assert_eq!(fleet.value(&of_it), "0", "the old leader committed after all");
        fleet.assert_everything_is_there();
        fleet.assert_committed_once();
    }
}

/// Has what is started from now on talk to the database by way of a proxy; also the URL without it.
fn behind_a_proxy(fleet: &mut Fleet) -> (StallingProxy, String) {
    let direct = fleet.database_url();
    let (before, rest) = direct.split_once('@').expect("a URL with a user");
    let (host, database) = rest.split_once('/').expect("a URL with a database");
    let proxy = StallingProxy::start(host.parse().expect("an address"));
    let proxied = format!("{before}@{}/{database}", proxy.address);
    fleet.configure("database", "url", json!(proxied));
    (proxy, direct)
}
