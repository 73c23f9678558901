//! RabbitMQ refuses us, closes connections, loses queues, goes away and comes back.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backends::TaskQueue;
use backends::error::BackendError;
use backends::queue::{Consumer, Lane, RabbitQueue};
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::types::AMQPValue;
use lapin::uri::AMQPUri;
use tokio::time::{sleep, timeout};

use crate::broker::{self, Place, alone, calm, rabbitmqctl};
use crate::support::{SOON, consume, depth, depth_becomes, message, next, publish, take};

/// Publishes numbered messages until told to stop, each until it is confirmed; returns how many.
async fn publish_until(queue: Arc<RabbitQueue>, stop: Arc<AtomicBool>) -> usize {
    let mut confirmed = 0;
    while !stop.load(Ordering::Relaxed) {
        let body = confirmed.to_string();
        while let Err(error) = queue.publish(Lane::Tasks, message(&body)).await {
            assert!(error.is_retryable(), "{error}");
        }
        confirmed += 1;
        sleep(Duration::from_millis(2)).await;
    }
    confirmed
}

/// Takes and acks until every one of the numbered messages came, in any order and number.
async fn take_until(consumer: &mut dyn Consumer, seen: &mut HashSet<Vec<u8>>, count: usize) {
    let all: HashSet<_> = (0..count).map(|n| n.to_string().into_bytes()).collect();
    let taking = async {
        while !all.is_subset(seen) {
            let delivery = consumer.next().await;
            // Before the ack, which the broker may hear although nobody is told so.
            seen.insert(delivery.body);
            delivery.settle.ack().await;
        }
    };
    if timeout(SOON, taking).await.is_err() {
        panic!("{} of {count} confirmed messages were lost", all.difference(seen).count());
    }
}

