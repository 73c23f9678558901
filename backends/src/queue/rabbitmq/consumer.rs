//! Consuming over a connection of its own, apart from publishing, so that a broker that blocks
//! publishers still takes acks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::link::{Backoff, Link, Session};
use super::message;
use super::target::{Target, Trouble, short};
use super::topology;
use crate::queue::{Consumer, Delivery, Lane, Settle};

/// Time to hand an ack to the network.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the broker to stop delivering.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A consumer of one lane. Its channel is opened again, on the same connection or the next one,
/// whenever anything is wrong with it.
pub(super) struct RabbitConsumer {
    opener: Arc<Opener>,
    state: State,
}

enum State {
    Open(Box<OpenConsumer>),
    /// A task of its own, since callers drop the future of `next` at will: what it has reached
    /// must not begin anew each time.
    Opening(AbortOnDropHandle<Box<OpenConsumer>>),
    /// Receiving nothing more; the channel, if there was one, stays open for acks.
    Stopped {
        _for_acks: Option<Box<OpenConsumer>>,
    },
}

/// A channel with a consumer on it. Dropping it closes the channel, and the broker takes back
/// what is not settled.
struct OpenConsumer {
    session: Arc<Session>,
    stream: lapin::Consumer,
    /// Cancelled when an ack could not be told.
    suspect: CancellationToken,
    channel: Channel,
}

struct Opener {
    target: Arc<Target>,
    link: Arc<Link>,
    lane: Lane,
    prefetch: u16,
    pace: Mutex<Pace>,
}

/// Keeps a consumer that breaks again and again from being opened in a tight loop: the delays
/// grow until something is delivered.
struct Pace {
    backoff: Backoff,
    not_before: Instant,
    failing: bool,
}

impl Pace {
    fn new() -> Self {
        Self { backoff: Backoff::new(), not_before: Instant::now(), failing: false }
    }
}

impl Opener {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens, over any number of failures and connections.
    async fn open(self: Arc<Self>) -> Box<OpenConsumer> {
        loop {
            let not_before = self.pace().not_before;
            sleep_until(not_before).await;
            let session = self.link.session().await;
            if let Some(open) = self.attempt(session).await {
                return open;
            }
        }
    }

    async fn attempt(&self, session: Arc<Session>) -> Option<Box<OpenConsumer>> {
        {
            let mut pace = self.pace();
            pace.not_before = Instant::now() + pace.backoff.next_delay();
        }
        match session.rpc(Box::pin(self.open_on(&session))).await {
            Ok((channel, stream)) => {
                debug!(lane = %self.target.lane(self.lane), "consuming");
                let suspect = CancellationToken::new();
                Some(Box::new(OpenConsumer { session, stream, suspect, channel }))
            }
            Err(trouble) => {
                // With a code it is the broker's answer to this channel; the connection is sound.
                if trouble.code().is_none() {
                    session.give_up(&trouble);
                }
                self.tell(&trouble);
                None
            }
        }
    }

    async fn open_on(&self, session: &Session) -> lapin::Result<(Channel, lapin::Consumer)> {
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
        let stream = channel.basic_consume(queue, short(""), options, FieldTable::default());
        let stream = stream.await?;
        Ok((channel, stream))
    }

    /// Logs the first of a row of failures, and the rest for who asks for it.
    fn tell(&self, trouble: &Trouble) {
        let lane = self.target.lane(self.lane);
        if std::mem::replace(&mut self.pace().failing, true) {
            debug!(%lane, %trouble, "still not consuming");
        } else {
            warn!(%lane, %trouble, "consuming stopped; beginning again");
        }
    }
}

