//! Two fleets that share a broker's queues by mistake: each worker gets tasks of an archive that is
//! not its own, and each leader answers about another's.

use rustix::process::Signal;

use crate::LIMIT;
use crate::broker::Broker;
use crate::setup::Fleet;
use crate::told::{counted, mentioned};

#[test]
fn two_fleets_with_one_prefix_say_so_and_lose_nothing() {
    let (one, mut other) = (Fleet::new(300), Fleet::new(300));
    let (broker, own) = (Broker::of(&one), other.configured("broker", "prefix"));
    other.configure("broker", "prefix", one.configured("broker", "prefix"));
    let mut leaders = [one.start("coordinator"), other.start("coordinator")];
    let workers = [one.start("worker"), other.start("worker")];
    // A worker refuses what is not of its archive, and a leader puts aside what is not about its own.
    for (fleet, leader) in [&one, &other].into_iter().zip(&mut leaders) {
        mentioned(fleet, leader, &["refused", "and this worker's store holds archive"]);
        counted(leader, "des_dead_letters_total{queue=\"outcomes\"}", 1.0);
    }
    let reasons = broker.dead_letter_reasons();
    let advice = "give each fleet its own broker.prefix";
    assert!(reasons.iter().any(|(from, why)| from == "outcomes" && why.ends_with(advice)));
    for (_, reason) in &reasons {
        assert!(reason.starts_with("the outcome is of archive "), "{reason}");
    }

    // What is amiss is mended at one of them alone.
    let ([_leader, leader], [_worker, worker]) = (leaders, workers);
    leader.signal(Signal::TERM);
    worker.signal(Signal::TERM);
    leader.end(LIMIT).expect(0).says(["dead letter: ", advice]);
    worker.end(LIMIT).expect(0);
    other.configure("broker", "prefix", own);
    let _apart = [other.start("coordinator"), other.start("worker")];
    for fleet in [&one, &other] {
        fleet.wait_until_archived(LIMIT);
        fleet.assert_everything_is_there();
        fleet.assert_tables_say_so();
        fleet.assert_committed_once();
    }
}
