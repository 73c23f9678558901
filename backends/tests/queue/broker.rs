//! The private RabbitMQ that `./test` starts, and what tests do to it behind our back.

use std::process::Stdio;
use std::time::Duration;

use backends::queue::{RabbitQueue, RabbitSettings};
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::process::Command;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::timeout;
use uuid::Uuid;

/// Time for one call of `rabbitmqctl`.
const CTL_TIMEOUT: Duration = Duration::from_secs(90);

/// Tests that stop the broker or close everyone's connections run alone.
static CALM: RwLock<()> = RwLock::const_new(());

pub(crate) async fn calm() -> RwLockReadGuard<'static, ()> {
    CALM.read().await
}

pub(crate) async fn alone() -> RwLockWriteGuard<'static, ()> {
    CALM.write().await
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ./test"))
}

pub(crate) fn url() -> AMQPUri {
    variable("DES_TEST_AMQP_URL").parse().expect("DES_TEST_AMQP_URL is an AMQP URL")
}

/// Runs `rabbitmqctl` for the private broker; returns what it prints.
pub(crate) async fn rabbitmqctl(arguments: &[&str]) -> String {
    let mut command = Command::new(variable("DES_TEST_RABBITMQCTL"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(CTL_TIMEOUT, command.output()).await.expect("rabbitmqctl ends");
    let output = output.expect("rabbitmqctl runs");
    assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of one test in the broker.
pub(crate) struct Place {
    pub(crate) prefix: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { prefix: format!("des-test-{}", Uuid::new_v4()) }
    }

    pub(crate) fn settings(&self, url: &AMQPUri) -> RabbitSettings {
        let prefix = self.prefix.clone();
        RabbitSettings { url: url.to_string(), name: prefix.clone(), prefix }
    }

    pub(crate) async fn connect(&self) -> RabbitQueue {
        RabbitQueue::connect(self.settings(&url())).await.expect("the private broker takes us")
    }

    pub(crate) fn queue(&self, lane: &str) -> String {
        format!("{}.{lane}", self.prefix)
    }

    /// Deletes a queue under whoever uses it.
    pub(crate) async fn delete_queue(&self, lane: &str) {
        let (_connection, channel) = channel().await;
        let options = QueueDeleteOptions::default();
        let deleted = channel.queue_delete(self.queue(lane).into(), options);
        deleted.await.expect("the queue is deleted");
    }

    /// Deletes everything of the test.
    pub(crate) async fn clear(&self) {
        let (_connection, channel) = channel().await;
        for lane in ["tasks", "outcomes", "dead"] {
            let options = QueueDeleteOptions::default();
            let deleted = channel.queue_delete(self.queue(lane).into(), options);
            deleted.await.expect("the queue is deleted");
        }
        self.delete_exchanges().await;
    }

    /// Deletes the exchanges under whoever uses them.
    pub(crate) async fn delete_exchanges(&self) {
        for exchange in [self.prefix.clone(), self.queue("progress")] {
            delete_exchange(&exchange).await;
        }
    }
}

pub(crate) async fn delete_exchange(name: &str) {
    let (_connection, channel) = channel().await;
    let deleted = channel.exchange_delete(name.into(), ExchangeDeleteOptions::default());
    deleted.await.expect("the exchange is deleted");
}

pub(crate) async fn has_exchange(name: &str) -> bool {
    let (_connection, channel) = channel().await;
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let (kind, arguments) = (lapin::ExchangeKind::Fanout, lapin::types::FieldTable::default());
    channel.exchange_declare(name.into(), kind, options, arguments).await.is_ok()
}

/// A channel of our own, beside the adapter.
pub(crate) async fn channel() -> (Connection, Channel) {
    let url = url().to_string();
    let connection = Connection::connect(&url, ConnectionProperties::default());
    let connection = connection.await.expect("the private broker takes us");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}
