//! What stands in the broker: a direct exchange, a quorum queue for each durable lane, a fanout
//! exchange for progress, and a queue of its own for whoever consumes progress.
//!
//! Queue arguments are few and fixed, since a redeclare with other ones is refused. Declaring is
//! part of every connect, so that what somebody deleted comes back.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, ExchangeKind};
use uuid::Uuid;

use super::target::{Target, routing_key, short};
use crate::queue::Lane;

/// Lanes that are queues.
const DURABLE: [Lane; 3] = [Lane::Tasks, Lane::Outcomes, Lane::Dead];
/// The most progress messages that wait for one consumer. Beyond them the broker drops the oldest.
const MAX_WAITING_PROGRESS: i32 = 1_000;

/// Declares both exchanges and the durable queues.
pub(super) async fn declare(channel: &Channel, target: &Target) -> lapin::Result<()> {
    for lane in DURABLE {
        declare_queue(channel, target, lane).await?;
    }
    declare_progress(channel, target).await
}

/// Declares one durable queue and its binding.
pub(super) async fn declare_queue(
    channel: &Channel,
    target: &Target,
    lane: Lane,
) -> lapin::Result<()> {
    declare_exchange(channel, target.exchange(), ExchangeKind::Direct).await?;
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type"), text("quorum"));
    channel.queue_declare(target.lane(lane), QueueDeclareOptions::durable(), arguments).await?;
    bind(channel, target.lane(lane), target.exchange(), short(routing_key(lane))).await
}

/// Declares the exchange for progress.
pub(super) async fn declare_progress(channel: &Channel, target: &Target) -> lapin::Result<()> {
    declare_exchange(channel, target.lane(Lane::Progress), ExchangeKind::Fanout).await
}

/// Declares a progress consumer's own queue, gone with its consumer, and returns its name.
pub(super) async fn declare_progress_queue(
    channel: &Channel,
    target: &Target,
) -> lapin::Result<ShortString> {
    declare_progress(channel, target).await?;
    let exchange = target.lane(Lane::Progress);
    let queue = short(&format!("{exchange}.{}", Uuid::new_v4()));
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type"), text("classic"));
    arguments.insert(short("x-max-length"), AMQPValue::LongInt(MAX_WAITING_PROGRESS));
    let options = QueueDeclareOptions::exclusive().auto_delete();
    channel.queue_declare(queue.clone(), options, arguments).await?;
    bind(channel, queue.clone(), exchange, short("")).await?;
    Ok(queue)
}

async fn declare_exchange(
    channel: &Channel,
    name: ShortString,
    kind: ExchangeKind,
) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name, kind, options, FieldTable::default()).await
}

async fn bind(
    channel: &Channel,
    queue: ShortString,
    exchange: ShortString,
    key: ShortString,
) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}
