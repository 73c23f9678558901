//! One worker process for several jobs: they share its slots, and nothing else.
//!
//! Each job has a queue of its own, so no job's backlog stands before another's tasks. A task is
//! asked for only when a slot is free for it, one at a time, of the job whose turn it is
//! ([`crate::fair`]): no task waits here that another worker could begin, and none grows old
//! unacknowledged. While nothing waits anywhere the worker listens to all queues at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use backends::TaskQueue;
use backends::queue::{Consumer, Delivery, Lane, Settle};
use futures::FutureExt as _;
use futures::future::select_all;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::fair::{Charge, Shares};
use crate::metrics::Held;
use crate::service::{Stop, Unbegun, Worker, drain, handle};
use crate::task::TaskContext;

/// How long a broker may take to say whether something waits.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// How long one that did not say is left alone, so that it does not hold up the other jobs.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a task that waits may take to arrive; another worker may have been faster.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1);
/// How often queues are asked although they are listened to.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// One task at a time is asked for.
const ONE: u16 = 1;

/// A job that takes part.
pub struct SharedJob {
    /// What executes its tasks; its slots are not its own.
    pub worker: Worker,
    /// Slot time compared with that of the others, while there is not enough for all.
    pub share: u16,
    /// The threads on which its tasks are executed.
    pub threads: Handle,
}

/// A job's queue, as this process sees it.
struct Line {
    queue: Arc<dyn TaskQueue>,
    context: Arc<TaskContext>,
    threads: Handle,
    /// Listens while a slot is free and nothing waits.
    bell: Option<Box<dyn Consumer>>,
    /// Its broker is not asked before.
    ask_from: Instant,
}

/// A task that ended.
#[derive(Default)]
struct Ended {
    line: usize,
    charge: Charge,
    took: Duration,
}

struct Sharing {
    slots: usize,
    lines: Vec<Line>,
    shares: Shares,
    running: JoinSet<Ended>,
    /// Tasks that are given back, since there was no slot for them.
    giving_back: JoinSet<()>,
    stop: Stop,
}

/// Works for every job that comes through `jobs`, until `shutdown`; then finishes or gives back what
/// it holds within `drain_timeout`. `slots` tasks are executed at a time.
///
/// # Errors
/// When a queue cannot be consumed at all, or a task's handler panics.
pub async fn run_shared(
    (slots, drain_timeout): (u16, Duration),
    mut jobs: mpsc::Receiver<SharedJob>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let _slots = Held::slots(slots);
    let mut sharing = Sharing {
        slots: slots.into(),
        lines: Vec::new(),
        shares: Shares::default(),
        running: JoinSet::new(),
        giving_back: JoinSet::new(),
        stop: Stop::default(),
    };
    loop {
        while let Some(ended) = sharing.running.try_join_next() {
            sharing.note(ended.context(PANICKED)?);
        }
        while sharing.giving_back.try_join_next().is_some() {}
        if shutdown.is_cancelled() {
            break;
        }
        let full = sharing.running.len() >= sharing.slots;
        if full {
            sharing.silence().await;
        } else if let Some((line, delivery)) = sharing.look().await {
            sharing.begin(line, delivery);
            continue;
        } else {
            sharing.listen().await?;
        }
        let order = sharing.shares.order();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = sharing.running.join_next() => sharing.note(ended.context(PANICKED)?),
            Some(job) = jobs.recv() => sharing.add(job),
            (line, delivery) = rung(&mut sharing.lines, &order) => {
                if let Some(consumer) = sharing.lines[line].bell.take() {
                    sharing.begin(line, Through::of(consumer, delivery));
                }
            }
            () = tokio::time::sleep(LOOK_AGAIN_AFTER), if !full => {}
        }
    }
    sharing.drain(drain_timeout).await
}

const PANICKED: &str = "a task's handler panicked";

/// Waits for a task of any queue that is listened to, in this order where there are several.
async fn rung(lines: &mut [Line], order: &[usize]) -> (usize, Delivery) {
    let mut bells: Vec<_> = lines
        .iter_mut()
        .enumerate()
        .filter_map(|(at, line)| {
            let next = line.bell.as_mut()?.next();
            Some((order.iter().position(|it| *it == at), next.map(move |it| (at, it))))
        })
        .collect();
    if bells.is_empty() {
        return std::future::pending().await;
    }
    bells.sort_by_key(|(turn, _)| *turn);
    select_all(bells.into_iter().map(|(_, next)| next)).await.0
}

impl Sharing {
    fn add(&mut self, job: SharedJob) {
        let SharedJob { worker: Worker { queue, context, settings: _ }, share, threads } = job;
        info!(job = %context.identity.job, worker = %context.worker, share, slots = self.slots,
            "worker ready");
        self.shares.add(share);
        self.lines.push(Line { queue, context, threads, bell: None, ask_from: Instant::now() });
    }

