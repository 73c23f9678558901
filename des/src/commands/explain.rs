//! `des explain`: why the watermark is, or is not, moving.

use coordinator::explain::{ExplainSettings, Facts, Sources, gather};
use serde::Serialize;

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
    let facts = gather(sources, settings).await;
    let explanation = Explanation { explanation: facts.sentence(), facts };
    output.result(&explanation, |it| it.facts.text())?;
    Ok(Exit::Done)
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Usage(why) => why,
        Failure::Failed(error) => format!("{error:#}"),
    }
}
