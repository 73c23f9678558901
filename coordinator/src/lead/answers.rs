//! Answers on their way. The receipts that they name are read beside everything else, several at a
//! time, and what the answers mean is carried out in the order in which they came.

use std::collections::VecDeque;

use backends::ledger::PartitionRecord;
use backends::queue::Delivery;
use backends::trace::Span;
use backends::{BackendError, Store};
use protocol::message::{Outcome, TaskResult};
use protocol::{ArchiveIdentity, Receipt, Window};
use tokio_util::task::AbortOnDropHandle;

use crate::certify::MAX_RECEIPT_BYTES;
use crate::decide::{Expected, check_receipt};

/// Answers that were taken and are not carried out yet; the others wait with the broker.
const ANSWERS_IN_FLIGHT: usize = 16;

/// A receipt and its size, or what is wrong with it.
pub(super) type Checked = Result<(Receipt, u64), String>;

/// A receipt that is being read, and what it is compared with.
struct Reading {
    partition: PartitionRecord,
    reading: AbortOnDropHandle<Result<Checked, BackendError>>,
}

/// What was read.
pub(super) struct Read {
    /// The partition that the receipt was compared with.
    pub(super) partition: PartitionRecord,
    /// What came of it; an error is the store's.
    pub(super) checked: Result<Checked, BackendError>,
}

/// An answer, not settled yet.
pub(super) struct Answer {
    pub(super) delivery: Delivery,
    pub(super) outcome: Outcome,
    /// Of taking it up and carrying it out.
    pub(super) span: Span,
}

/// All of them, in the order in which they came. Dropping it gives them back to the broker.
#[derive(Default)]
pub(super) struct Answers {
    waiting: VecDeque<(Answer, Option<Reading>)>,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < ANSWERS_IN_FLIGHT
    }

    /// Takes up an answer; `about` is the partition that awaits it, where one does.
    pub(super) fn take_up(
        &mut self,
        answer: Answer,
        about: Option<PartitionRecord>,
        from: (&Store, &ArchiveIdentity),
    ) {
        let reading = begin(&answer, about, from);
        self.waiting.push_back((answer, reading));
    }

    /// The same for one whose partition is not what its receipt was compared with any more: it is
    /// still the next.
    pub(super) fn take_up_again(
        &mut self,
        answer: Answer,
        about: PartitionRecord,
        from: (&Store, &ArchiveIdentity),
    ) {
        let reading = begin(&answer, Some(about), from);
        self.waiting.push_front((answer, reading));
    }

    /// Waits until the next answer's receipt is read; for ever where there is no answer. Giving up
    /// waiting loses nothing.
    pub(super) async fn next(&mut self) -> (Answer, Option<Read>) {
        let read = match self.waiting.front_mut() {
            None => return std::future::pending().await,
            Some((_, None)) => None,
            Some((answer, Some(Reading { partition, reading }))) => {
                let joined = reading.await.unwrap_or_else(|panicked| {
                    let what = format!("reading the receipt of {:?}", answer.outcome.address);
                    Err(BackendError::Failed { what, cause: panicked.into() })
                });
                Some(Read { partition: partition.clone(), checked: joined })
            }
        };
        match self.waiting.pop_front() {
            Some((answer, _)) => (answer, read),
            None => std::future::pending().await,
        }
    }
}

fn begin(
    Answer { outcome, span, .. }: &Answer,
    about: Option<PartitionRecord>,
    (store, identity): (&Store, &ArchiveIdentity),
) -> Option<Reading> {
    let TaskResult::Done { receipt: name, .. } = &outcome.result else { return None };
    let partition = about?;
    let (store, identity, name) = (store.clone(), identity.clone(), name.clone());
    let (window, revision) = (outcome.address.window, outcome.address.revision);
    let of_partition = partition.clone();
    let reading_receipt = span.child("read receipt");
    let reading = tokio::spawn(async move {
        let _ends_with_the_reading = reading_receipt;
        let of = (&identity, window, revision, &of_partition);
        read_receipt(&store, &name, of).await
    });
    Some(Reading { partition, reading: AbortOnDropHandle::new(reading) })
}

/// Reads the receipt that an outcome names from our own store, and compares it with the ledger. The
/// inner error is the receipt's fault.
async fn read_receipt(
    store: &Store,
    name: &str,
    (identity, window, revision, partition): (&ArchiveIdentity, Window, u16, &PartitionRecord),
) -> Result<Checked, BackendError> {
    match store.get(name, MAX_RECEIPT_BYTES).await {
        Ok(bytes) => {
            let expected = Expected { identity, window, revision, partition };
            let checked = check_receipt(name, &bytes, expected);
            Ok(checked.map(|receipt| (receipt, bytes.len() as u64)))
        }
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}
