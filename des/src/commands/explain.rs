//! `des explain`: why the watermark is, or is not, moving.

use coordinator::explain::{ExplainSettings, Facts, SlowPartition, Sources, gather};
use protocol::Timestamp;
use serde::{Deserialize, Serialize};

use super::fleet::told_nearby;
use crate::config::Config;
use crate::output::{Exit, Failure, Output};
use crate::wiring;

#[derive(Serialize)]
struct Explanation {
    /// The reason, in a sentence.
    explanation: String,
    #[serde(flatten)]
    facts: Facts,
}

pub(super) async fn run(config: &Config, output: Output) -> Result<Exit, Failure> {
    // A database that is not configured is a mistake in the usage, and no fact.
    config.ledger()?;
    config.database()?;
    let ledger = wiring::ledger_to_read(config).await.map_err(told);
    let catalog = wiring::catalog(config).await.map_err(told);
    let store = wiring::store(config, false).await.map_err(told);
    let queue = match &config.broker {
        Some(_) => {
            Some(wiring::queue(config, &wiring::process_name("explain")).await.map_err(told))
        }
        None => None,
    };
    let sources = Sources {
        ledger: ledger.as_deref().map_err(Clone::clone),
        catalog: catalog.as_deref().map_err(Clone::clone),
        store: store.as_ref().map_err(Clone::clone),
        queue: queue.as_ref().map(|queue| queue.as_deref().map_err(Clone::clone)),
    };
    let settings = ExplainSettings { window_span_micros: config.coordinator.window_span_micros };
    let (mut facts, heard) = tokio::join!(gather(sources, settings), told_nearby(config));
    if let Some(heard) = heard {
        add_workers(&mut facts, heard);
    }
    let explanation = Explanation { explanation: facts.sentence(), facts };
    output.result(&explanation, |it| it.facts.text())?;
    Ok(Exit::Done)
}

/// What a coordinator's status says of who works on what.
#[derive(Deserialize)]
struct Heard {
    lease: Option<Holder>,
    windows: Vec<HeardWindow>,
}

#[derive(Deserialize)]
struct Holder {
    holder: String,
    epoch: u64,
}

#[derive(Deserialize)]
struct HeardWindow {
    end: Timestamp,
    revision: u16,
    slowest: Option<SlowPartition>,
}

/// Adds what only whoever leads hears of workers. A stranger that answers at the same address is not
/// believed: what it says is of another lease.
fn add_workers(facts: &mut Facts, heard: Heard) {
    let lease = facts.lease.as_ref().map(|it| (it.holder.as_str(), it.epoch));
    let told = heard.lease.as_ref().map(|it| (it.holder.as_str(), it.epoch));
    if lease.is_none() || lease != told {
        return;
    }
    for HeardWindow { end, revision, slowest } in heard.windows {
        let same = facts.windows.iter_mut().find(|it| (it.end, it.revision) == (end, revision));
        let heard = slowest.filter(|it| it.worker.is_some());
        if let (Some(known), Some(heard)) = (same.and_then(|it| it.slowest.as_mut()), heard) {
            *known = heard;
        }
    }
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Usage(why) => why,
        Failure::Failed(error) => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use coordinator::explain::{Lease, Partitions, WindowFacts};
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    #[test]
    fn only_who_has_the_lease_is_believed_of_its_workers() {
        let slow = |worker: Option<&str>| {
            let worker = worker.map(str::to_owned);
            SlowPartition { partition: 7, rows: 90, setbacks: 0, worker, since: None }
        };
        let window = WindowFacts {
            start: at("2024-12-10"),
            end: at("2024-12-11"),
            revision: 0,
            requested: false,
            held: false,
            files: 90,
            files_failed: 0,
            partitions: Partitions::default(),
            troubled: None,
            since: None,
            waits: None,
            slowest: Some(slow(None)),
        };
        let lease = Lease {
            holder: "coordinator-a-1".to_owned(),
            epoch: 3,
            expires_at: at("2024-12-20"),
            expired: false,
            since: None,
            age_seconds: None,
        };
        let facts = Facts { lease: Some(lease), windows: vec![window], ..Facts::default() };
        let worker = |epoch: u64, revision: u16| {
            let heard = json!({
                "lease": {"holder": "coordinator-a-1", "epoch": epoch, "expired": false},
                "windows": [{"end": "2024-12-11T00:00:00Z", "revision": revision, "slowest":
                    {"partition": 9, "rows": 5, "setbacks": 0, "worker": "worker-b-2"}}],
            });
            let mut facts = facts.clone();
            add_workers(&mut facts, serde_json::from_value(heard).expect("a status"));
            facts.windows[0].slowest.clone().expect("it is there").worker
        };
        assert_eq!(worker(3, 0).as_deref(), Some("worker-b-2"));
        assert_eq!(worker(4, 0), None, "of another lease");
        assert_eq!(worker(3, 1), None, "of another pass");
    }
}
