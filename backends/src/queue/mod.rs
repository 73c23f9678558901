//! The queue that carries tasks to workers and outcomes back. It rings bells: nothing that it
//! loses is lost, since the ledger knows what is unfinished.

use async_trait::async_trait;

use crate::error::Result;

pub mod in_process;
mod limits;
pub mod rabbitmq;

pub use in_process::InProcessQueue;
pub use rabbitmq::{RabbitQueue, RabbitSettings};

/// The queues of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Coordinator to workers: tasks. Durable.
    Tasks,
    /// Workers to coordinator: outcomes. Durable.
    Outcomes,
    /// Messages that nobody can parse, with the reason. Durable.
    Dead,
    /// Workers to whoever leads: progress. Lost when nobody listens.
    Progress,
}

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// The type, such as `des.task.v1`.
    pub kind: String,
    /// JSON.
    pub body: Vec<u8>,
    /// Headers: archive, job and reason of a dead letter for a person who looks into the broker, and
    /// the context of the trace that the message belongs to.
    pub headers: Vec<(String, String)>,
}

/// How much a queue holds, as far as the broker says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Consumers.
    pub consumers: u64,
}

/// Publishing and consuming.
///
/// Implementations keep their connections alive themselves: a broken one is dropped and rebuilt
/// with jittered backoff, for ever.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// Publishes one message. `Ok` means that the broker has it: routed and confirmed, on disk
    /// where the lane is durable. On [`Lane::Progress`] `Ok` means nothing more than sent.
    ///
    /// # Errors
    /// When the broker did not confirm in time; the message may or may not be there. The cause
    /// says so when the broker blocks publishers (memory or disk alarm).
    async fn publish(&self, lane: Lane, message: OutgoingMessage) -> Result<()>;

    /// Begins to consume a lane. At most `prefetch` deliveries are unsettled at a time.
    ///
    /// # Errors
    /// Never because the broker is away: the consumer waits for it.
    async fn consume(&self, lane: Lane, prefetch: u16) -> Result<Box<dyn Consumer>>;

    /// Drops every waiting message of a lane; returns how many.
    ///
    /// # Errors
    /// When the broker does not answer.
    async fn purge(&self, lane: Lane) -> Result<u64>;

    /// How much a lane holds.
    ///
    /// # Errors
    /// When the broker does not answer.
    async fn depth(&self, lane: Lane) -> Result<QueueDepth>;

    /// Of a queue that ends with this process, and cannot tell what that died over: how many tasks
    /// its consumers take at a time. `None` for a broker, which outlives its consumers.
    fn tasks_at_a_time(&self) -> Option<usize> {
        None
    }
}

/// An open consumer. Dropping it stops consuming; unsettled deliveries go back to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery, over any number of broken connections.
    async fn next(&mut self) -> Delivery;

    /// Stops receiving, for good, and gives what was received and never taken. What is unsettled
    /// can still be settled as long as this consumer lives; [`Consumer::next`] never returns any
    /// more.
    async fn stop(&mut self) -> Vec<Delivery>;
}

/// One message as it was delivered.
pub struct Delivery {
    /// The type that the publisher gave it, empty when it gave none.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
    /// The headers that the publisher gave it, in no particular order; those that are no texts are
    /// left out.
    pub headers: Vec<(String, String)>,
    /// Whether the broker delivered it before, so that someone may have died over it.
    pub redelivered: bool,
    /// Settles the delivery.
    pub settle: Box<dyn Settle>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("kind", &self.kind)
            .field("bytes", &self.body.len())
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

/// Settles one delivery, once.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Tells the broker that the message was dealt with. Returns whether the broker could still
    /// be told: `false` when the delivery's connection is gone, in which case the message will be
    /// delivered again, marked as redelivered.
    async fn ack(self: Box<Self>) -> bool;
}