impl RabbitConsumer {
    /// Begins to consume: at once if the broker is there, and as soon as it is otherwise.
    pub(super) async fn start(
        target: Arc<Target>,
        link: Arc<Link>,
        lane: Lane,
        prefetch: u16,
    ) -> Self {
        // To AMQP, a prefetch of zero is no limit.
        let (prefetch, pace) = (prefetch.max(1), Mutex::new(Pace::new()));
        let opener = Arc::new(Opener { target, link, lane, prefetch, pace });
        let opened = match opener.link.current() {
            Some(session) => opener.attempt(session).await,
            None => None,
        };
        let state = opened.map_or_else(|| State::opening(&opener), State::Open);
        Self { opener, state }
    }

    /// The open channel; waits for the broker, for ever.
    async fn open(&mut self) -> &mut OpenConsumer {
        loop {
            match self.state {
                State::Open(ref mut open) => return open,
                State::Opening(ref mut opening) => {
                    // It fails only together with the runtime.
                    self.state = match opening.await {
                        Ok(open) => State::Open(open),
                        Err(_) => State::opening(&self.opener),
                    }
                }
                State::Stopped { .. } => std::future::pending::<()>().await,
            }
        }
    }
}

impl State {
    fn opening(opener: &Arc<Opener>) -> Self {
        let opening = tokio::spawn(Arc::clone(opener).open());
        Self::Opening(AbortOnDropHandle::new(opening))
    }
}

impl OpenConsumer {
    /// Tells the broker to deliver nothing more, and takes what it has delivered: after the
    /// broker's answer the stream ends. When the channel is broken there is nothing to take.
    async fn cancel(&mut self) -> Vec<Delivery> {
        let tag = self.stream.tag();
        let cancelled = self.channel.basic_cancel(tag, BasicCancelOptions::default()).await;
        let mut left = Vec::new();
        if cancelled.is_ok() {
            while let Some(Ok(delivery)) = self.stream.next().await {
                left.push(ours(delivery, self.suspect.clone()));
            }
        }
        left
    }

    async fn next(&mut self) -> Result<lapin::message::Delivery, Trouble> {
        tokio::select! {
            biased;
            () = self.session.lost() => Err(Trouble::Lost),
            () = self.suspect.cancelled() => Err(Trouble::Lost),
            received = self.stream.next() => match received {
                Some(received) => received.map_err(Trouble::from),
                // The broker cancelled the consumer: the queue is gone, or it moved, or a
                // delivery was not settled for too long. Channel and connection look sound.
                None => Err(Trouble::Cancelled),
            },
        }
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Delivery {
        loop {
            let open = self.open().await;
            let suspect = open.suspect.clone();
            match open.next().await {
                // What was received before its channel broke will come again, marked as such.
                Ok(delivery) if !delivery.acker.usable() => {}
                Ok(delivery) => {
                    *self.opener.pace() = Pace::new();
                    return ours(delivery, suspect);
                }
                Err(trouble) => {
                    self.opener.tell(&trouble);
                    self.state = State::opening(&self.opener);
                }
            }
        }
    }

    async fn stop(&mut self) -> Vec<Delivery> {
        let stopped = State::Stopped { _for_acks: None };
        let State::Open(mut open) = std::mem::replace(&mut self.state, stopped) else {
            return Vec::new();
        };
        let left = timeout(CANCEL_TIMEOUT, open.cancel()).await.unwrap_or_default();
        self.state = State::Stopped { _for_acks: Some(open) };
        left
    }
}

fn ours(delivery: lapin::message::Delivery, suspect: CancellationToken) -> Delivery {
    let kind = delivery.properties.kind().as_ref();
    let headers = delivery.properties.headers().as_ref().map(message::texts);
    Delivery {
        kind: kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        body: delivery.data,
        headers: headers.unwrap_or_default(),
        redelivered: delivery.redelivered,
        settle: Box::new(RabbitSettle { acker: delivery.acker, suspect }),
    }
}

/// Settles one delivery on the channel it came by. The broker does not answer an ack: `true`
/// means that it was handed to the network, and after `false` the broker may have heard it all
/// the same, when the connection broke just then. Dropping it settles nothing: the broker takes
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
