//! What every task queue promises. Each function gets a queue of its own, without messages.

use std::collections::HashSet;
use std::time::Duration;

use backends::TaskQueue;
use backends::error::BackendError;
use backends::queue::{Lane, OutgoingMessage};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::support::{
    bodies, consume, depth, depth_becomes, message, next, nothing_comes, publish, take, take_all,
};

/// A header that has to arrive as it is.
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub(crate) async fn what_is_published_arrives_byte_for_byte(queue: &dyn TaskQueue) {
    let sent = [
        ("des.task.v1", br#"{"partition":1}"#.to_vec()),
        ("", b"no type".to_vec()),
        ("des.empty", Vec::new()),
        ("nicht.für.alle", vec![0xff, 0xfe, 0x00, 0x80, 0xc3, 0x28]),
        ("des.large", (0..300_000_u32).flat_map(u32::to_le_bytes).collect()),
    ];
    for (kind, body) in &sent {
        let headers = vec![
            ("reason".to_owned(), "ł".repeat(10_000)),
            ("traceparent".to_owned(), TRACEPARENT.to_owned()),
        ];
        let message = OutgoingMessage { kind: (*kind).to_owned(), body: body.clone(), headers };
        queue.publish(Lane::Dead, message).await.expect("the message is confirmed");
    }
    let mut consumer = consume(queue, Lane::Dead, 2).await;
    let mut received = HashSet::new();
    for _ in &sent {
        let delivery = next(&mut *consumer).await;
        assert!(!delivery.redelivered, "it is delivered for the first time");
        let arrived = delivery.headers.iter().find(|(name, _)| name == "traceparent");
        assert_eq!(arrived.map(|(_, value)| value.as_str()), Some(TRACEPARENT));
        assert!(delivery.settle.ack().await);
        received.insert((delivery.kind, delivery.body));
    }
    let sent: HashSet<_> = sent.map(|(kind, body)| (kind.to_owned(), body)).into();
    assert!(received == sent, "kinds and bodies are what was published");
}

pub(crate) async fn what_is_acked_is_gone_and_acked_once(queue: &dyn TaskQueue) {
    let mut consumer = consume(queue, Lane::Tasks, 10).await;
    for n in 0..5 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    assert_eq!(take_all(&mut *consumer, 5).await, bodies(0..5));
    nothing_comes(&mut *consumer).await;
    drop(consumer);
    let mut consumer = consume(queue, Lane::Tasks, 10).await;
    nothing_comes(&mut *consumer).await;
}

pub(crate) async fn lanes_do_not_mix(queue: &dyn TaskQueue) {
    for lane in [Lane::Tasks, Lane::Outcomes, Lane::Dead] {
        publish(queue, lane, format!("{lane:?}")).await;
    }
    for lane in [Lane::Dead, Lane::Tasks, Lane::Outcomes] {
        let mut consumer = consume(queue, lane, 10).await;
        assert_eq!(take(&mut *consumer).await, format!("{lane:?}").into_bytes());
        nothing_comes(&mut *consumer).await;
    }
}

pub(crate) async fn consumers_share_a_lane(queue: &dyn TaskQueue) {
    let mut first = consume(queue, Lane::Tasks, 1).await;
    let mut second = consume(queue, Lane::Tasks, 1).await;
    for n in 0..10 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    let mut seen = HashSet::new();
    for _ in 0..5 {
        // Each holds one: neither can have both.
        let (one, other) = (next(&mut *first).await, next(&mut *second).await);
        assert!(one.settle.ack().await && other.settle.ack().await);
        assert!(seen.insert(one.body) && seen.insert(other.body), "a message went to both");
    }
    assert_eq!(seen, bodies(0..10));
}

pub(crate) async fn prefetch_is_a_limit(queue: &dyn TaskQueue) {
    let mut consumer = consume(queue, Lane::Tasks, 2).await;
    for n in 0..4 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    let one = next(&mut *consumer).await;
    let two = next(&mut *consumer).await;
    nothing_comes(&mut *consumer).await;
    depth_becomes(queue, Lane::Tasks, depth(2, 1)).await;

    assert!(one.settle.ack().await);
    let three = next(&mut *consumer).await;
    nothing_comes(&mut *consumer).await;
    depth_becomes(queue, Lane::Tasks, depth(1, 1)).await;
    assert!(two.settle.ack().await && three.settle.ack().await);
    take(&mut *consumer).await;
}

pub(crate) async fn a_stopped_consumer_gives_what_it_has_and_takes_nothing_more(
    queue: &dyn TaskQueue,
) {
    for n in 0..6 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    let mut consumer = consume(queue, Lane::Tasks, 3).await;
    let held = next(&mut *consumer).await;
    let left = consumer.stop().await;
    assert!(left.len() <= 2, "no more than the prefetch is held");
    let mut came = HashSet::from([held.body.clone()]);
    for delivery in left {
        assert!(!delivery.redelivered);
        assert!(came.insert(delivery.body.clone()));
        assert!(delivery.settle.ack().await, "what is left can be settled");
    }
    // Acks make room, which a stopped consumer has no use for.
    assert!(held.settle.ack().await, "what was held can be settled");
    nothing_comes(&mut *consumer).await;

    let mut heir = consume(queue, Lane::Tasks, 1).await;
    while came.len() < 6 {
        let delivery = next(&mut *heir).await;
        assert!(!delivery.redelivered, "the stopped consumer never had it");
        assert!(delivery.settle.ack().await);
        assert!(came.insert(delivery.body));
    }
    assert_eq!(came, bodies(0..6));
}

pub(crate) async fn unsettled_deliveries_of_a_dropped_consumer_come_again_and_are_marked(
    queue: &dyn TaskQueue,
) {
    let mut consumer = consume(queue, Lane::Tasks, 2).await;
    for n in 0..3 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    let settled = take(&mut *consumer).await;
    let held = next(&mut *consumer).await;
    assert!(!held.redelivered);
    drop(consumer);

    let mut heir = consume(queue, Lane::Tasks, 1).await;
    let mut came = HashSet::from([settled]);
    for _ in 0..2 {
        let delivery = next(&mut *heir).await;
        // The third one may have waited in the dropped consumer's prefetch, or in the queue.
        assert!(delivery.redelivered || delivery.body != held.body, "it is marked");
        assert!(delivery.settle.ack().await);
        assert!(came.insert(delivery.body), "what was acked does not come again");
    }
    assert_eq!(came, bodies(0..3));
}

pub(crate) async fn a_settle_that_outlives_its_consumer_tells_nobody(queue: &dyn TaskQueue) {
    publish(queue, Lane::Tasks, "x").await;
    let mut consumer = consume(queue, Lane::Tasks, 1).await;
    let stale = next(&mut *consumer).await;
    drop(consumer);
    let mut heir = consume(queue, Lane::Tasks, 1).await;
    let fresh = next(&mut *heir).await;
    assert!(fresh.redelivered);
    assert!(!stale.settle.ack().await, "the broker cannot be told any more");
    assert!(fresh.settle.ack().await);
    depth_becomes(queue, Lane::Tasks, depth(0, 1)).await;
}

pub(crate) async fn purge_drops_what_waits_and_nothing_else(queue: &dyn TaskQueue) {
    assert_eq!(queue.purge(Lane::Tasks).await.expect("purged"), 0);
    let mut consumer = consume(queue, Lane::Tasks, 1).await;
    for n in 0..4 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    publish(queue, Lane::Outcomes, "stays").await;
    let held = next(&mut *consumer).await;
    depth_becomes(queue, Lane::Tasks, depth(3, 1)).await;

    assert_eq!(queue.purge(Lane::Tasks).await.expect("purged"), 3);
    depth_becomes(queue, Lane::Tasks, depth(0, 1)).await;
    assert!(held.settle.ack().await, "what is delivered is not purged");
    nothing_comes(&mut *consumer).await;
    let mut outcomes = consume(queue, Lane::Outcomes, 1).await;
    assert_eq!(take(&mut *outcomes).await, b"stays");
}

pub(crate) async fn depth_counts_what_waits_and_who_consumes(queue: &dyn TaskQueue) {
    depth_becomes(queue, Lane::Tasks, depth(0, 0)).await;
    for n in 0..3 {
        publish(queue, Lane::Tasks, n.to_string()).await;
    }
    depth_becomes(queue, Lane::Tasks, depth(3, 0)).await;
    let mut first = consume(queue, Lane::Tasks, 1).await;
    let mut second = consume(queue, Lane::Tasks, 1).await;
    let held_by_first = next(&mut *first).await;
    let held_by_second = next(&mut *second).await;
    depth_becomes(queue, Lane::Tasks, depth(1, 2)).await;
    drop((second, held_by_second));
    depth_becomes(queue, Lane::Tasks, depth(2, 1)).await;
    assert!(held_by_first.settle.ack().await);
    take_all(&mut *first, 2).await;
    drop(first);
    depth_becomes(queue, Lane::Tasks, depth(0, 0)).await;
}

pub(crate) async fn progress_goes_to_everyone_who_listens(queue: &dyn TaskQueue) {
    let mut first = consume(queue, Lane::Progress, 2).await;
    let mut second = consume(queue, Lane::Progress, 2).await;
    for n in 0..6 {
        publish(queue, Lane::Progress, n.to_string()).await;
    }
    assert_eq!(take_all(&mut *first, 6).await, bodies(0..6));
    assert_eq!(take_all(&mut *second, 6).await, bodies(0..6));

    drop(first);
    publish(queue, Lane::Progress, "to the second").await;
    assert_eq!(take(&mut *second).await, b"to the second");
}

pub(crate) async fn progress_that_nobody_hears_is_lost(queue: &dyn TaskQueue) {
    publish(queue, Lane::Progress, "lost").await;
    // Behind the confirm of another lane the broker has dealt with the progress, too.
    publish(queue, Lane::Tasks, "kept").await;
    let mut listener = consume(queue, Lane::Progress, 5).await;
    nothing_comes(&mut *listener).await;
    publish(queue, Lane::Progress, "heard").await;
    assert_eq!(take(&mut *listener).await, b"heard");

    // Unsettled progress does not come again.
    publish(queue, Lane::Progress, "unsettled").await;
    let unsettled = next(&mut *listener).await;
    drop(listener);
    drop(unsettled);
    let mut listener = consume(queue, Lane::Progress, 5).await;
    nothing_comes(&mut *listener).await;
}

pub(crate) async fn many_publish_at_once(queue: &dyn TaskQueue) {
    const MESSAGES: usize = 2_000;
    let publishing = (0..MESSAGES).map(|n| queue.publish(Lane::Tasks, message(n.to_string())));
    let confirmed = join_all(publishing).await;
    assert!(confirmed.iter().all(Result::is_ok), "every message is confirmed");
    depth_becomes(queue, Lane::Tasks, depth(MESSAGES as u64, 0)).await;

    let mut consumer = consume(queue, Lane::Tasks, 200).await;
    let mut acks = FuturesUnordered::new();
    let mut came = HashSet::new();
    while came.len() < MESSAGES {
        let delivery = next(&mut *consumer).await;
        assert!(came.insert(delivery.body), "a message came twice");
        acks.push(delivery.settle.ack());
        if acks.len() == 100 {
            assert!(acks.by_ref().all(|told| async move { told }).await, "every ack is told");
            acks = FuturesUnordered::new();
        }
    }
    assert_eq!(came, bodies(0..MESSAGES));
}

pub(crate) async fn a_dropped_wait_loses_nothing(queue: &dyn TaskQueue) {
    const MESSAGES: usize = 50;
    let mut consumer = consume(queue, Lane::Tasks, 3).await;
    let publishing = async {
        for n in 0..MESSAGES {
            publish(queue, Lane::Tasks, n.to_string()).await;
        }
    };
    let taking = async {
        let mut came = HashSet::new();
        while came.len() < MESSAGES {
            // As in a `select!` whose other branch is ready all the time.
            if let Ok(delivery) = timeout(Duration::from_micros(50), consumer.next()).await {
                assert!(delivery.settle.ack().await);
                assert!(came.insert(delivery.body), "a message came twice");
            }
        }
        came
    };
    assert_eq!(tokio::join!(publishing, taking).1, bodies(0..MESSAGES));
}

pub(crate) async fn what_no_broker_would_take_is_refused(queue: &dyn TaskQueue) {
    let mut unfit = message("x");
    unfit.kind = "k".repeat(256);
    let mut too_long = message("");
    too_long.body = vec![0; 16 * 1024 * 1024 + 1];
    for unfit in [unfit, too_long] {
        for lane in [Lane::Tasks, Lane::Progress] {
            let refused = queue.publish(lane, unfit.clone()).await;
            assert!(matches!(refused, Err(BackendError::Invalid { .. })), "{refused:?}");
        }
    }
    publish(queue, Lane::Tasks, "the queue still works").await;
}
