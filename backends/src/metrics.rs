//! What adapters count, by the `metrics` facade: whoever serves the figures installs a recorder, and
//! where nobody does, counting costs next to nothing. Names and labels stand in `docs/metrics.md`.

use std::future::Future;
use std::time::Instant;

use metrics::{Unit, describe_histogram, histogram};

use crate::error::Result;

/// Time until an object was written or read.
pub const STORE_REQUEST: &str = "des_store_request_seconds";
/// Time that an action on the ledger took.
pub const LEDGER_REQUEST: &str = "des_ledger_request_seconds";
/// Bounds of requests to a store, in seconds: from a local directory to a slow link.
const REQUEST_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Histograms and the upper bounds of their buckets.
pub const BOUNDS: &[(&str, &[f64])] =
    &[(STORE_REQUEST, REQUEST_BOUNDS), (LEDGER_REQUEST, REQUEST_BOUNDS)];

/// Describes everything that is counted here, so that it is there before anything happens.
pub fn describe() {
    describe_histogram!(STORE_REQUEST, Unit::Seconds, "Time until an object was written or read");
    for operation in ["put", "get"] {
        for result in ["ok", "error"] {
            let _registered =
                histogram!(STORE_REQUEST, "operation" => operation, "result" => result);
        }
    }
}

/// The same of what only processes with a ledger count.
pub fn describe_ledger() {
    describe_histogram!(LEDGER_REQUEST, Unit::Seconds, "Time that an action on the ledger took");
    for result in ["ok", "error"] {
        let _registered = histogram!(LEDGER_REQUEST, "result" => result);
    }
}

/// Counts an action on the ledger, from asking for a connection on; whether it was answered.
pub(crate) fn ledger_answered(began: Instant, answered: bool) {
    let result = if answered { "ok" } else { "error" };
    histogram!(LEDGER_REQUEST, "result" => result).record(began.elapsed().as_secs_f64());
}

/// Measures a request to the store.
pub(crate) async fn timed<T>(
    operation: &'static str,
    request: impl Future<Output = Result<T>>,
) -> Result<T> {
    let began = Instant::now();
    let outcome = request.await;
    // That something is not there is an answer like any other.
    let refused = outcome.as_ref().is_err_and(|error| !error.is_not_found());
    let result = if refused { "error" } else { "ok" };
    histogram!(STORE_REQUEST, "operation" => operation, "result" => result)
        .record(began.elapsed().as_secs_f64());
    outcome
}
