//! Consuming over a connection of its own, apart from publishing, so that a broker that blocks
//! publishers still takes acks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::link::{Backoff, Link, Session};
use super::target::{Target, Trouble, short};
use super::topology;
use crate::queue::{Consumer, Delivery, Lane, Settle};

/// Time to hand an ack to the network.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// A consumer of one lane. Its channel is opened again, on the same connection or the next one,
/// whenever anything is wrong with it.
pub(super) struct RabbitConsumer {
    target: Arc<Target>,
    link: Arc<Link>,
    lane: Lane,
    prefetch: u16,
    open: Option<OpenConsumer>,
    /// Kept here rather than in a loop, since callers drop the future of `next` at will.
    backoff: Backoff,
    not_before: Instant,
    failing: bool,
}

/// A channel with a consumer on it. Dropping it closes the channel, and the broker takes back
/// what is not settled.
struct OpenConsumer {
    session: Arc<Session>,
    stream: lapin::Consumer,
    /// Cancelled when an ack could not be told.
    suspect: CancellationToken,
    _channel: Channel,
}

impl RabbitConsumer {
    /// Begins to consume at once if the broker is there, and with the first `next` otherwise.
    pub(super) async fn start(
        target: Arc<Target>,
        link: Arc<Link>,
        lane: Lane,
        prefetch: u16,
    ) -> Self {
        let mut consumer = Self {
            target,
            link,
            lane,
            // To AMQP, zero is no limit.
            prefetch: prefetch.max(1),
            open: None,
            backoff: Backoff::new(),
            not_before: Instant::now(),
            failing: false,
        };
        if let Some(session) = consumer.link.current() {
            consumer.try_open(session).await;
        }
        consumer
    }

    /// Waits for the broker, for ever.
    async fn reopen(&mut self) {
        while self.open.is_none() {
            sleep_until(self.not_before).await;
            let session = self.link.session().await;
            self.try_open(session).await;
        }
    }

    async fn try_open(&mut self, session: Arc<Session>) {
        self.not_before = Instant::now() + self.backoff.next_delay();
        let opened = session.rpc(Box::pin(self.open_on(Arc::clone(&session)))).await;
        match opened {
            Ok(open) => {
                debug!(lane = ?self.lane, "consuming");
                self.open = Some(open);
            }
            Err(trouble) => {
                // An answer of the broker to the channel: the connection is sound.
                if trouble.code().is_none() {
                    session.give_up(&trouble);
                }
                self.broke(&trouble);
            }
        }
    }

    async fn open_on(&self, session: Arc<Session>) -> lapin::Result<OpenConsumer> {
        let channel = session.channel().await?;
        let queue = match self.lane {
            Lane::Progress => topology::declare_progress_queue(&channel, &self.target).await?,
            lane => {
                topology::declare_queue(&channel, &self.target, lane).await?;
                self.target.lane(lane)
            }
        };
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let stream =
            channel.basic_consume(queue, short(""), options, FieldTable::default()).await?;
        let suspect = CancellationToken::new();
        Ok(OpenConsumer { session, stream, suspect, _channel: channel })
    }

    fn broke(&mut self, trouble: &Trouble) {
        let lane = self.target.lane(self.lane);
        if self.failing {
            debug!(%lane, %trouble, "still not consuming");
        } else {
            warn!(%lane, %trouble, "consuming stopped; beginning again");
        }
        self.failing = true;
        self.open = None;
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Delivery {
        loop {
            let Some(open) = &mut self.open else {
                self.reopen().await;
                continue;
            };
            let received = tokio::select! {
                biased;
                () = open.session.lost() => Err(Trouble::Lost),
                () = open.suspect.cancelled() => Err(Trouble::Lost),
                received = open.stream.next() => match received {
                    Some(received) => received.map_err(Trouble::from),
                    // The broker cancelled the consumer: the queue is gone, or it moved, or a
                    // delivery was not settled for too long. Channel and connection look sound.
                    None => Err(Trouble::Cancelled),
                },
            };
            match received {
                // What was received before its channel broke will come again, marked as such.
                Ok(delivery) if !delivery.acker.usable() => {}
                Ok(delivery) => {
                    self.failing = false;
                    self.backoff = Backoff::new();
                    let kind = delivery.properties.kind().as_ref();
                    return Delivery {
                        kind: kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
                        body: delivery.data,
                        redelivered: delivery.redelivered,
                        settle: Box::new(RabbitSettle {
                            acker: delivery.acker,
                            suspect: open.suspect.clone(),
                        }),
                    };
                }
                Err(trouble) => self.broke(&trouble),
            }
        }
    }
}

/// Settles one delivery on the channel it came by. Dropping it settles nothing: the broker takes
/// the message back when the consumer is dropped or its channel breaks.
struct RabbitSettle {
    acker: Acker,
    suspect: CancellationToken,
}

#[async_trait]
impl Settle for RabbitSettle {
    async fn ack(self: Box<Self>) -> bool {
        let acked = timeout(ACK_TIMEOUT, self.acker.ack(BasicAckOptions::default())).await;
        let told = matches!(acked, Ok(Ok(true)));
        if !told {
            self.suspect.cancel();
        }
        told
    }
}
