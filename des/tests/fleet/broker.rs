//! The broker as somebody sees it who is not `des`: looks into queues, empties, repeats, breaks.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::runtime::Runtime;

use crate::setup::{Fleet, server};

const COPY: &str = "x-copy";

/// The queues and the exchange of one fleet.
pub(crate) struct Broker {
    url: String,
    prefix: String,
    runtime: Runtime,
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).expect("a short text")
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

/// What the broker's own tool says, without headings.
pub(crate) fn rabbitmqctl(words: &[&str]) -> String {
    let mut command = Command::new(server("DES_TEST_RABBITMQCTL"));
    let output = command.args(["--quiet", "--no-table-headers"]).args(words).output();
    let output = output.expect("rabbitmqctl runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

async fn channel(url: &str) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(url, properties).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

impl Broker {
    pub(crate) fn of(fleet: &Fleet) -> Self {
        Self::with_prefix(fleet, &fleet.broker().1)
    }

    /// Those of another job of the fleet.
    pub(crate) fn with_prefix(fleet: &Fleet, prefix: &str) -> Self {
        let (url, prefix) = (fleet.broker().0, prefix.to_owned());
        Self { url, prefix, runtime: runtime() }
    }

    fn queue(&self, lane: &str) -> ShortString {
        short(&format!("{}.{lane}", self.prefix))
    }

    /// Messages that wait; `None` where there is no such queue.
    fn depth(&self, lane: &str) -> Option<u32> {
        self.look(lane).map(|(messages, _consumers)| messages)
    }

    /// Consumers; `None` where there is no such queue.
    pub(crate) fn consumers(&self, lane: &str) -> Option<u32> {
        self.look(lane).map(|(_messages, consumers)| consumers)
    }

    fn look(&self, lane: &str) -> Option<(u32, u32)> {
        self.runtime.block_on(async {
            let (connection, channel) = channel(&self.url).await;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(self.queue(lane), passive, FieldTable::default());
            let declared = declared.await.ok();
            let _closed_already = connection.close(200, short("")).await;
            declared.map(|queue| (queue.message_count(), queue.consumer_count()))
        })
    }

    pub(crate) fn waiting(&self, lane: &str) -> u32 {
        self.depth(lane).unwrap_or(0)
    }

    /// Messages that were delivered and not acked, as the broker itself says.
    pub(crate) fn unacked(&self, lane: &str) -> u64 {
        let told = rabbitmqctl(&["list_queues", "name", "messages_unacknowledged"]);
        let queue = self.queue(lane);
        let line = told.lines().find_map(|it| it.strip_prefix(&format!("{queue}\t")));
        line.unwrap_or_else(|| panic!("no {queue}:\n{told}")).trim().parse().expect("a number")
    }

    /// Empties a queue; the number of messages that were lost.
    pub(crate) fn purge(&self, lane: &str) -> u32 {
        self.runtime.block_on(async {
            let (_connection, channel) = channel(&self.url).await;
            let purge = channel.queue_purge(self.queue(lane), QueuePurgeOptions::default());
            purge.await.expect("emptied")
        })
    }

    /// Whether the user of a URL may take messages from a queue.
    pub(crate) fn may_be_read_by(&self, url: &str, lane: &str) -> bool {
        self.runtime.block_on(async {
            let (_connection, channel) = channel(url).await;
            let got = channel.basic_get(self.queue(lane), BasicGetOptions::default()).await;
            match got {
                Ok(_) => true,
                Err(error) => {
                    assert!(error.to_string().contains("ACCESS_REFUSED"), "{error}");
                    false
                }
            }
        })
    }

    pub(crate) fn delete(&self, lane: &str) {
        self.runtime.block_on(async {
            let (_connection, channel) = channel(&self.url).await;
            let delete = channel.queue_delete(self.queue(lane), QueueDeleteOptions::default());
            delete.await.expect("deleted");
        });
    }

    pub(crate) fn publish(&self, lane: &str, kind: &str, body: &[u8]) {
        self.runtime.block_on(async {
            let (_connection, channel) = channel(&self.url).await;
            let properties = BasicProperties::default().with_type(short(kind));
            let options = BasicPublishOptions::default();
            let (exchange, key) = (short(&self.prefix), short(lane));
            let published = channel.basic_publish(exchange, key, options, body, properties).await;
            published.expect("published").await.expect("sent");
            channel.close(200, short("")).await.expect("closed after what was sent");
        });
    }

    /// Lane and reason of every dead letter, which are taken out.
    pub(crate) fn dead_letter_reasons(&self) -> Vec<(String, String)> {
        self.runtime.block_on(async {
            let (_connection, channel) = channel(&self.url).await;
            let mut reasons = Vec::new();
            let options = BasicGetOptions { no_ack: true };
            while let Some(letter) =
                channel.basic_get(self.queue("dead"), options).await.expect("an answer")
            {
                let headers = letter.properties.headers().clone().unwrap_or_default();
                let header = |name: &str| match headers.inner().get(name) {
                    Some(AMQPValue::LongString(text)) => text.to_string(),
                    _ => String::new(),
                };
                reasons.push((header("from"), header("reason")));
            }
            reasons
        })
    }

    /// Publishes every task and outcome `times` more.
    pub(crate) fn repeat_everything(&self, times: usize) -> Repeating {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let (url, prefix) = (self.url.clone(), self.prefix.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let (_connection, channel) = channel(&url).await;
                let mut spy = spy(&channel, &prefix).await;
                ready.send(()).expect("somebody waits");
                while !stopped.load(Ordering::Relaxed) {
                    let next = tokio::time::timeout(Duration::from_millis(50), spy.next()).await;
                    let Ok(Some(delivery)) = next else { continue };
                    let delivery = delivery.expect("a delivery");
                    let mut headers = delivery.properties.headers().clone().unwrap_or_default();
                    if headers.inner().contains_key(COPY) {
                        continue;
                    }
                    headers.insert(short(COPY), AMQPValue::Boolean(true));
                    let properties = delivery.properties.clone().with_headers(headers);
                    for _ in 0..times {
                        let (to, key) = (delivery.exchange.clone(), delivery.routing_key.clone());
                        let options = BasicPublishOptions::default();
                        let body = &delivery.data;
                        let sent =
                            channel.basic_publish(to, key, options, body, properties.clone());
                        sent.await.expect("published").await.expect("sent");
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        is_ready.recv().expect("it listens");
        Repeating { stop, count, thread: Some(thread) }
    }
}

/// A queue that gets a copy of whatever is published for workers and coordinators.
async fn spy(channel: &Channel, prefix: &str) -> lapin::Consumer {
    let durable = lapin::options::ExchangeDeclareOptions {
        durable: true,
        ..lapin::options::ExchangeDeclareOptions::default()
    };
    let direct = lapin::ExchangeKind::Direct;
    let declared = channel.exchange_declare(short(prefix), direct, durable, FieldTable::default());
    declared.await.expect("the exchange as des declares it");
    let name = short(&format!("{prefix}.spy"));
    let own = QueueDeclareOptions::exclusive();
    channel.queue_declare(name.clone(), own, FieldTable::default()).await.expect("a queue");
    for lane in ["tasks", "outcomes"] {
        let bind = channel.queue_bind(
            name.clone(),
            short(prefix),
            short(lane),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bind.await.expect("bound");
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(name, short(""), options, FieldTable::default()).await.expect("consumed")
}

/// Somebody who repeats messages.
pub(crate) struct Repeating {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Repeating {
    /// How many messages were repeated.
    pub(crate) fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it repeated");
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
