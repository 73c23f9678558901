//! Answers on their way. The receipts that they name are read beside everything else, several at a
//! time as far as there is room for them, and what the answers mean is carried out in the order in which they came.

use std::collections::VecDeque;

use backends::ledger::PartitionRecord;
use backends::queue::Delivery;
use backends::trace::Span;
use backends::{BackendError, Store};
use protocol::message::{Outcome, TaskResult};
use protocol::{ArchiveIdentity, Receipt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::receipts::{MAX_RECEIPT_BYTES, Of, Place, ReadingRoom};

/// Answers that were taken and are not carried out yet; the others wait with the broker.
const ANSWERS_IN_FLIGHT: usize = 16;
/// A receipt may have so many bytes without saying so.
const SMALL_RECEIPT_BYTES: u64 = 64 * 1024;

/// A receipt and its size, or what is wrong with it.
pub(super) type Checked = Result<(Receipt, u64), String>;

/// A receipt that is being read, and what it is compared with.
struct Reading {
    partition: PartitionRecord,
    /// The answer is the next: it waits for no room.
    is_next: CancellationToken,
    reading: AbortOnDropHandle<Result<(Checked, Option<Place>), BackendError>>,
}

/// What was read.
pub(super) struct Read {
    /// The partition that the receipt was compared with.
    pub(super) partition: PartitionRecord,
    /// What came of it; an error is the store's.
    pub(super) checked: Result<Checked, BackendError>,
    /// The room that it takes.
    _place: Option<Place>,
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
    room: ReadingRoom,
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
        let reading = begin(&answer, about, from, &self.room);
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
        let reading = begin(&answer, Some(about), from, &self.room);
        self.waiting.push_front((answer, reading));
    }

    /// Waits until the next answer's receipt is read; for ever where there is no answer. Giving up
    /// waiting loses nothing.
    pub(super) async fn next(&mut self) -> (Answer, Option<Read>) {
        let read = match self.waiting.front_mut() {
            None => return std::future::pending().await,
            Some((_, None)) => None,
            Some((answer, Some(Reading { partition, is_next, reading }))) => {
                is_next.cancel();
                let joined = reading.await.unwrap_or_else(|panicked| {
                    let what = format!("reading the receipt of {:?}", answer.outcome.address);
                    Err(BackendError::Failed { what, cause: panicked.into() })
                });
                let (checked, _place) = match joined {
                    Ok((checked, place)) => (Ok(checked), place),
                    Err(error) => (Err(error), None),
                };
                Some(Read { partition: partition.clone(), checked, _place })
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
    room: &ReadingRoom,
) -> Option<Reading> {
    let TaskResult::Done { receipt: name, receipt_size: stated } = &outcome.result else {
        return None;
    };
    let partition = about?;
    let is_next = CancellationToken::new();
    let (store, identity, name) = (store.clone(), identity.clone(), name.clone());
    let (window, revision) = (outcome.address.window, outcome.address.revision);
    let of_partition = partition.clone();
    let entry = Entry { room: room.clone(), is_next: is_next.clone() };
    let stated = *stated;
    let reading_receipt = span.child("read receipt");
    let reading = tokio::spawn(async move {
        let _ends_with_the_reading = reading_receipt;
        let of = Of { identity: &identity, window, revision, partition: &of_partition };
        read_receipt(&store, (&name, stated), of, &entry).await
    });
    Some(Reading { partition, is_next, reading: AbortOnDropHandle::new(reading) })
}

/// How a receipt gets room. They are carried out one after the other, and each keeps its room until
/// then: the one that is the next gets by without any.
struct Entry {
    room: ReadingRoom,
    is_next: CancellationToken,
}

impl Entry {
    async fn enter(&self, bytes: u64) -> Option<Place> {
        tokio::select! {
            biased;
            place = self.room.enter(bytes) => place,
            () = self.is_next.cancelled() => None,
        }
    }
}

/// Reads the receipt that an outcome names from our own store, and compares it with the ledger. The
/// inner error is the receipt's fault. The size that the outcome states is how much room is taken at
/// first; an object that has more is looked at, and read when there is room for it.
async fn read_receipt(
    store: &Store,
    (name, stated): (&str, u64),
    of: Of<'_>,
    entry: &Entry,
) -> Result<(Checked, Option<Place>), BackendError> {
    let stated = stated.clamp(SMALL_RECEIPT_BYTES, MAX_RECEIPT_BYTES);
    let mut place = entry.enter(stated).await;
    let mut read = store.get(name, stated).await;
    if matches!(read, Err(BackendError::Invalid { .. })) && stated < MAX_RECEIPT_BYTES {
        drop(place);
        let size = store.size(name).await?.unwrap_or_default();
        place = entry.enter(size).await;
        read = store.get(name, size.min(MAX_RECEIPT_BYTES)).await;
    }
    let checked = match read {
        Ok(bytes) => {
            let size = bytes.len() as u64;
            of.check(name, bytes).await?.map(|receipt| (receipt, size))
        }
        Err(error) if error.is_lost_or_damaged() => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok((checked, place))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use backends::queue::Settle;
    use protocol::message::PartitionAddress;
    use protocol::{ContentHash, NBits, Tally, Window};

    use super::*;

    struct Nobody;

    #[async_trait]
    impl Settle for Nobody {
        async fn ack(self: Box<Self>) -> bool {
            true
        }
    }

    fn partition() -> PartitionRecord {
        PartitionRecord {
            partition: 0,
            manifest: String::new(),
            manifest_size: 0,
            first_row: None,
            rows: Tally::default(),
            setbacks: 0,
            attempts: 0,
            interruptions: 0,
            not_before: None,
            trouble: None,
            first_look: None,
            under_way_by: None,
            accepted: None,
        }
    }

    #[tokio::test]
    async fn who_is_next_reads_its_receipt_and_the_others_wait_for_room() {
        let at = |text: &str| text.parse().expect("a date");
        let identity = ArchiveIdentity {
            version: ArchiveIdentity::VERSION,
            archive: "a".parse().expect("an id"),
            job: "j".parse().expect("a job"),
            n_bits: NBits::new(4).expect("bits"),
            origin: at("2024-01-01"),
            shard_version: 1,
            created_at: at("2024-01-01"),
        };
        let store = Store::memory();
        store.put("r", vec![b'x'; 200_000].into()).await.expect("stored");
        let mut answers = Answers::default();
        let everything = answers.room.enter(u64::MAX).await;
        for stated in [1, 200_000] {
            let outcome = Outcome {
                version: Outcome::VERSION,
                address: PartitionAddress {
                    archive: identity.archive.clone(),
                    job: identity.job.clone(),
                    window: Window::new(at("2024-12-01"), at("2024-12-02")).expect("a window"),
                    revision: 0,
                    partition: 0,
                    manifest_hash: ContentHash::of(b"manifest"),
                },
                attempt: 1,
                worker: "one".parse().expect("a name"),
                result: TaskResult::Done { receipt: "r".to_owned(), receipt_size: stated },
            };
            let settle = Box::new(Nobody);
            let delivery = Delivery {
                kind: String::new(),
                body: Vec::new(),
                redelivered: false,
                headers: Vec::new(),
                settle,
            };
            let answer = Answer { delivery, outcome, span: Span::none() };
            answers.take_up(answer, Some(partition()), (&store, &identity));
        }
        let (_, read) = answers.next().await;
        let why = read.expect("it was read").checked.expect("the store answers").expect_err("why");
        assert!(why.contains("not those that its name stands for"), "{why}");
        let second = answers.waiting.front().and_then(|(_, reading)| reading.as_ref());
        assert!(!second.expect("it is begun").reading.is_finished(), "there was no room");
        drop(everything);
        assert!(answers.next().await.1.is_some_and(|read| read._place.is_some()));
    }
}
