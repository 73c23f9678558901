//! The queue of the embedded mode: lanes in memory, shared by the coordinator and the workers of
//! one process. It keeps nothing: what is lost with the process is still in the ledger.
//!
//! Publishing never waits, so that a coordinator and workers that publish to each other cannot
//! wait for each other: a full lane refuses the message and the publisher tries again later.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Consumer, Delivery, Lane, OutgoingMessage, QueueDepth, Settle, TaskQueue, limits};
use crate::error::{BackendError, Result};

/// The most messages that wait in a durable lane. Beyond them publishing is refused as
/// [`BackendError::Unavailable`].
pub const MAX_WAITING_MESSAGES: usize = 100_000;
/// The most progress messages that wait for one consumer. Beyond them the oldest is dropped.
pub const MAX_WAITING_PROGRESS: usize = 1_000;

/// Lanes in memory. Clones are the same queue.
#[derive(Clone, Default)]
pub struct InProcessQueue {
    lanes: Arc<Lanes>,
}

#[derive(Default)]
struct Lanes {
    tasks: Arc<Buffer>,
    outcomes: Arc<Buffer>,
    dead: Arc<Buffer>,
    /// One buffer per consumer of progress; those of dropped consumers are gone.
    progress: Mutex<Vec<Weak<Buffer>>>,
}

/// A lane: what waits, and what is delivered and not settled.
#[derive(Default)]
struct Buffer {
    state: Mutex<BufferState>,
    /// Something waits, or a consumer may take more.
    changed: Notify,
    /// Progress: what is not settled is lost, and the oldest gives way to the newest.
    lossy: bool,
}

#[derive(Default)]
struct BufferState {
    ready: VecDeque<Waiting>,
    unsettled: HashMap<u64, Unsettled>,
    /// Consumers, with the number of their unsettled deliveries.
    consumers: HashMap<u64, usize>,
    /// How many deliveries each of them may hold.
    prefetches: HashMap<u64, usize>,
    last_id: u64,
}

#[derive(Clone)]
struct Waiting {
    message: Arc<OutgoingMessage>,
    redelivered: bool,
}

struct Unsettled {
    consumer: u64,
    message: Arc<OutgoingMessage>,
}

impl InProcessQueue {
    /// Empty lanes.
    pub fn new() -> Self {
        Self::default()
    }

    fn durable(&self, lane: Lane) -> Option<&Arc<Buffer>> {
        match lane {
            Lane::Tasks => Some(&self.lanes.tasks),
            Lane::Outcomes => Some(&self.lanes.outcomes),
            Lane::Dead => Some(&self.lanes.dead),
            Lane::Progress => None,
        }
    }

    /// The buffers that stand behind a lane now.
    fn buffers(&self, lane: Lane) -> Vec<Arc<Buffer>> {
        match self.durable(lane) {
            Some(buffer) => vec![Arc::clone(buffer)],
            None => {
                let mut progress = locked(&self.lanes.progress);
                progress.retain(|buffer| buffer.strong_count() > 0);
                progress.iter().filter_map(Weak::upgrade).collect()
            }
        }
    }
}

impl fmt::Debug for InProcessQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessQueue").finish_non_exhaustive()
    }
}

#[async_trait]
impl TaskQueue for InProcessQueue {
    async fn publish(&self, lane: Lane, message: OutgoingMessage) -> Result<()> {
        limits::check(&message)?;
        let message = Arc::new(message);
        for buffer in self.buffers(lane) {
            buffer.push(lane, Arc::clone(&message))?;
        }
        Ok(())
    }

    async fn consume(&self, lane: Lane, prefetch: u16) -> Result<Box<dyn Consumer>> {
        let buffer = match self.durable(lane) {
            Some(buffer) => Arc::clone(buffer),
            None => {
                let own = Arc::new(Buffer { lossy: true, ..Buffer::default() });
                locked(&self.lanes.progress).push(Arc::downgrade(&own));
                own
            }
        };
        let prefetch = usize::from(prefetch.max(1));
        let id = buffer.lock().add_consumer(prefetch);
        Ok(Box::new(InProcessConsumer { buffer, id, prefetch }))
    }

