//! Words that the queue's tests are written in.

use std::collections::HashSet;
use std::time::Duration;

use backends::TaskQueue;
use backends::queue::{Consumer, Delivery, Lane, OutgoingMessage, QueueDepth};
use tokio::time::{sleep, timeout};

/// Generous: nothing that works comes near it.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Time in which something that must not happen would have happened.
pub(crate) const A_WHILE: Duration = Duration::from_millis(300);

/// A message with a body.
pub(crate) fn message(body: impl AsRef<[u8]>) -> OutgoingMessage {
    OutgoingMessage {
        kind: "des.test.v1".to_owned(),
        body: body.as_ref().to_vec(),
        headers: vec![("archive".to_owned(), "an archive".to_owned())],
    }
}

pub(crate) async fn publish(queue: &dyn TaskQueue, lane: Lane, body: impl AsRef<[u8]>) {
    queue.publish(lane, message(body)).await.expect("the message is confirmed");
}

pub(crate) async fn consume(queue: &dyn TaskQueue, lane: Lane, prefetch: u16) -> Box<dyn Consumer> {
    queue.consume(lane, prefetch).await.expect("a consumer")
}

/// The next delivery, which has to come.
pub(crate) async fn next(consumer: &mut dyn Consumer) -> Delivery {
    timeout(SOON, consumer.next()).await.expect("a delivery comes")
}

/// The next delivery's body, acked.
pub(crate) async fn take(consumer: &mut dyn Consumer) -> Vec<u8> {
    let delivery = next(consumer).await;
    assert!(delivery.settle.ack().await, "the ack is told");
    delivery.body
}

/// Bodies of `count` deliveries, acked, in no order.
pub(crate) async fn take_all(consumer: &mut dyn Consumer, count: usize) -> HashSet<Vec<u8>> {
    let mut bodies = HashSet::new();
    for _ in 0..count {
        assert!(bodies.insert(take(consumer).await), "a message came twice");
    }
    bodies
}

/// Fails if anything is delivered.
pub(crate) async fn nothing_comes(consumer: &mut dyn Consumer) {
    if let Ok(delivery) = timeout(A_WHILE, consumer.next()).await {
        panic!("nothing was to come, but {delivery:?} did");
    }
}

/// Waits until the lane is as deep as expected: brokers count with a delay.
pub(crate) async fn depth_becomes(queue: &dyn TaskQueue, lane: Lane, expected: QueueDepth) {
    let mut last = None;
    let reached = timeout(SOON, async {
        while last != Some(expected) {
            sleep(Duration::from_millis(50)).await;
            last = Some(queue.depth(lane).await.expect("the depth"));
        }
    });
    if reached.await.is_err() {
        panic!("{lane:?} was to become {expected:?}, but it is {last:?}");
    }
}

pub(crate) fn depth(ready: u64, consumers: u64) -> QueueDepth {
    QueueDepth { ready, consumers }
}

pub(crate) fn bodies(range: std::ops::Range<usize>) -> HashSet<Vec<u8>> {
    range.map(|n| n.to_string().into_bytes()).collect()
}
