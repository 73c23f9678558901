//! One suite for every task queue, and what only a broker can do to us.

use std::time::Duration;

#[path = "queue/broker.rs"]
mod broker;
#[path = "queue/conformance.rs"]
mod conformance;
#[path = "queue/outages.rs"]
mod outages;
#[path = "queue/support.rs"]
mod support;

/// No test takes nearly as long; one that hangs fails with its name.
const HANGS: Duration = Duration::from_secs(120);

/// Runs every function of the suite on every adapter, each on a queue of its own.
macro_rules! conformance {
    ($($promise:ident)*) => {
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let queue = backends::queue::InProcessQueue::new();
                let test = crate::conformance::$promise(&queue);
                tokio::time::timeout(crate::HANGS, test).await.expect("it ends");
            })*
        }

        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let _calm = crate::broker::calm().await;
                let place = crate::broker::Place::new();
                let queue = place.connect().await;
                let test = crate::conformance::$promise(&queue);
                tokio::time::timeout(crate::HANGS, test).await.expect("it ends");
                place.clear().await;
            })*
        }
    };
}

conformance! {
    what_is_published_arrives_byte_for_byte
    what_is_acked_is_gone_and_acked_once
    lanes_do_not_mix
    consumers_share_a_lane
    prefetch_is_a_limit
    a_stopped_consumer_gives_what_it_has_and_takes_nothing_more
    unsettled_deliveries_of_a_dropped_consumer_come_again_and_are_marked
    a_settle_that_outlives_its_consumer_tells_nobody
    purge_drops_what_waits_and_nothing_else
    depth_counts_what_waits_and_who_consumes
    progress_goes_to_everyone_who_listens
    progress_that_nobody_hears_is_lost
    many_publish_at_once
    a_dropped_wait_loses_nothing
    what_no_broker_would_take_is_refused
}
