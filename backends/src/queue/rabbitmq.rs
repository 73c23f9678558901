//! The queue of a fleet: RabbitMQ, 3.10 to 4.x.
//!
//! Two connections, since a broker that is short of memory or disk stops reading from those that
//! publish: one publishes, the other one consumes, acks and asks. Each is supervised by itself
//! and rebuilt for ever.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use tokio::time::timeout;

mod consumer;
mod link;
mod message;
mod publisher;
mod target;
mod topology;

use self::consumer::RabbitConsumer;
use self::link::{Link, RPC_TIMEOUT, Session};
use self::publisher::Publisher;
use self::target::{Target, Trouble, code};
use super::{Consumer, Lane, OutgoingMessage, QueueDepth, TaskQueue};
use crate::error::Result;

/// What names begin with unless the operator says otherwise.
pub const DEFAULT_PREFIX: &str = "des";

/// Where the broker is and what is ours in it.
#[derive(Clone)]
pub struct RabbitSettings {
    /// `amqp[s]://user:password@host:port/vhost`; the path is the vhost, percent-encoded: `/%2f`
    /// is the default one.
    pub url: String,
    /// What the names of our exchanges and queues begin with: [`DEFAULT_PREFIX`], or another
    /// one where several fleets share a broker.
    pub prefix: String,
    /// Name of the connections, shown by the broker: the worker's id, for example.
    pub name: String,
}

impl RabbitSettings {
    /// Whether both mean the same queues, whoever connects to them and however.
    ///
    /// # Errors
    /// `Invalid` for a URL or prefix that cannot be right.
    pub fn are_of_same_queues(&self, other: &Self) -> Result<bool> {
        let (this, other) = (Target::new(self.clone())?, Target::new(other.clone())?);
        Ok((this.label(), this.prefix()) == (other.label(), other.prefix()))
    }
}

/// The queues of a fleet in RabbitMQ.
///
/// [`Lane::Progress`] has no queue of its own but one per consumer, so that its depth is not
/// known and there is nothing to purge: both are 0. A delivery that is dropped without being
/// settled stays with its consumer, and counts in its prefetch, until the consumer is dropped.
pub struct RabbitQueue {
    target: Arc<Target>,
    publisher: Publisher,
    link: Arc<Link>,
}

impl RabbitQueue {
    /// Connects, and declares what is missing. The broker has to be there for this; later it may
    /// come and go.
    ///
    /// # Errors
    /// `Invalid` for a URL or prefix that cannot be right and for queues that stand there with
    /// other arguments, `Denied` when user, password, vhost or permissions are wrong,
    /// `Unavailable` when nobody answers.
    pub async fn connect(settings: RabbitSettings) -> Result<Self> {
        let target = Arc::new(Target::new(settings)?);
        let publisher = Publisher::open(Arc::clone(&target)).await?;
        let link = Arc::new(Link::open(Arc::clone(&target), "consume").await?);
        Ok(Self { target, publisher, link })
    }

    /// Broker and names in one line, without secrets.
    pub fn describe(&self) -> String {
        format!("RabbitMQ at {}, queues {}.*", self.target.label(), self.target.prefix())
    }

    /// The connection for questions: not the publishing one, which may be blocked.
    async fn session(&self, action: &str) -> Result<Arc<Session>> {
        let session = timeout(RPC_TIMEOUT, self.link.session()).await;
        session.map_err(|_| self.target.error(action, Trouble::Absent(self.link.trouble())))
    }

    /// An answer about a durable lane's queue. One that is not there is declared, and is empty.
    async fn answered<T: Default>(
        &self,
        lane: Lane,
        session: &Session,
        action: &str,
        answer: std::result::Result<T, Trouble>,
    ) -> Result<T> {
        let answer = match answer {
            Err(trouble) if trouble.code() == Some(code::NOT_FOUND) => {
                let declared = session.ask(async {
                    let channel = session.channel().await?;
                    topology::declare_queue(&channel, &self.target, lane).await
                });
                declared.await.map(|()| T::default())
            }
            answer => answer,
        };
        answer.map_err(|trouble| self.target.error(action, trouble))
    }
}

#[async_trait]
impl TaskQueue for RabbitQueue {
    async fn publish(&self, lane: Lane, message: OutgoingMessage) -> Result<()> {
        match lane {
            Lane::Progress => self.publisher.publish_progress(message).await,
            lane => self.publisher.publish(lane, message).await,
        }
    }

    async fn consume(&self, lane: Lane, prefetch: u16) -> Result<Box<dyn Consumer>> {
        let (target, link) = (Arc::clone(&self.target), Arc::clone(&self.link));
        Ok(Box::new(RabbitConsumer::start(target, link, lane, prefetch).await))
    }

    async fn purge(&self, lane: Lane) -> Result<u64> {
        if lane == Lane::Progress {
            return Ok(0);
        }
        let queue = self.target.lane(lane);
        let action = format!("purge {queue}");
        let session = self.session(&action).await?;
        let purged = session.ask(async {
            let channel = session.channel().await?;
            channel.queue_purge(queue, QueuePurgeOptions::default()).await
        });
        let purged = purged.await;
        self.answered(lane, &session, &action, purged).await.map(u64::from)
    }

    async fn depth(&self, lane: Lane) -> Result<QueueDepth> {
        if lane == Lane::Progress {
            return Ok(QueueDepth::default());
        }
        let queue = self.target.lane(lane);
        let action = format!("ask for the depth of {queue}");
        let session = self.session(&action).await?;
        let depth = session.ask(async {
            let channel = session.channel().await?;
            let options = QueueDeclareOptions::durable().passive();
            let queue = channel.queue_declare(queue, options, FieldTable::default()).await?;
            Ok(QueueDepth {
                ready: queue.message_count().into(),
                consumers: queue.consumer_count().into(),
            })
        });
        let depth = depth.await;
        self.answered(lane, &session, &action, depth).await
    }
}

impl fmt::Display for RabbitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Debug for RabbitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RabbitQueue").field(&self.describe()).finish()
    }
}

impl fmt::Debug for RabbitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitSettings")
            .field("prefix", &self.prefix)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
