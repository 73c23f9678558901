//! Collecting: what an answer means for its partition.

use std::time::Instant;

use backends::BackendError;
use backends::ledger::{AcceptedReceipt, PartitionRecord, Setback};
use backends::queue::{Delivery, Lane, OutgoingMessage};
use protocol::message::{Outcome, TaskResult};
use protocol::{PartitionId, Receipt, Window, WindowKey, names};
use tracing::{info, warn};

use super::Leader;
use crate::certify::MAX_RECEIPT_BYTES;
use crate::decide::{
    Expected, accepted, check_receipt, deserves_second_look, is_timely, setback,
    setback_for_second_look, setback_of_receipt,
};
use crate::service::{Coordinator, Event};

/// The largest part of an unreadable message that goes into its dead letter.
const DEAD_LETTER_BYTES: usize = 64 * 1024;

impl Leader<'_> {
    /// Carries out what an answer means, then acks it. On an error the answer stays with the
    /// broker and comes again.
    pub(super) async fn take_outcome(&mut self, delivery: Delivery) -> Result<(), BackendError> {
        match Outcome::decode(&delivery.body) {
            Ok(outcome) if self.is_ours(&outcome.address) => self.apply(&outcome).await?,
            Ok(outcome) => self.bury(&delivery, &stranger(&outcome, self.it)).await?,
            Err(error) => self.bury(&delivery, &error.to_string()).await?,
        }
        delivery.settle.ack().await;
        Ok(())
    }

    async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), BackendError> {
        warn!(kind = delivery.kind, "dead letter: {reason}");
        let message = OutgoingMessage {
            kind: delivery.kind.clone(),
            body: delivery.body.iter().copied().take(DEAD_LETTER_BYTES).collect(),
            headers: vec![
                ("reason".to_owned(), reason.to_owned()),
                ("from".to_owned(), "outcomes".to_owned()),
            ],
        };
        self.it.queue.publish(Lane::Dead, message).await
    }

    async fn apply(&mut self, outcome: &Outcome) -> Result<(), BackendError> {
        let address = &outcome.address;
        let key = WindowKey::new(address.window, address.revision);
        let Some(partition) = self.awaited(outcome) else {
            self.offer(address, Some(outcome.result.clone()));
            return Ok(());
        };
        let timely = is_timely(&partition, outcome.attempt);
        if !timely && !matches!(outcome.result, TaskResult::Done { .. }) {
            return Ok(());
        }
        let now = self.it.ledger.now().await?;
        let setback = match &outcome.result {
            TaskResult::Done { receipt: name, .. } => {
                match self.read_receipt(name, address.window, &partition, outcome).await? {
                    Ok((receipt, _)) if !timely && receipt.failed.rows > 0 => return Ok(()),
                    Ok((receipt, _)) if deserves_second_look(&partition, &receipt) => {
                        Some(setback_for_second_look(&partition, &receipt, now))
                    }
                    Ok((receipt, size)) => {
                        let accepted = accepted(name, size, &receipt);
                        return self.accept(key, address.partition, accepted).await;
                    }
                    Err(why) => {
                        Some(setback_of_receipt(&partition, &format!("{name}: {why}"), now))
                    }
                }
            }
            other => setback(&partition, other, now),
        };
        if let Some(setback) = &setback {
            info!(window = %key.end, partition = address.partition, worker = %outcome.worker,
                class = setback.class, "to be tried again: {}", setback.detail);
            self.it.ledger.set_back(&self.lease, key, address.partition, setback).await?;
        }
        self.publish_again(key, address.partition, setback);
        if let Some(open) = self.flight.partition_mut(key, address.partition) {
            open.answered_by = Some(outcome.worker.clone());
        }
        Ok(())
    }

    /// The partition that an outcome answers, as long as an answer is awaited: late ones, of
    /// windows and manifests that are settled or superseded, change nothing.
    fn awaited(&self, outcome: &Outcome) -> Option<PartitionRecord> {
        let address = &outcome.address;
        let window = self.flight.windows.get(&WindowKey::new(address.window, address.revision))?;
        let mut partitions = window.partitions.iter().map(|open| &open.record);
        let partition = partitions.find(|record| record.partition == address.partition)?;
        let same_manifest = names::content_hash(&partition.manifest) == Some(address.manifest_hash);
        (partition.accepted.is_none() && same_manifest).then(|| partition.clone())
    }

    /// Reads the receipt that an outcome names from our own store, and compares it with the
    /// ledger. The inner error is the receipt's fault.
    async fn read_receipt(
        &self,
        name: &str,
        window: Window,
        partition: &PartitionRecord,
        outcome: &Outcome,
    ) -> Result<Result<(Receipt, u64), String>, BackendError> {
        let expected = Expected {
            identity: &self.it.identity,
            window,
            revision: outcome.address.revision,
            partition,
        };
        match self.it.store.get(name, MAX_RECEIPT_BYTES).await {
            Ok(bytes) => {
                let checked = check_receipt(name, &bytes, expected);
                Ok(checked.map(|receipt| (receipt, bytes.len() as u64)))
            }
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Notes that a partition is to be published again, after what its setback says.
    pub(super) fn publish_again(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        setback: Option<Setback>,
    ) {
        let Some(open) = self.flight.partition_mut(window, partition) else { return };
        open.last_sign = None;
        if let Some(setback) = setback {
            open.record.attempts = setback.attempts;
            open.record.interruptions = setback.interruptions;
            open.record.not_before = setback.not_before;
            open.record.trouble = Some((setback.class, setback.detail));
        }
    }

    async fn accept(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        receipt: AcceptedReceipt,
    ) -> Result<(), BackendError> {
        if !self.it.ledger.accept(&self.lease, window, partition, &receipt).await? {
            // Another receipt was accepted before, under another lease: what is there counts.
            self.flight.windows.remove(&window);
            self.next_look = Instant::now();
            return Ok(());
        }
        if let Some(open) = self.flight.partition_mut(window, partition) {
            let rows = open.record.rows.rows.saturating_sub(open.reported.0);
            open.record.accepted = Some(receipt);
            self.tell(Event::Read { rows, bytes: 0 });
        }
        Ok(())
    }
}

fn stranger(outcome: &Outcome, it: &Coordinator) -> String {
    format!(
        "the outcome is of archive {} (job {}), and this coordinator leads archive {} (job {}); \
         give each fleet its own broker.prefix",
        outcome.address.archive, outcome.address.job, it.identity.archive, it.identity.job
    )
}