    async fn purge(&self, lane: Lane) -> Result<u64> {
        let buffers = self.buffers(lane);
        let purged = buffers.iter().map(|buffer| {
            let mut state = buffer.lock();
            let waiting = state.ready.len();
            state.ready.clear();
            waiting as u64
        });
        Ok(purged.sum())
    }

    async fn depth(&self, lane: Lane) -> Result<QueueDepth> {
        let mut depth = QueueDepth::default();
        for buffer in self.buffers(lane) {
            let state = buffer.lock();
            depth.ready += state.ready.len() as u64;
            depth.consumers += state.consumers.len() as u64;
        }
        Ok(depth)
    }

    fn tasks_at_a_time(&self) -> Option<usize> {
        Some(self.lanes.tasks.lock().prefetches.values().sum())
    }
}

/// A panic while the lock was held leaves the state whole: every change is a few assignments.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BufferState {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn add_consumer(&mut self, prefetch: usize) -> u64 {
        let id = self.next_id();
        self.prefetches.insert(id, prefetch);
        self.consumers.insert(id, 0);
        id
    }

    /// Forgets a delivery; `None` when it was settled or taken back before.
    fn forget(&mut self, delivery: u64) -> Option<Unsettled> {
        let unsettled = self.unsettled.remove(&delivery)?;
        if let Some(held) = self.consumers.get_mut(&unsettled.consumer) {
            *held -= 1;
        }
        Some(unsettled)
    }
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, BufferState> {
        locked(&self.state)
    }

    fn push(&self, lane: Lane, message: Arc<OutgoingMessage>) -> Result<()> {
        let mut state = self.lock();
        if self.lossy {
            if state.ready.len() >= MAX_WAITING_PROGRESS {
                state.ready.pop_front();
            }
        } else if state.ready.len() >= MAX_WAITING_MESSAGES {
            return Err(BackendError::Unavailable {
                what: format!("the in-process queue's lane {lane:?} takes no message"),
                cause: format!("{MAX_WAITING_MESSAGES} messages wait in it already").into(),
            });
        }
        state.ready.push_back(Waiting { message, redelivered: false });
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The next message, unless nothing waits or the consumer holds as much as it may.
    fn take(self: &Arc<Self>, consumer: u64, prefetch: usize) -> Option<Delivery> {
        let mut state = self.lock();
        let held = state.consumers.get(&consumer).copied()?;
        if held >= prefetch {
            return None;
        }
        let Waiting { message, redelivered } = state.ready.pop_front()?;
        let id = state.next_id();
        state.consumers.insert(consumer, held + 1);
        state.unsettled.insert(id, Unsettled { consumer, message: Arc::clone(&message) });
        drop(state);
        Some(Delivery {
            kind: message.kind.clone(),
            body: message.body.clone(),
            headers: message.headers.clone(),
            redelivered,
            settle: Box::new(InProcessSettle { buffer: Arc::clone(self), id }),
        })
    }

    /// Takes an unsettled delivery back: behind the others, so that a message that nobody gets
    /// through does not stand in the way of those that wait.
    fn take_back(&self, delivery: u64) {
        let mut state = self.lock();
        if let Some(unsettled) = state.forget(delivery)
            && !self.lossy
        {
            state.ready.push_back(Waiting { message: unsettled.message, redelivered: true });
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

struct InProcessConsumer {
    buffer: Arc<Buffer>,
    id: u64,
    prefetch: usize,
}

#[async_trait]
impl Consumer for InProcessConsumer {
    async fn next(&mut self) -> Delivery {
        loop {
            // Enabled before the look, so that a message between look and wait wakes it too.
            let mut changed = pin!(self.buffer.changed.notified());
            changed.as_mut().enable();
            if let Some(delivery) = self.buffer.take(self.id, self.prefetch) {
                return delivery;
            }
            changed.await;
        }
    }

    async fn stop(&mut self) -> Vec<Delivery> {
        // Nothing is handed over before it is taken.
        self.prefetch = 0;
        Vec::new()
    }
}

impl Drop for InProcessConsumer {
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        state.consumers.remove(&self.id);
        state.prefetches.remove(&self.id);
        let mut left: Vec<u64> = state
            .unsettled
            .iter()
            .filter(|(_, unsettled)| unsettled.consumer == self.id)
            .map(|(&id, _)| id)
            .collect();
        drop(state);
        left.sort_unstable();
        for delivery in left {
            self.buffer.take_back(delivery);
        }
    }
}

struct InProcessSettle {
    buffer: Arc<Buffer>,
    id: u64,
}

#[async_trait]
impl Settle for InProcessSettle {
    async fn ack(self: Box<Self>) -> bool {
        let known = self.buffer.lock().forget(self.id).is_some();
        self.buffer.changed.notify_waiters();
        known
    }
}

impl Drop for InProcessSettle {
    fn drop(&mut self) {
        self.buffer.take_back(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: usize) -> OutgoingMessage {
        OutgoingMessage { kind: "t".into(), body: n.to_string().into_bytes(), headers: vec![] }
    }

    #[tokio::test]
    async fn a_full_lane_refuses_and_does_not_wait() {
        let queue = InProcessQueue::new();
        for n in 0..MAX_WAITING_MESSAGES {
            queue.publish(Lane::Tasks, message(n)).await.expect("there is room");
        }
        let refused = queue.publish(Lane::Tasks, message(0)).await.expect_err("it is full");
        assert!(refused.is_retryable(), "{refused}");
        queue.publish(Lane::Outcomes, message(0)).await.expect("another lane has room");

        let mut consumer = queue.consume(Lane::Tasks, 1).await.expect("a consumer");
        assert!(consumer.next().await.settle.ack().await);
        queue.publish(Lane::Tasks, message(0)).await.expect("there is room again");
    }

    #[tokio::test]
    async fn it_knows_how_many_tasks_are_taken_at_a_time() {
        let queue = InProcessQueue::new();
        assert_eq!(queue.tasks_at_a_time(), Some(0));
        let three = queue.consume(Lane::Tasks, 3).await.expect("a consumer");
        let _two = queue.consume(Lane::Tasks, 2).await.expect("a consumer");
        let _of_another_lane = queue.consume(Lane::Outcomes, 7).await.expect("a consumer");
        assert_eq!(queue.tasks_at_a_time(), Some(5));
        drop(three);
        assert_eq!(queue.tasks_at_a_time(), Some(2));
    }

    #[tokio::test]
    async fn progress_that_nobody_takes_drops_its_oldest() {
        let queue = InProcessQueue::new();
        let mut consumer = queue.consume(Lane::Progress, 1).await.expect("a consumer");
        for n in 0..MAX_WAITING_PROGRESS + 3 {
            queue.publish(Lane::Progress, message(n)).await.expect("progress never blocks");
        }
        assert_eq!(consumer.next().await.body, b"3");
    }

    #[tokio::test]
    async fn a_dropped_delivery_returns_behind_the_others() {
        let queue = InProcessQueue::new();
        for n in 0..2 {
            queue.publish(Lane::Tasks, message(n)).await.expect("published");
        }
        let mut consumer = queue.consume(Lane::Tasks, 1).await.expect("a consumer");
        drop(consumer.next().await);
        let second = consumer.next().await;
        assert_eq!((second.body.as_slice(), second.redelivered), (b"1".as_slice(), false));
        assert!(second.settle.ack().await);
        let first = consumer.next().await;
        assert_eq!((first.body.as_slice(), first.redelivered), (b"0".as_slice(), true));
    }
}
