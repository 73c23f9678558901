//! How many rows the partitions of a window may have: chosen from measured times, once for each pass.

use backends::BackendError;
use protocol::message::Outcome;
use protocol::{Receipt, WindowKey};

use super::Leader;
use crate::pace::Pace;

impl Leader<'_> {
    /// Begins with the size that was chosen last, by whoever led then.
    pub(super) async fn recall_size(&mut self) -> Result<(), BackendError> {
        let settings = &self.it.settings;
        let of_open = self.flight.windows.values().rev().find_map(|it| it.record.partition_rows);
        let before = match of_open {
            Some(rows) => Some(rows),
            None => {
                let just_before = self.watermark.saturating_add_micros(-1);
                let until = Some(self.watermark);
                let last = self.it.ledger.committed_windows(Some(just_before), until, 1).await?;
                last.first().and_then(|record| record.partition_rows)
            }
        };
        self.pace = Pace::new(settings.partition_time, settings.partition.rows, before);
        Ok(())
    }

    /// The most rows of the partitions of a pass that is planned now. One that was planned before
    /// is cut as it was then, so that the same rows have the same manifests.
    pub(super) fn size_for(&mut self, window: WindowKey) -> u64 {
        match self.flight.windows.get(&window) {
            Some(open) => open.record.partition_rows.unwrap_or(self.it.settings.partition.rows),
            None => self.pace.next(),
        }
    }

    /// Learns from an accepted receipt how long rows take.
    pub(super) fn measure(
        &mut self,
        window: WindowKey,
        answer: &Outcome,
        receipt: Option<&Receipt>,
    ) {
        let (Some(receipt), Some(open)) =
            (receipt, self.flight.partition_mut(window, answer.address.partition))
        else {
            return;
        };
        if let Some(took) = open.took(answer, receipt) {
            self.pace.measured(open.record.rows.rows, took);
        }
    }
}
