//! What the harness sees and does at the broker, over connections of its own past every proxy.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use protocol::message::{Outcome, PartitionAddress, Progress, Task, TaskResult};
use protocol::{PartitionId, WindowKey};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use super::kind::{BrokerHarm, Queue};

/// Times that a message is delivered again, where everything is: three times in all.
const COPIES: u64 = 2;
/// Says of a message that it is of ours, so that it is not repeated again.
const MARK: &str = "chaos";
/// Tasks that are remembered, to forge answers to.
const REMEMBERED_TASKS: usize = 1;
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(300);
const CTL_LIMIT: Duration = Duration::from_secs(120);
/// How long a queue is purged again and again until there was something in it.
const PURGE_LIMIT: Duration = Duration::from_secs(10);
/// `vm_memory_high_watermark` of a broker that is at ease, and of one that never is.
const AT_EASE: &str = "0.4";
const ALARMED: &str = "0.0000001";
/// `disk_free_limit` of a broker that is at ease, which is its default, and more bytes than any disk
/// has.
const ROOM_ENOUGH: &str = "50000000";
const NEVER_ENOUGH: &str = "1000000000000000000";

/// Sees every message of one fleet.
pub(crate) struct Tap {
    url: String,
    prefix: String,
    rabbitmqctl: PathBuf,
    seen: Arc<Mutex<Seen>>,
    listening: JoinHandle<()>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Seen {
    /// What workers have told that they are at, by process id, and how many answers to the same
    /// had been seen by then.
    running: HashMap<i32, HashMap<PartitionAddress, u64>>,
    /// Answers that something is done, by partition.
    done: HashMap<(WindowKey, PartitionId), u64>,
    answers: HashMap<PartitionAddress, u64>,
    tasks: VecDeque<Task>,
    repeats: bool,
    copies: u64,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Tap {
    pub(crate) fn start(url: &str, prefix: &str, rabbitmqctl: PathBuf) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let listening = tokio::spawn(listen(url.to_owned(), prefix.to_owned(), Arc::clone(&seen)));
        Self {
            url: url.to_owned(),
            prefix: prefix.to_owned(),
            rabbitmqctl,
            seen,
            listening,
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Whether a worker process has told of a task that it has not answered.
    pub(crate) fn has_task(&self, pid: i32) -> bool {
        self.seen().running.get(&pid).is_some_and(|tasks| !tasks.is_empty())
    }

    /// Forgets, and gives back, what a process that is gone was at and had not answered, each with
    /// the answers that had been seen when it began.
    pub(crate) fn forget(&self, pid: i32) -> Vec<(PartitionAddress, u64)> {
        self.seen().running.remove(&pid).into_iter().flatten().collect()
    }

    /// Answers of whatever kind about a partition, as far as they were seen.
    pub(crate) fn answers(&self, address: &PartitionAddress) -> u64 {
        self.seen().answers.get(address).copied().unwrap_or_default()
    }

    /// Answers that say "done" beyond one for each partition, as far as they were seen.
    pub(crate) fn duplicates(&self) -> u64 {
        self.seen().done.values().map(|count| count.saturating_sub(1)).sum()
    }

    /// Does harm to the broker or its messages; how much it met.
    pub(crate) async fn harm(
        &self,
        harm: BrokerHarm,
        lasts: Duration,
        choice: u64,
    ) -> anyhow::Result<u64> {
        let _turn = self.turn.lock().await;
        match harm {
            BrokerHarm::Restart => {
                self.ctl(&["stop_app"]).await?;
                tokio::time::sleep(lasts).await;
                self.ctl(&["start_app"]).await?;
                Ok(1)
            }
            BrokerHarm::Kill => {
                let told = self.ctl(&["eval", "os:getpid()."]).await?;
                let pid = told.trim().trim_matches('"').parse().ok().and_then(Pid::from_raw);
                let pid = pid.with_context(|| format!("not a process: {told}"))?;
                kill_process(pid, Signal::KILL)?;
                let until = tokio::time::Instant::now() + CTL_LIMIT;
                while let Err(error) = self.ctl(&["await_startup", "--timeout", "60"]).await {
                    ensure!(tokio::time::Instant::now() < until, "it does not come back: {error}");
                }
                Ok(1)
            }
            BrokerHarm::CloseConnections => {
                self.ctl(&["close_all_connections", "chaos"]).await?;
                Ok(1)
            }
            BrokerHarm::MemoryAlarm => {
                self.ctl(&["set_vm_memory_high_watermark", ALARMED]).await?;
                tokio::time::sleep(lasts).await;
                self.ctl(&["set_vm_memory_high_watermark", AT_EASE]).await?;
                Ok(1)
            }
            BrokerHarm::DiskAlarm => {
                self.ctl(&["set_disk_free_limit", NEVER_ENOUGH]).await?;
                tokio::time::sleep(lasts).await;
                self.ctl(&["set_disk_free_limit", ROOM_ENOUGH]).await?;
                Ok(1)
            }
            BrokerHarm::DeleteQueue => {
                let (_connection, channel) = self.channel().await?;
                let queue = self.queue(choice);
                let options = QueueDeleteOptions::default();
                channel.queue_delete(queue, options).await?;
                Ok(1)
            }
            BrokerHarm::Repeat => {
                let before = {
                    let mut seen = self.seen();
                    seen.repeats = true;
                    seen.copies
                };
                tokio::time::sleep(lasts).await;
                let mut seen = self.seen();
                seen.repeats = false;
                Ok(seen.copies - before)
            }
            BrokerHarm::Forge => self.forge().await,
        }
    }

    /// Empties a queue as soon as there is something in it to lose; how many messages it lost.
    /// `keep_away` keeps those who take from it away until its answer is dropped: what they have
    /// taken and not acked is in the queue again then.
    pub(crate) async fn purge<T>(
        &self,
        queue: Queue,
        keep_away: impl Future<Output = T>,
    ) -> anyhow::Result<u64> {
        let _turn = self.turn.lock().await;
        let (_connection, channel) = self.channel().await?;
        let _away = keep_away.await;
        let name = self.name_of(queue);
        let until = tokio::time::Instant::now() + PURGE_LIMIT;
        loop {
            let options = QueuePurgeOptions::default();
            let purged = channel.queue_purge(name.clone(), options).await?;
            if purged > 0 || tokio::time::Instant::now() > until {
                return Ok(purged.into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Undoes whatever a harm that was dropped half-way may have left.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        self.seen().repeats = false;
        self.ctl(&["start_app"]).await?;
        self.ctl(&["set_vm_memory_high_watermark", AT_EASE]).await?;
        self.ctl(&["set_disk_free_limit", ROOM_ENOUGH]).await?;
        Ok(())
    }

    fn queue(&self, choice: u64) -> ShortString {
        let queue = if choice.is_multiple_of(2) { Queue::Tasks } else { Queue::Outcomes };
        self.name_of(queue)
    }

    fn name_of(&self, queue: Queue) -> ShortString {
        short(&format!("{}.{}", self.prefix, queue.name()))
    }

    async fn channel(&self) -> anyhow::Result<(Connection, Channel)> {
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = tokio::time::timeout(CTL_LIMIT, connecting).await??;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    async fn forge(&self) -> anyhow::Result<u64> {
        let tasks: Vec<Task> = self.seen().tasks.iter().cloned().collect();
        let (_connection, channel) = self.channel().await?;
        for key in ["tasks", "outcomes"] {
            publish(&channel, &self.prefix, key, b"{\"version\": 1, \"what\": ").await?;
        }
        for task in &tasks {
            let receipt = protocol::names::receipt(
                WindowKey::new(task.address.window, task.address.revision),
                task.address.partition,
                task.address.manifest_hash,
                protocol::ContentHash::of(b"never written"),
            );
            let outcome = Outcome {
                version: Outcome::VERSION,
                address: task.address.clone(),
                attempt: task.attempt,
                worker: "worker-nobody".parse().context("a worker's name")?,
                result: TaskResult::Done { receipt, receipt_size: 1 },
            };
            publish(&channel, &self.prefix, "outcomes", &outcome.encode()).await?;
        }
        Ok(2 + tasks.len() as u64)
    }

    /// What `rabbitmqctl` prints.
    async fn ctl(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(&self.rabbitmqctl);
        command.args(words).kill_on_drop(true);
        let ended = tokio::time::timeout(CTL_LIMIT, command.output()).await;
        let output = ended.with_context(|| format!("rabbitmqctl {words:?} does not end"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmqctl {words:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(url: String, prefix: String, seen: Arc<Mutex<Seen>>) {
    loop {
        let _broker_is_gone = listen_once(&url, &prefix, &seen).await;
        tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
    }
}

async fn listen_once(url: &str, prefix: &str, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let progress = format!("{prefix}.progress");
    for (name, kind) in [(prefix, ExchangeKind::Direct), (&progress, ExchangeKind::Fanout)] {
        channel.exchange_declare(short(name), kind, durable, FieldTable::default()).await?;
    }
    let own = QueueDeclareOptions::exclusive().auto_delete();
    let queue = channel.queue_declare(short(""), own, FieldTable::default()).await?;
    let queue = queue.name().clone();
    for (exchange, key) in [(prefix, "tasks"), (prefix, "outcomes"), (progress.as_str(), "")] {
        let options = QueueBindOptions::default();
        let (exchange, key) = (short(exchange), short(key));
        channel.queue_bind(queue.clone(), exchange, key, options, FieldTable::default()).await?;
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut messages =
        channel.basic_consume(queue, short("chaos"), options, FieldTable::default()).await?;
    while let Some(delivery) = messages.next().await {
        let delivery = delivery?;
        let headers = delivery.properties.headers();
        if headers.as_ref().is_some_and(|headers| headers.inner().contains_key(MARK)) {
            continue;
        }
        let key = delivery.routing_key.as_str().to_owned();
        let repeats = note(&mut lock(seen), &key, &delivery.data);
        if repeats {
            for _ in 0..COPIES {
                publish(&channel, prefix, &key, &delivery.data).await?;
            }
            lock(seen).copies += COPIES;
        }
    }
    Ok(())
}

/// Takes in a message; whether it is to be delivered again.
fn note(seen: &mut Seen, key: &str, body: &[u8]) -> bool {
    match key {
        "tasks" => {
            if let Ok(task) = Task::decode(body) {
                seen.tasks.push_back(task);
                while seen.tasks.len() > REMEMBERED_TASKS {
                    seen.tasks.pop_front();
                }
            }
            seen.repeats
        }
        "outcomes" => {
            if let Ok(outcome) = Outcome::decode(body) {
                let running =
                    pid_of(outcome.worker.as_str()).and_then(|pid| seen.running.get_mut(&pid));
                if let Some(running) = running {
                    running.remove(&outcome.address);
                }
                *seen.answers.entry(outcome.address.clone()).or_default() += 1;
                let address = &outcome.address;
                let key = WindowKey::new(address.window, address.revision);
                if matches!(outcome.result, TaskResult::Done { .. }) {
                    *seen.done.entry((key, address.partition)).or_default() += 1;
                }
            }
            seen.repeats
        }
        _ => {
            if let Ok(progress) = Progress::decode(body)
                && let Some(pid) = pid_of(progress.worker.as_str())
            {
                let answers = seen.answers.get(&progress.address).copied().unwrap_or_default();
                let running = seen.running.entry(pid).or_default();
                running.entry(progress.address).or_insert(answers);
            }
            false
        }
    }
}

/// The process id in a name such as `worker-host-4711-0a1b2c3d`.
pub(crate) fn pid_of(name: &str) -> Option<i32> {
    name.rsplit('-').nth(1)?.parse().ok()
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> lapin::Result<()> {
    let mut headers = FieldTable::default();
    headers.insert(short(MARK), AMQPValue::Boolean(true));
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    channel.basic_publish(short(exchange), short(key), options, body, properties).await?.await?;
    Ok(())
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_name_tells_its_process() {
        assert_eq!(pid_of("worker-some-host.example-4711-0a1b2c3d"), Some(4711));
        assert_eq!(pid_of("worker"), None);
    }
}
