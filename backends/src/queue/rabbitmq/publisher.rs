//! Publishing over one connection and one channel with confirms, many messages to a round trip.
//!
//! Messages that are published at the same time go out as one batch, and the next batch follows
//! when every message of it is settled. That is not only fast: the client library hands a
//! returned message to whichever confirm comes next, so that only a whole batch tells which of
//! its messages were returned.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::link::{Link, Session};
use super::message::properties;
use super::target::{Target, routing_key, short};
use super::topology;
use crate::error::{BackendError, Result};
use crate::queue::{Lane, OutgoingMessage, limits};

/// Time from the call to the confirm, a reconnect in between included. A connection that leaves
/// a message without a confirm for as long is dropped.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to hand a progress message to the network.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time in which a lost connection's client library tells which confirms still came.
const LAST_CONFIRMS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a blocked connection is looked at.
const BLOCKED_INTERVAL: Duration = Duration::from_millis(250);
/// Messages of one batch.
const BATCH_MESSAGES: usize = 512;
/// Messages that wait for their batch; further callers wait for room, within their time.
const WAITING_MESSAGES: usize = 1024;

/// Publishes. Dropping it ends its connection.
pub(super) struct Publisher {
    target: Arc<Target>,
    link: Arc<Link>,
    jobs: mpsc::Sender<Job>,
    /// The channel for progress, without confirms.
    progress: Mutex<Option<Channel>>,
    _batches: AbortOnDropHandle<()>,
}

/// Whether the broker has a message, and why not.
type Outcome = std::result::Result<(), String>;

struct Job {
    id: String,
    lane: Lane,
    properties: BasicProperties,
    body: Vec<u8>,
    answer: oneshot::Sender<Outcome>,
}

impl Publisher {
    /// # Errors
    /// When the broker cannot be reached or refuses us.
    pub(super) async fn open(target: Arc<Target>) -> Result<Self> {
        let link = Arc::new(Link::open(Arc::clone(&target), "publish").await?);
        let (jobs, waiting) = mpsc::channel(WAITING_MESSAGES);
        let batches = Batches { target: Arc::clone(&target), link: Arc::clone(&link), open: None };
        let batches = AbortOnDropHandle::new(tokio::spawn(batches.run(waiting)));
        Ok(Self { target, link, jobs, progress: Mutex::default(), _batches: batches })
    }

    /// Publishes to a durable lane; `Ok` is the broker's confirm.
    pub(super) async fn publish(&self, lane: Lane, message: OutgoingMessage) -> Result<()> {
        limits::check(&message)?;
        let id = Uuid::new_v4().to_string();
        let (answer, answered) = oneshot::channel();
        let properties = properties(&message, &id, true);
        let job = Job { id, lane, properties, body: message.body, answer };
        let settled = timeout(PUBLISH_TIMEOUT, async {
            self.jobs.send(job).await.ok()?;
            answered.await.ok()
        });
        match settled.await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(why))) => Err(self.failed(lane, why)),
            Ok(None) | Err(_) => Err(self.failed(lane, self.why_waiting())),
        }
    }

    /// Publishes progress, without waiting for anything but the network.
    pub(super) async fn publish_progress(&self, message: OutgoingMessage) -> Result<()> {
        limits::check(&message)?;
        // A message for a blocked connection would stay in memory until the alarm is over.
        let session = self.link.current().filter(|session| session.blocked().is_none());
        let Some(session) = session else {
            return Err(self.failed(Lane::Progress, self.why_waiting()));
        };
        let sent = timeout(PROGRESS_TIMEOUT, async {
            let channel = self.progress_channel(&session).await?;
            let properties = properties(&message, &Uuid::new_v4().to_string(), false);
            let exchange = self.target.lane(Lane::Progress);
            let options = BasicPublishOptions::default();
            channel.basic_publish(exchange, short(""), options, &message.body, properties).await
        });
        match sent.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failed(Lane::Progress, error.to_string())),
            Err(_) => Err(self.failed(Lane::Progress, "the network takes nothing".to_owned())),
        }
    }

    async fn progress_channel(&self, session: &Session) -> lapin::Result<Channel> {
        let mut open = self.progress.lock().await;
        match open.as_ref().filter(|channel| channel.status().connected()) {
            Some(channel) => Ok(channel.clone()),
            None => {
                let channel = session.channel().await?;
                // A missing exchange may be why the last channel was closed.
                topology::declare_progress(&channel, &self.target).await?;
                *open = Some(channel.clone());
                Ok(channel)
            }
        }
    }

    fn why_waiting(&self) -> String {
        match self.link.current() {
            Some(session) => session.blocked().unwrap_or_else(|| {
                format!("the broker did not confirm within {} s", PUBLISH_TIMEOUT.as_secs())
            }),
            None => format!("not connected ({})", self.link.trouble()),
        }
    }

    fn failed(&self, lane: Lane, why: String) -> BackendError {
        let (label, lane) = (self.target.label(), self.target.lane(lane));
        let what = format!("RabbitMQ at {label}: cannot publish to {lane}");
        BackendError::Unavailable { what, cause: why.into() }
    }
}

/// Sends batches, one after the other, over whatever connection there is.
struct Batches {
    target: Arc<Target>,
    link: Arc<Link>,
    open: Option<(Arc<Session>, Channel)>,
}