    fn begin(&mut self, line: usize, delivery: Delivery) {
        let charge = self.shares.begin(line);
        let Line { queue, context, threads, .. } = &self.lines[line];
        let work = handle(Arc::clone(queue), Arc::clone(context), delivery, self.stop.clone());
        let work = async move {
            let began = Instant::now();
            work.await;
            Ended { line, charge, took: began.elapsed() }
        };
        self.running.spawn_on(work, threads);
    }

    fn note(&mut self, Ended { line, charge, took }: Ended) {
        self.shares.end(line, charge, took);
    }

    /// The first task that waits, of the job whose turn it is, or else of the next one.
    async fn look(&mut self) -> Option<(usize, Delivery)> {
        for at in self.shares.order() {
            let line = &mut self.lines[at];
            if Instant::now() < line.ask_from {
                continue;
            }
            let asked = tokio::time::timeout(ASK_LIMIT, line.queue.depth(Lane::Tasks)).await;
            let waiting = match asked {
                Ok(Ok(depth)) => depth.ready,
                Ok(Err(_)) | Err(_) => {
                    debug!(job = %line.context.identity.job, "the broker does not say what waits");
                    line.ask_from = Instant::now() + ASK_AGAIN_AFTER;
                    continue;
                }
            };
            if waiting > 0
                && let Some(delivery) = line.take().await
            {
                return Some((at, delivery));
            }
            self.shares.found_empty(at);
        }
        None
    }

    /// Listens to every queue.
    async fn listen(&mut self) -> anyhow::Result<()> {
        for line in self.lines.iter_mut().filter(|line| line.bell.is_none()) {
            line.bell = Some(line.queue.consume(Lane::Tasks, ONE).await?);
        }
        Ok(())
    }

    /// Listens to none any more. What was handed over meanwhile is given back, for others.
    async fn silence(&mut self) {
        for unbegun in self.unbegun().await {
            self.giving_back.spawn(unbegun.give_back());
        }
    }

    async fn unbegun(&mut self) -> Vec<Unbegun> {
        let mut unbegun = Vec::new();
        for line in &mut self.lines {
            let Some(consumer) = line.bell.take() else { continue };
            if let Some(delivery) = Through::of_stopped(consumer).await {
                let (queue, worker) = (Arc::clone(&line.queue), line.context.worker.clone());
                unbegun.push(Unbegun { queue, worker, delivery });
            }
        }
        unbegun
    }

    async fn drain(mut self, drain_timeout: Duration) -> anyhow::Result<()> {
        let left = self.unbegun().await;
        let mut giving_back = self.giving_back;
        self.running.spawn(async move {
            while giving_back.join_next().await.is_some() {}
            Ended::default()
        });
        drain(left, self.running, &self.stop, drain_timeout).await;
        Ok(())
    }
}

impl Line {
    /// The task that waits; `None` when another worker was faster.
    async fn take(&mut self) -> Option<Delivery> {
        let mut consumer = match self.bell.take() {
            Some(bell) => bell,
            None => self.queue.consume(Lane::Tasks, ONE).await.ok()?,
        };
        match tokio::time::timeout(HAND_OVER_LIMIT, consumer.next()).await {
            Ok(delivery) => Some(Through::of(consumer, delivery)),
            Err(_elapsed) => Through::of_stopped(consumer).await,
        }
    }
}

/// Settles a delivery and then lets go of the consumer that it came by, which takes no other one.
struct Through {
    /// Locked by nobody: whoever settles has it alone.
    consumer: Mutex<Box<dyn Consumer>>,
    stopped: bool,
    settle: Box<dyn Settle>,
}

impl Through {
    fn of(consumer: Box<dyn Consumer>, delivery: Delivery) -> Delivery {
        Self::wrap(consumer, false, delivery)
    }

    /// What the consumer has received and nobody has taken.
    async fn of_stopped(mut consumer: Box<dyn Consumer>) -> Option<Delivery> {
        // No more than one, since no more were asked for.
        let delivery = consumer.stop().await.pop()?;
        Some(Self::wrap(consumer, true, delivery))
    }

    fn wrap(consumer: Box<dyn Consumer>, stopped: bool, delivery: Delivery) -> Delivery {
        let consumer = Mutex::new(consumer);
        let settle = Box::new(Self { consumer, stopped, settle: delivery.settle });
        Delivery { settle, ..delivery }
    }
}

#[async_trait]
impl Settle for Through {
    async fn ack(self: Box<Self>) -> bool {
        let Self { consumer, stopped, settle } = *self;
        let mut consumer = consumer.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Else the broker would hand over the next task at once, and mark it when it is taken back.
        if !stopped {
            consumer.stop().await;
        }
        settle.ack().await
    }
}
