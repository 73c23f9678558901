//! Collecting: what an answer means for its partition.

use std::time::Instant;

use backends::ledger::{AcceptedReceipt, PartitionRecord, Setback};
use backends::queue::{Delivery, Lane, OutgoingMessage};
use backends::trace::{Span, SpanKind};
use backends::{BackendError, crash};
use protocol::message::{Outcome, RetryClass, TaskResult};
use protocol::{PartitionId, Receipt, Timestamp, WindowKey};
use tracing::{info, warn};

use super::Leader;
use super::answers::{Answer, Checked, Read};
use crate::answer::{Meaning, meaning};
use crate::attempts::{REFUSED, give_back_wait, give_backs_of, is_timely, setback_of_store};
use crate::decide::is_same_work;
use crate::metrics;
use crate::sabotage;
use crate::service::{Coordinator, Event};

/// The largest part of an unreadable message that goes into its dead letter.
const DEAD_LETTER_BYTES: usize = 64 * 1024;

impl Leader<'_> {
    /// Takes up an answer, whose receipt is read now. It stays with the broker until what it means
    /// is carried out.
    pub(super) async fn take_outcome(&mut self, delivery: Delivery) -> Result<(), BackendError> {
        match Outcome::decode(&delivery.body) {
            Ok(outcome) if self.is_ours(&outcome.address) => {
                let about = self.flight.awaited(&outcome).cloned();
                let from = (&self.it.store, &self.it.identity);
                let span = match &about {
                    Some(_) => self.begin_accept(&delivery, &outcome),
                    None => Span::none(),
                };
                self.answers.take_up(Answer { delivery, outcome, span }, about, from);
                return Ok(());
            }
            Ok(outcome) => self.bury(&delivery, &stranger(&outcome, self.it)).await?,
            Err(error) => self.bury(&delivery, &error.to_string()).await?,
        }
        delivery.settle.ack().await;
        Ok(())
    }

    /// The span of what an answer means, below that of the worker who gave it.
    fn begin_accept(&self, delivery: &Delivery, outcome: &Outcome) -> Span {
        let address = &outcome.address;
        self.it
            .trace(WindowKey::new(address.window, address.revision))
            .continued_by(&delivery.headers)
            .child_of_kind("accept", SpanKind::Consumer)
            .with("job", &address.job)
            .with("window", address.window.end())
            .with_count("partition", address.partition.into())
            .with_count("attempt", outcome.attempt.into())
            .with("worker", &outcome.worker)
            .with("result", outcome.result.as_str())
    }

    /// Carries out what an answer means, then acks it. On an error the answer stays with the
    /// broker and comes again.
    pub(super) async fn take_answer(
        &mut self,
        (answer, read): (Answer, Option<Read>),
    ) -> Result<(), BackendError> {
        let outcome = &answer.outcome;
        let awaited = self.flight.awaited(outcome).cloned();
        let receipt = match (&awaited, &outcome.result, read) {
            // Meanwhile its window may have been planned anew, or its partition split.
            (Some(now), TaskResult::Done { .. }, read) => match read {
                Some(Read { partition, checked, .. }) if is_same_work(&partition, now) => {
                    match checked {
                        Ok(checked) => Some(checked),
                        Err(error) => {
                            let (answer, partition) = (answer, now.clone());
                            return self.wait_for_receipt(answer, &partition, &error).await;
                        }
                    }
                }
                _ => {
                    let from = (&self.it.store, &self.it.identity);
                    self.answers.take_up_again(answer, now.clone(), from);
                    return Ok(());
                }
            },
            _ => None,
        };
        self.apply(outcome, awaited, receipt).await?;
        answer.delivery.settle.ack().await;
        Ok(())
    }

    /// Has a partition whose receipt cannot be read for now tried again, as after any trouble with
    /// the store: its worker, or another, answers with the same receipt.
    async fn wait_for_receipt(
        &mut self,
        answer: Answer,
        partition: &PartitionRecord,
        error: &BackendError,
    ) -> Result<(), BackendError> {
        let outcome = &answer.outcome;
        self.it.board.answered(outcome);
        if is_timely(partition, outcome.attempt) {
            let key = WindowKey::new(outcome.address.window, outcome.address.revision);
            let now = self.it.ledger.now().await?;
            let why = format!("its receipt cannot be read: {error}");
            self.set_back(key, outcome, setback_of_store(partition, &why, now)).await?;
        }
        answer.delivery.settle.ack().await;
        Ok(())
    }

    async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<(), BackendError> {
        metrics::dead_letter();
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

    async fn apply(
        &mut self,
        outcome: &Outcome,
        awaited: Option<PartitionRecord>,
        receipt: Option<Checked>,
    ) -> Result<(), BackendError> {
        let address = &outcome.address;
        let key = WindowKey::new(address.window, address.revision);
        self.it.board.answered(outcome);
        sabotage::count_twice(&mut self.flight, outcome);
        let Some(partition) = awaited else {
            self.offer(address, Some(outcome.result.clone()));
            return Ok(());
        };
        if let Some(believed) = sabotage::believed(outcome) {
            return self.accept(key, address.partition, believed, None).await;
        }
        let now = self.it.ledger.now().await?;
        let setback = match meaning(&partition, outcome, receipt.as_ref(), now) {
            Meaning::Nothing => return Ok(()),
            Meaning::TakeBack => {
                self.take_back(key, outcome, now);
                return Ok(());
            }
            Meaning::Accept(accepted) => {
                let read = receipt.and_then(Result::ok).map(|(receipt, _)| receipt);
                self.measure(key, outcome, read.as_ref());
                return self.accept(key, address.partition, accepted, read).await;
            }
            Meaning::TryAgain(setback) => setback,
        };
        // What a worker cannot read, or does not believe, may be gone or damaged for everybody.
        let of_manifest = setback.class == RetryClass::Store.as_str() || setback.class == REFUSED;
        if of_manifest && self.check_manifest(key, &partition).await? {
            return Ok(());
        }
        self.set_back(key, outcome, setback).await
    }

    async fn set_back(
        &mut self,
        key: WindowKey,
        outcome: &Outcome,
        setback: Setback,
    ) -> Result<(), BackendError> {
        let partition = outcome.address.partition;
        info!(window = %key.end, partition, worker = %outcome.worker, trace_id = self.trace_id(key),
            class = setback.class, "to be tried again: {}", setback.detail);
        let reason = format!("{}: {}", setback.class, setback.detail);
        self.tell(Event::Waiting { reason });
        self.it.ledger.set_back(&self.lease, key, partition, &setback).await?;
        self.publish_again(key, partition, setback);
        Ok(())
    }

    /// Notes that a task came back undone: it is published again at once, or, where a worker was
    /// to be avoided, when another one may be free.
    fn take_back(&mut self, window: WindowKey, outcome: &Outcome, now: Timestamp) {
        let partition = outcome.address.partition;
        let Some(open) = self.flight.partition_mut(window, partition) else { return };
        open.last_sign = None;
        open.given_back_by = Some(outcome.worker.clone());
        if open.record.first_look.is_some() {
            open.given_back = open.given_back.saturating_add(1);
            let wait = give_back_wait(window, partition, open.given_back);
            open.record.not_before = Some(now.saturating_add_micros(wait));
        }
    }

    /// Notes that a partition is to be published again, after what its setback says.
    pub(super) fn publish_again(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        setback: Setback,
    ) {
        let Some(open) = self.flight.partition_mut(window, partition) else { return };
        metrics::setback(&setback);
        open.last_sign = None;
        open.given_back = open.given_back.saturating_add(give_backs_of(&setback));
        open.record.setbacks = setback.setbacks;
        open.record.attempts = setback.attempts;
        open.record.interruptions = setback.interruptions;
        open.record.not_before = setback.not_before;
        open.record.trouble = Some((setback.class, setback.detail));
        open.record.first_look = setback.first_look;
    }

    /// Records an accepted receipt. What was `read` of it is kept for the certificate, as long as
    /// there is room.
    pub(super) async fn accept(
        &mut self,
        window: WindowKey,
        partition: PartitionId,
        receipt: AcceptedReceipt,
        read: Option<Receipt>,
    ) -> Result<(), BackendError> {
        crash::point("before_accept");
        if !self.it.ledger.accept(&self.lease, window, partition, &receipt).await? {
            // Another receipt was accepted before, under another lease: what is there counts.
            self.flight.windows.remove(&window);
            self.next_look = Instant::now();
            return Ok(());
        }
        if let Some(open) = self.flight.partition_mut(window, partition) {
            let rows = open.record.rows.rows.saturating_sub(open.reported.0);
            self.it.board.accepted(open.record.rows.rows);
            metrics::accepted();
            if let Some(read) = &read {
                let files = read.packed.rows;
                self.throttling.rates.measured(open.charge.take(), files, read.bytes_raw);
            }
            open.kept = read.and_then(|read| self.room.keep(read, receipt.receipt_size));
            open.record.accepted = Some(receipt);
            self.tell(Event::Read { rows, bytes: 0 });
        }
        crash::point("after_accept");
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