impl Batches {
    async fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH_MESSAGES);
        while waiting.recv_many(&mut batch, BATCH_MESSAGES).await > 0 {
            let (session, channel) = self.channel().await;
            // Whoever does not wait any more has reported a failure, and will try again.
            batch.retain(|job| !job.answer.is_closed());
            if !self.send(&session, &channel, std::mem::take(&mut batch)).await {
                self.open = None;
            }
        }
    }

    /// The channel for confirmed publishing. Waits for the broker, for ever: the callers' time
    /// runs out by itself.
    async fn channel(&mut self) -> (Arc<Session>, Channel) {
        if let Some((session, channel)) = &self.open
            && session.is_alive()
            && channel.status().connected()
        {
            return (Arc::clone(session), channel.clone());
        }
        self.open = None;
        loop {
            let session = self.link.session().await;
            let opened = session.rpc(async {
                let channel = session.channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok(channel)
            });
            match opened.await {
                Ok(channel) => {
                    self.open = Some((Arc::clone(&session), channel.clone()));
                    return (session, channel);
                }
                Err(trouble) => session.give_up(trouble),
            }
        }
    }

    /// Publishes a batch and answers its callers. Returns whether the channel can be used again;
    /// if not, its connection is given up, and everything is declared on the next one.
    async fn send(&self, session: &Session, channel: &Channel, batch: Vec<Job>) -> bool {
        let confirms = {
            let sent = batch.iter().map(|job| publish_one(&self.target, channel, job));
            let mut confirms = Box::pin(join_all(sent));
            tokio::select! {
                biased;
                confirms = &mut confirms => Some(confirms),
                () = session.lost() => timeout(LAST_CONFIRMS_TIMEOUT, confirms).await.ok(),
                () = sleep(PUBLISH_TIMEOUT) => None,
            }
        };
        let Some(confirms) = confirms else {
            let why = session.blocked().unwrap_or_else(|| "no confirm came in time".to_owned());
            for job in batch {
                answer(job, Err(why.clone()));
            }
            // Not while it is blocked: the broker would not even notice that the connection is
            // closed, and in a long alarm one after the other would pile up there.
            while session.is_alive() && session.blocked().is_some() {
                sleep(BLOCKED_INTERVAL).await;
            }
            session.give_up(why);
            return false;
        };

        let ids: Vec<String> = batch.iter().map(|job| job.id.clone()).collect();
        let outcomes = outcomes(&ids, confirms);
        let sound = outcomes.iter().all(std::result::Result::is_ok);
        for (job, outcome) in batch.into_iter().zip(outcomes) {
            answer(job, outcome);
        }
        if !sound {
            session.give_up("a message was not confirmed");
        }
        sound
    }
}

async fn publish_one(target: &Target, channel: &Channel, job: &Job) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = (target.exchange(), short(routing_key(job.lane)));
    let properties = job.properties.clone();
    channel.basic_publish(exchange, key, options, &job.body, properties).await?.await
}

/// What became of each message of a whole batch. A return says of itself which message it is
/// about; whose confirm it came with says nothing.
fn outcomes(ids: &[String], confirms: Vec<lapin::Result<Confirmation>>) -> Vec<Outcome> {
    let returned: HashSet<String> = confirms.iter().filter_map(returned_id).collect();
    let complete = confirms.iter().all(std::result::Result::is_ok);
    let outcome = |(id, confirm)| match confirm {
        _ if returned.contains::<String>(id) => Err("it has no queue for it".to_owned()),
        // Its own return may have been left for a confirm that did not come.
        Ok(Confirmation::Ack(Some(_))) if !complete => Err("the confirms broke off".to_owned()),
        Ok(Confirmation::Ack(_)) => Ok(()),
        Ok(Confirmation::Nack(_)) => Err("it refused the message".to_owned()),
        Ok(Confirmation::NotRequested) => Err("it confirms nothing".to_owned()),
        Err(error) => Err(lapin::Error::to_string(&error)),
    };
    ids.iter().zip(confirms).map(outcome).collect()
}

/// The message that the broker could not route and whose return came with this confirm.
fn returned_id(confirm: &lapin::Result<Confirmation>) -> Option<String> {
    let (Confirmation::Ack(returned) | Confirmation::Nack(returned)) = confirm.as_ref().ok()?
    else {
        return None;
    };
    let id = returned.as_ref()?.properties.message_id().as_ref()?;
    Some(id.as_str().to_owned())
}

/// Tells the caller, who may have given up.
fn answer(job: Job, outcome: Outcome) {
    let _ = job.answer.send(outcome);
}

#[cfg(test)]
mod tests {
    use lapin::message::{BasicReturnMessage, Delivery};

    use super::*;

    fn returned(id: &str) -> Option<BasicReturnMessage> {
        let mut delivery = Delivery::mock(0, short("des"), short("tasks"), false, Vec::new());
        delivery.properties = BasicProperties::default().with_message_id(short(id));
        Some(BasicReturnMessage { delivery, reply_code: 312, reply_text: short("NO_ROUTE") })
    }

    #[test]
    fn a_return_counts_for_its_own_message_whichever_confirm_brings_it() {
        let ids: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
        let lost = lapin::Error::from(lapin::ErrorKind::MissingHeartbeatError);
        let confirms = |last| {
            vec![
                Ok(Confirmation::Ack(returned("b"))),
                Ok(Confirmation::Ack(None)),
                Ok(Confirmation::Nack(None)),
                Ok(Confirmation::Ack(None)),
                last,
            ]
        };
        let confirmed = |last| -> Vec<bool> {
            outcomes(&ids, confirms(last)).iter().map(Outcome::is_ok).collect()
        };
        assert_eq!(confirmed(Ok(Confirmation::Ack(None))), [true, false, false, true, true]);
        assert_eq!(confirmed(Err(lost)), [false, false, false, true, false]);
    }
}
