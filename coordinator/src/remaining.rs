//! What remains to be packed of a window: what its scan saw and what earlier revisions account for,
//! two sorted streams, compared group by group.

use std::collections::{BTreeSet, VecDeque};

use backends::BackendError;
use protocol::{Fingerprint, ShardIndex, Tally};

use crate::findings::{Finding, Named, name};
use crate::judge::{Standing, Verdict, Why, judge};
use crate::known::KnownRows;
use crate::sort::{Record, SortedIter, SortedRow};

/// What is told by: rows that agree in this are judged together.
type Key = (ShardIndex, Fingerprint, i64);

fn key(row: &SortedRow) -> Key {
    (row.index, row.fingerprint, row.row.created_at_micros)
}

/// What the comparison found, besides the rows themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Every row that the scan saw.
    pub(crate) scanned: Tally,
    /// Rows that no revision knew.
    pub(crate) late: u64,
    /// Rows of shards that are gone or damaged.
    pub(crate) lost: u64,
    /// Rows that could not be read when they were tried last.
    pub(crate) failed: u64,
    /// Numbers of damaged shards that cannot be given up: some file of theirs is nowhere else.
    pub(crate) needed: BTreeSet<usize>,
    /// Rows that are accounted for and are gone from the catalog.
    pub(crate) vanished: u64,
    /// Rows of files in the archive that lie elsewhere now, as the catalog says.
    pub(crate) moved: u64,
    /// The first of what vanished, moved, or is in such shards alone.
    pub(crate) named: Vec<Named>,
    /// Files that are in such shards alone.
    pub(crate) beyond_help: u64,
}

impl Difference {
    fn note(&mut self, verdict: &Verdict) {
        for (_, why) in &verdict.remaining {
            match why {
                Why::Late => self.late += 1,
                Why::Lost => self.lost += 1,
                Why::Failed => self.failed += 1,
            }
        }
        self.vanished += verdict.vanished.len() as u64;
        self.moved += verdict.moved.len() as u64;
        for row in &verdict.vanished {
            name(&mut self.named, Finding::Vanished, &row.row);
        }
        for row in &verdict.moved {
            name(&mut self.named, Finding::Moved, &row.row);
        }
        if !verdict.needed.is_empty() {
            self.needed.extend(&verdict.needed);
            for (row, _) in verdict.remaining.iter().filter(|(_, why)| *why == Why::Failed) {
                self.beyond_help += 1;
                name(&mut self.named, Finding::BeyondHelp, &row.row);
            }
        }
    }
}

/// The rows that are not in the archive, in row order.
pub(crate) struct Remaining<'a> {
    scanned: SortedIter<'a>,
    next_scanned: Option<SortedRow>,
    known: KnownRows,
    next_known: Option<(SortedRow, Standing)>,
    ready: VecDeque<(SortedRow, Why)>,
    difference: Difference,
    /// Makes an error of the spool one that says where the spool is.
    spool_error: &'a dyn Fn(std::io::Error) -> BackendError,
}

impl<'a> Remaining<'a> {
    pub(crate) fn new(
        scanned: SortedIter<'a>,
        known: KnownRows,
        spool_error: &'a dyn Fn(std::io::Error) -> BackendError,
    ) -> Result<Self, BackendError> {
        let mut remaining = Self {
            scanned,
            next_scanned: None,
            known,
            next_known: None,
            ready: VecDeque::new(),
            difference: Difference::default(),
            spool_error,
        };
        remaining.advance_scanned()?;
        remaining.advance_known()?;
        Ok(remaining)
    }

    /// What was found, once [`Remaining::next_row`] has come to the end.
    pub(crate) fn into_difference(self) -> Difference {
        self.difference
    }

    pub(crate) fn next_row(&mut self) -> Result<Option<(SortedRow, Why)>, BackendError> {
        while self.ready.is_empty() {
            let scanned = self.next_scanned.as_ref().map(key);
            let known = self.next_known.as_ref().map(|(row, _)| key(row));
            let Some(first) = scanned.into_iter().chain(known).min() else { return Ok(None) };
            let (mut of_catalog, mut of_archive) = (Vec::new(), Vec::new());
            while let Some(row) = self.next_scanned.take_if(|row| key(row) == first) {
                self.difference.scanned.count(&row.row.uid, row.row.created_at());
                of_catalog.push(row);
                self.advance_scanned()?;
            }
            while let Some(row) = self.next_known.take_if(|(row, _)| key(row) == first) {
                of_archive.push(row);
                self.advance_known()?;
            }
            let verdict = judge(of_catalog, of_archive);
            self.difference.note(&verdict);
            self.ready = verdict.remaining.into();
        }
        Ok(self.ready.pop_front())
    }

    fn advance_scanned(&mut self) -> Result<(), BackendError> {
        let next =
            self.scanned.next_row().and_then(|row| row.map(Record::to_sorted_row).transpose());
        self.next_scanned = next.map_err(self.spool_error)?;
        if self.next_scanned.is_none() {
            self.scanned.require_all().map_err(self.spool_error)?;
        }
        Ok(())
    }

    fn advance_known(&mut self) -> Result<(), BackendError> {
        self.next_known = self.known.next_row()?;
        Ok(())
    }
}
