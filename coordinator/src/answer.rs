//! What a worker's answer means for its partition. Pure.

use backends::ledger::{AcceptedReceipt, PartitionRecord, Setback};
use protocol::message::{Outcome, TaskResult};
use protocol::{Receipt, Timestamp};

use crate::attempts::{
    deserves_second_look, is_timely, setback, setback_for_second_look, setback_of_receipt,
};
use crate::decide::accepted;

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing: it is late, and somebody else answered or will.
    Nothing,
    /// The task came back undone, and costs nothing.
    TakeBack,
    /// The receipt is accepted.
    Accept(AcceptedReceipt),
    /// The partition is tried again.
    TryAgain(Setback),
}

/// What the answer to a partition that awaits one means. `receipt` is what was found under the name
/// that it gives, with its size, or what is wrong with it.
pub(crate) fn meaning(
    partition: &PartitionRecord,
    outcome: &Outcome,
    receipt: Option<&Result<(Receipt, u64), String>>,
    now: Timestamp,
) -> Meaning {
    let timely = is_timely(partition, outcome.attempt);
    match (&outcome.result, receipt) {
        // A late receipt without failures is as good as any.
        (TaskResult::Done { .. }, Some(Ok((receipt, _)))) if !timely && receipt.failed.rows > 0 => {
            Meaning::Nothing
        }
        (TaskResult::Done { .. }, Some(Ok((receipt, _))))
            if deserves_second_look(partition, receipt) =>
        {
            Meaning::TryAgain(setback_for_second_look(partition, receipt, now))
        }
        (TaskResult::Done { receipt: name, .. }, Some(Ok((receipt, size)))) => {
            Meaning::Accept(accepted(name, *size, receipt))
        }
        _ if !timely => Meaning::Nothing,
        (TaskResult::Done { receipt: name, .. }, Some(Err(why))) => {
            Meaning::TryAgain(setback_of_receipt(partition, &format!("{name}: {why}"), now))
        }
        (other, _) => match setback(partition, other, now) {
            Some(setback) => Meaning::TryAgain(setback),
            None => Meaning::TakeBack,
        },
    }
}