/// Does something to the broker while messages go through it, and accounts for them.
async fn nothing_is_lost_while(disturbance: impl Future<Output = ()>) {
    let place = Place::new();
    let queue = Arc::new(place.connect().await);
    let mut consumer = consume(&*queue, Lane::Tasks, 10).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn(publish_until(Arc::clone(&queue), Arc::clone(&stop)));
    let mut seen = HashSet::new();
    take_until(&mut *consumer, &mut seen, 50).await;

    let taking = async {
        loop {
            let delivery = consumer.next().await;
            // Before the ack, which the broker may hear although nobody is told so.
            seen.insert(delivery.body);
            delivery.settle.ack().await;
        }
    };
    tokio::select! {
        () = disturbance => {}
        () = taking => unreachable!("it takes for ever"),
    }
    let before = seen.len();
    take_until(&mut *consumer, &mut seen, before + 50).await;
    stop.store(true, Ordering::Relaxed);
    let confirmed = publisher.await.expect("the publisher ends");
    take_until(&mut *consumer, &mut seen, confirmed).await;

    // The connections are new; a message is as good as before.
    publish(&*queue, Lane::Outcomes, "after all").await;
    let mut outcomes = consume(&*queue, Lane::Outcomes, 1).await;
    assert_eq!(take(&mut *outcomes).await, b"after all");
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_connections_lose_nothing_that_was_confirmed() {
    let _alone = alone().await;
    nothing_is_lost_while(async {
        for _ in 0..2 {
            rabbitmqctl(&["close_all_connections", "--global", "a test closes it"]).await;
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_nothing_that_was_confirmed() {
    let _alone = alone().await;
    nothing_is_lost_while(async {
        rabbitmqctl(&["stop_app"]).await;
        sleep(Duration::from_secs(1)).await;
        rabbitmqctl(&["start_app"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_of_a_closed_connection_tells_nobody_and_the_message_comes_again() {
    let _alone = alone().await;
    let place = Place::new();
    let queue = place.connect().await;
    let mut consumer = consume(&queue, Lane::Tasks, 1).await;
    let mut listener = consume(&queue, Lane::Progress, 1).await;
    publish(&queue, Lane::Tasks, "x").await;
    let stale = next(&mut *consumer).await;
    assert!(!stale.redelivered);

    rabbitmqctl(&["close_all_connections", "--global", "a test closes it"]).await;
    let fresh = next(&mut *consumer).await;
    assert!(fresh.redelivered, "someone may have died over it");
    assert!(!stale.settle.ack().await);
    assert!(fresh.settle.ack().await);
    depth_becomes(&queue, Lane::Tasks, depth(0, 1)).await;

    // Whoever listens to progress hears again, once both connections are there.
    let heard = async {
        loop {
            let _ = queue.publish(Lane::Progress, message("again")).await;
            if let Ok(delivery) = timeout(Duration::from_millis(200), listener.next()).await {
                return delivery.body;
            }
        }
    };
    assert_eq!(timeout(SOON, heard).await.expect("progress is heard again"), b"again");
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_comes_back_under_its_consumer() {
    let _calm = calm().await;
    let place = Place::new();
    let queue = place.connect().await;
    let mut consumer = consume(&queue, Lane::Tasks, 1).await;
    publish(&queue, Lane::Tasks, "before").await;
    let held = next(&mut *consumer).await;
    place.delete_queue("tasks").await;

    // The consumer declares it again while it waits; until then nothing can be routed.
    let after = async {
        while let Err(error) = queue.publish(Lane::Tasks, message("after")).await {
            assert!(error.is_retryable(), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    let (delivery, ()) = tokio::join!(next(&mut *consumer), after);
    assert_eq!(delivery.body, b"after");
    assert!(delivery.settle.ack().await);
    assert!(!held.settle.ack().await, "its queue is gone, and its channel with it");
    depth_becomes(&queue, Lane::Tasks, depth(0, 1)).await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_route_is_not_confirmed_and_the_queue_comes_back() {
    let _calm = calm().await;
    let place = Place::new();
    let queue = place.connect().await;
    publish(&queue, Lane::Dead, "first").await;
    place.delete_queue("dead").await;

    // Together with messages that can be routed: the client library tells that something was
    // returned, but not reliably what.
    let lanes = (0..300).map(|n| if n > 20 && n % 7 == 0 { Lane::Dead } else { Lane::Outcomes });
    let publishing = lanes.clone().map(|lane| queue.publish(lane, message("x")));
    let confirmed = futures::future::join_all(publishing).await;
    let (mut in_dead, mut in_outcomes, mut refused) = (0, 0, 0);
    for (lane, confirmed) in lanes.zip(confirmed) {
        match (lane, confirmed) {
            (Lane::Dead, Ok(())) => in_dead += 1,
            (Lane::Dead, Err(error)) => {
                assert!(error.to_string().contains("no queue"), "{error}");
                refused += 1;
            }
            (_, confirmed) => {
                confirmed.expect("its queue is there");
                in_outcomes += 1;
            }
        }
    }
    assert!(refused > 0, "the queue was gone");
    publish(&queue, Lane::Dead, "last").await;
    depth_becomes(&queue, Lane::Dead, depth(in_dead + 1, 0)).await;
    depth_becomes(&queue, Lane::Outcomes, depth(in_outcomes, 0)).await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_about_a_deleted_queue_declares_it() {
    let _calm = calm().await;
    let place = Place::new();
    let queue = place.connect().await;
    publish(&queue, Lane::Tasks, "x").await;
    place.delete_queue("tasks").await;
    assert_eq!(queue.depth(Lane::Tasks).await.expect("an answer"), depth(0, 0));
    publish(&queue, Lane::Tasks, "y").await;
    place.delete_queue("tasks").await;
    assert_eq!(queue.purge(Lane::Tasks).await.expect("an answer"), 0);
    publish(&queue, Lane::Tasks, "z").await;
    depth_becomes(&queue, Lane::Tasks, depth(1, 0)).await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_held_too_long_comes_again() {
    let _alone = alone().await;
    let place = Place::new();
    let queue = place.connect().await;
    publish(&queue, Lane::Tasks, "x").await;
    rabbitmqctl(&["eval", &consumer_timeout(3_000, 200)]).await;
    // The broker closes the channel, not the connection.
    let mut consumer = consume(&queue, Lane::Tasks, 1).await;
    let stale = next(&mut *consumer).await;
    let again = timeout(SOON, async {
        let fresh = consumer.next().await;
        (fresh.redelivered, stale.settle.ack().await, fresh.settle.ack().await)
    });
    let again = again.await;
    rabbitmqctl(&["eval", &consumer_timeout(1_800_000, 60_000)]).await;
    let (redelivered, stale_told, fresh_told) = again.expect("it comes again");
    assert!(redelivered && !stale_told && fresh_told);
    depth_becomes(&queue, Lane::Tasks, depth(0, 1)).await;
    place.clear().await;
}

/// Has the broker close a new channel that holds a delivery for so long.
fn consumer_timeout(held_ms: u32, look_interval_ms: u32) -> String {
    format!(
        "application:set_env(rabbit, consumer_timeout, {held_ms}), \
         application:set_env(rabbit, channel_tick_interval, {look_interval_ms})."
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_exchanges_come_back() {
    let _calm = calm().await;
    let place = Place::new();
    let queue = place.connect().await;
    publish(&queue, Lane::Progress, "before").await;
    place.delete_exchanges().await;

    let published = async {
        while let Err(error) = queue.publish(Lane::Tasks, message("again")).await {
            assert!(error.is_retryable(), "{error}");
        }
    };
    timeout(SOON, published).await.expect("it is published");
    let mut consumer = consume(&queue, Lane::Tasks, 1).await;
    assert_eq!(take(&mut *consumer).await, b"again");

    // The connection is sound: only the channel for progress is closed by what it publishes.
    broker::delete_exchange(&place.queue("progress")).await;
    let declared = async {
        while !broker::has_exchange(&place.queue("progress")).await {
            let _ = queue.publish(Lane::Progress, message("x")).await;
        }
    };
    timeout(SOON, declared).await.expect("it is declared");
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_memory_blocks_publishing_and_nothing_else() {
    let _alone = alone().await;
    let (alarmed, at_ease) = (["absolute", "1"].as_slice(), ["0.9"].as_slice());
    let limit = "set_vm_memory_high_watermark";
    blocks_publishing_and_nothing_else(limit, (alarmed, at_ease), "low on memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_disk_blocks_publishing_and_nothing_else() {
    let _alone = alone().await;
    // More bytes than any disk has, and the default.
    let (alarmed, at_ease) = (["1000000000000000000"].as_slice(), ["50000000"].as_slice());
    let limit = "set_disk_free_limit";
    blocks_publishing_and_nothing_else(limit, (alarmed, at_ease), "low on disk").await;
}

async fn blocks_publishing_and_nothing_else(
    limit: &str,
    (alarmed, at_ease): (&[&str], &[&str]),
    why: &str,
) {
    let set = async |to: &[&str]| rabbitmqctl(&[&[limit], to].concat()).await;
    let place = Place::new();
    let queue = place.connect().await;
    publish(&queue, Lane::Tasks, "before").await;
    let mut consumer = consume(&queue, Lane::Tasks, 1).await;
    let held = next(&mut *consumer).await;

    set(alarmed).await;
    let refused = queue.publish(Lane::Tasks, message("blocked")).await;
    let refused = refused.expect_err("nobody confirms").to_string();
    assert!(refused.contains("blocks publishers") && refused.contains(why), "{refused}");
    assert!(queue.publish(Lane::Progress, message("blocked")).await.is_err());
    assert!(held.settle.ack().await, "acks go by the other connection");
    queue.purge(Lane::Outcomes).await.expect("and so do questions");
    // A blocked connection is kept: the broker does not notice when one is closed.
    sleep(Duration::from_secs(2)).await;
    let connections = rabbitmqctl(&["list_connections", "client_properties"]).await;
    let publishing = format!("{} publish", place.prefix);
    assert_eq!(connections.matches(&publishing).count(), 1, "{connections}");

    set(at_ease).await;
    publish(&queue, Lane::Tasks, "after").await;
    // The blocked one may have got through: its publisher was told that nobody knows.
    while take(&mut *consumer).await != b"after" {}
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_the_broker_and_keeps_the_password() {
    let _calm = calm().await;
    let place = Place::new();
    let right = broker::url();
    let (host, port) = (right.authority.host.clone(), right.authority.port);
    let password = "a-very-secret-word";

    let refusal = async |url: AMQPUri| {
        let error = RabbitQueue::connect(place.settings(&url)).await.expect_err("it is refused");
        let text = format!("{error} {error:?}");
        let vhost = url.vhost.replace('/', "%2f");
        let label = format!("{}:{}/{vhost}", url.authority.host, url.authority.port);
        assert!(error.to_string().contains(&label), "{text}");
        for secret in [password, &right.authority.userinfo.password] {
            assert!(!text.contains(secret), "the password is told");
        }
        error
    };

    let mut url = right.clone();
    url.authority.userinfo.password = password.to_owned();
    assert!(matches!(refusal(url).await, BackendError::Denied { .. }));

    let mut url = right.clone();
    url.vhost = "no-such-vhost".to_owned();
    assert!(matches!(refusal(url).await, BackendError::Denied { .. }));

    let free = std::net::TcpListener::bind((host.as_str(), 0)).expect("a port");
    let mut url = right.clone();
    url.authority.port = free.local_addr().expect("its address").port();
    drop(free);
    assert!(matches!(refusal(url).await, BackendError::Unavailable { .. }));

    let mut url = right.clone();
    url.scheme = lapin::uri::AMQPScheme::AMQPS;
    assert!(matches!(refusal(url).await, BackendError::Unavailable { .. }), "nobody speaks TLS");

    let queue = place.connect().await;
    let described = format!("RabbitMQ at {host}:{port}/%2f, queues {}.*", place.prefix);
    assert_eq!(queue.to_string(), described);
    for text in [format!("{queue:?}"), format!("{:?}", place.settings(&right))] {
        assert!(!text.contains(&right.authority.userinfo.password), "the password is told");
    }
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_refused_at_start() {
    let _calm = calm().await;
    let place = Place::new();
    let (_connection, channel) = broker::channel().await;
    let options = lapin::options::QueueDeclareOptions::durable();
    let arguments = lapin::types::FieldTable::default();
    let foreign = channel.queue_declare(place.queue("tasks").into(), options, arguments);
    foreign.await.expect("a classic queue is declared");
    let refused = RabbitQueue::connect(place.settings(&broker::url())).await;
    let refused = refused.expect_err("it is another kind of queue");
    assert!(matches!(refused, BackendError::Invalid { .. }), "{refused}");
    assert!(refused.to_string().contains(&place.prefix), "{refused}");
    place.delete_queue("tasks").await;
    place.connect().await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_prefixes_do_not_see_each_other() {
    let _calm = calm().await;
    let (one, other) = (Place::new(), Place::new());
    let (first, second) = (one.connect().await, other.connect().await);
    let mut heard_by_second = consume(&second, Lane::Progress, 1).await;
    publish(&first, Lane::Tasks, "to the first").await;
    publish(&first, Lane::Progress, "to the first").await;
    publish(&second, Lane::Tasks, "to the second").await;
    publish(&second, Lane::Progress, "to the second").await;

    assert_eq!(take(&mut *heard_by_second).await, b"to the second");
    let mut consumer = consume(&second, Lane::Tasks, 5).await;
    assert_eq!(take(&mut *consumer).await, b"to the second");
    depth_becomes(&second, Lane::Tasks, depth(0, 1)).await;
    depth_becomes(&first, Lane::Tasks, depth(1, 0)).await;
    one.clear().await;
    other.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_find_what_they_need_in_the_properties() {
    let _calm = calm().await;
    let place = Place::new();
    let queue = place.connect().await;
    publish(&queue, Lane::Dead, "{}").await;

    let (_connection, channel) = broker::channel().await;
    let options = BasicGetOptions { no_ack: true };
    let got = channel.basic_get(place.queue("dead").into(), options).await.expect("an answer");
    let properties = got.expect("a message").delivery.properties;
    let text = |text: &Option<lapin::types::ShortString>| {
        text.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(text(properties.content_type()), "application/json");
    assert_eq!(text(properties.kind()), "des.test.v1");
    assert_eq!(text(properties.app_id()), "des");
    assert_eq!(text(properties.message_id()).len(), 36, "a UUID");
    assert_eq!(*properties.delivery_mode(), Some(2), "it is persistent");
    assert!(properties.timestamp().is_some());
    let headers = properties.headers().clone().expect("headers");
    let archive = headers.inner().get("archive").expect("the archive");
    assert_eq!(*archive, AMQPValue::LongString("an archive".into()));

    // Somebody else's message, without any of it, is delivered too.
    let (exchange, key) = (place.prefix.as_str().into(), "dead".into());
    let (options, none) = (BasicPublishOptions::default(), lapin::BasicProperties::default());
    let published = channel.basic_publish(exchange, key, options, b"\xff", none).await;
    published.expect("it is sent");
    let mut consumer = consume(&queue, Lane::Dead, 1).await;
    let foreign = next(&mut *consumer).await;
    assert_eq!((foreign.kind.as_str(), foreign.body.as_slice()), ("", b"\xff".as_slice()));
    assert!(foreign.settle.ack().await);
    place.clear().await;
}
