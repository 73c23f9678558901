//! What a ledger lacks, and where its watermark belongs. Pure.

use std::collections::BTreeMap;

use backends::ledger::ArchiveRecord;
use protocol::{ArchiveIdentity, Timestamp, WindowKey, names};

use crate::passes::{Pass, shortened};

/// What a ledger knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) archive: Option<ArchiveRecord>,
    pub(super) watermark: Option<Timestamp>,
    /// By window end and revision.
    pub(super) passes: Vec<Pass>,
}

/// What it will know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) origin: Timestamp,
    pub(super) archived_until: Timestamp,
    /// By window end and revision.
    pub(super) missing: Vec<Pass>,
    pub(super) gap_until: Option<Timestamp>,
    pub(super) windows_after_gap: u64,
    /// Whether there is anything to be done.
    pub(super) change: bool,
}

impl Plan {
    /// Whether the ledger lacks the pass.
    pub(super) fn lacks(&self, pass: &Pass) -> bool {
        let key = |pass: &Pass| pass.certificate.window;
        self.missing.binary_search_by_key(&key(pass), key).is_ok()
    }
}

/// Compares what is certified, by window end and revision, with what the ledger knows.
///
/// # Errors
/// Why the ledger cannot be completed from the store: it is another archive's, or it holds what the
/// store does not have.
pub(super) fn plan(
    identity: &ArchiveIdentity,
    certified: &[Pass],
    known: &Known,
) -> Result<Plan, String> {
    refuse_another(identity, known)?;
    let missing = missing(certified, known)?;
    let first = certified.iter().map(|pass| pass.window.start()).min();
    let recorded = known.archive.as_ref().map(|record| record.origin);
    let origin = [first, recorded].into_iter().flatten().fold(identity.origin, Timestamp::min);
    let (reached, gap_until, windows_after_gap) = run_from(origin, certified);
    let archived_until = match &known.archive {
        // Nothing is lost but perhaps the watermark's row. An operator may have moved it back.
        Some(record) if missing.is_empty() => record.settled_until,
        _ => reached,
    };
    refuse_beyond(known, reached)?;
    let change = !missing.is_empty() || known.archive.is_none() || known.watermark.is_none();
    Ok(Plan { origin, archived_until, missing, gap_until, windows_after_gap, change })
}

fn refuse_another(identity: &ArchiveIdentity, known: &Known) -> Result<(), String> {
    match &known.archive {
        Some(record) if record.archive != identity.archive => Err(format!(
            "the store belongs to archive {}, and the ledger to archive {}: one of `store.url` and \
             `watermark.config_db_url` is not the right one",
            identity.archive, record.archive
        )),
        Some(record) if record.n_bits != identity.n_bits => Err(format!(
            "the store was made with n_bits {}, and the ledger says {}: nothing was changed",
            identity.n_bits, record.n_bits
        )),
        _ => Ok(()),
    }
}

/// The passes that the ledger lacks; it must hold none that the store does not certify.
fn missing(certified: &[Pass], known: &Known) -> Result<Vec<Pass>, String> {
    let mut unproven: BTreeMap<WindowKey, &Pass> =
        known.passes.iter().map(|pass| (pass.certificate.window, pass)).collect();
    let mut missing = Vec::new();
    for pass in certified {
        match unproven.remove(&pass.certificate.window) {
            Some(recorded) if recorded == pass => {}
            Some(recorded) => {
                unproven.insert(recorded.certificate.window, recorded);
            }
            None => missing.push(*pass),
        }
    }
    if unproven.is_empty() {
        return Ok(missing);
    }
    let names: Vec<_> = unproven
        .values()
        .map(|pass| names::certificate(pass.certificate.window, pass.certificate.epoch))
        .collect();
    Err(format!(
        "the ledger holds committed windows that the store does not certify, so that the ledger is \
         not merely older; nothing was changed. Restore what is missing in the store, or point at \
         the right store:\n  {}",
        shortened(&names)
    ))
}

/// How far certified windows follow each other from `origin`; where the first gap ends, and how
/// many windows lie beyond it.
fn run_from(origin: Timestamp, certified: &[Pass]) -> (Timestamp, Option<Timestamp>, u64) {
    let (mut reached, mut gap_until, mut last_beyond) = (origin, None, None);
    let mut beyond = 0;
    for window in certified.iter().map(|pass| pass.window) {
        if gap_until.is_none() && window.start() <= reached {
            reached = reached.max(window.end());
            continue;
        }
        gap_until = gap_until.or(Some(window.start()));
        if last_beyond != Some(window.end()) {
            beyond += 1;
            last_beyond = Some(window.end());
        }
    }
    (reached, gap_until, beyond)
}

/// A watermark beyond what is certified would stay over rows that may be in no archive.
fn refuse_beyond(known: &Known, reached: Timestamp) -> Result<(), String> {
    let settled = known.archive.as_ref().map(|record| record.settled_until);
    if let (Some(settled), Some(watermark)) = (settled, known.watermark)
        && settled != watermark
    {
        return Err(format!(
            "the watermark stands at {watermark}, and des left it at {settled}: somebody moved it \
             by hand. Put it back first (UPDATE des_archive_config SET archived_until = \
             '{settled}'); nothing was changed"
        ));
    }
    match settled.or(known.watermark) {
        Some(there) if there > reached => Err(format!(
            "the watermark stands at {there}, and the store certifies windows without a gap only \
             until {reached}: restore the missing certificates; or, to archive again from where \
             they end, set it back (UPDATE des_archive_config SET archived_until = '{reached}'); \
             nothing was changed"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::names::CertificateName;
    use protocol::{NBits, Revision, Window};

    use super::*;

    fn day(day: u32) -> Timestamp {
        format!("2024-12-{day:02}").parse().expect("a date")
    }

    fn pass(start: u32, end: u32, revision: Revision, epoch: u64) -> Pass {
        let window = Window::new(day(start), day(end)).expect("a window");
        let key = WindowKey::new(window, revision);
        Pass { window, certificate: CertificateName { window: key, epoch } }
    }

    fn identity() -> ArchiveIdentity {
        ArchiveIdentity {
            version: 1,
            archive: "a-1".parse().expect("an id"),
            job: "files".parse().expect("a job"),
            n_bits: NBits::DEFAULT,
            origin: day(1),
            shard_version: 2,
            created_at: day(20),
        }
    }

    fn record(settled_until: u32) -> ArchiveRecord {
        ArchiveRecord {
            archive: identity().archive,
            n_bits: NBits::DEFAULT,
            origin: day(1),
            settled_until: day(settled_until),
        }
    }

    fn knows(settled_until: u32, passes: &[Pass]) -> Known {
        Known {
            archive: Some(record(settled_until)),
            watermark: Some(day(settled_until)),
            passes: passes.to_vec(),
        }
    }

    /// A window with a revision, and two more, without a gap.
    fn all() -> [Pass; 4] {
        [pass(1, 2, 0, 1), pass(1, 2, 1, 4), pass(2, 3, 0, 2), pass(3, 9, 0, 3)]
    }

    #[test]
    fn a_lost_ledger_is_made_from_the_first_to_the_last_window() {
        let plan = plan(&identity(), &all(), &Known::default()).expect("a plan");
        assert_eq!((plan.origin, plan.archived_until), (day(1), day(9)));
        assert_eq!((plan.missing.len(), plan.change), (4, true));
        assert_eq!((plan.gap_until, plan.windows_after_gap), (None, 0));
        assert!(plan.lacks(&pass(1, 2, 1, 4)) && !plan.lacks(&pass(1, 2, 2, 4)));
    }

    #[test]
    fn an_older_ledger_is_completed_and_a_whole_one_left_alone() {
        let older = knows(2, &all()[..1]);
        let done = plan(&identity(), &all(), &older).expect("a plan");
        assert_eq!((done.archived_until, done.missing.len(), done.change), (day(9), 3, true));
        let whole = plan(&identity(), &all(), &knows(9, &all())).expect("a plan");
        assert_eq!((whole.missing.len(), whole.change), (0, false));
        // An operator moved the watermark back: nothing is lost.
        let back = plan(&identity(), &all(), &knows(2, &all())).expect("a plan");
        assert_eq!((back.archived_until, back.change), (day(2), false));
        let without_row = Known { watermark: None, ..knows(2, &all()) };
        let row = plan(&identity(), &all(), &without_row).expect("a plan");
        assert_eq!((row.archived_until, row.change), (day(2), true));
    }

    #[test]
    fn a_gap_stops_the_watermark() {
        let gapped = [pass(1, 2, 0, 1), pass(3, 4, 0, 1), pass(3, 4, 1, 2), pass(4, 5, 0, 1)];
        let plan = plan(&identity(), &gapped, &Known::default()).expect("a plan");
        assert_eq!(plan.archived_until, day(2));
        assert_eq!((plan.gap_until, plan.windows_after_gap), (Some(day(3)), 2));
        assert_eq!(plan.missing.len(), 4, "those after the gap are recorded, too");
    }

    #[test]
    fn windows_below_the_first_origin_lower_it() {
        let mut identity = identity();
        identity.origin = day(3);
        let below = [pass(1, 2, 0, 5), pass(2, 3, 0, 5), pass(3, 4, 0, 1)];
        let whole = plan(&identity, &below, &Known::default()).expect("a plan");
        assert_eq!((whole.origin, whole.archived_until), (day(1), day(4)));
        // Half of them were done when the ledger was lost.
        let half = plan(&identity, &[below[0], below[2]], &Known::default()).expect("a plan");
        assert_eq!((half.origin, half.archived_until), (day(1), day(2)));
    }

    #[test]
    fn without_certificates_the_watermark_stands_at_the_origin() {
        let plan = plan(&identity(), &[], &Known::default()).expect("a plan");
        assert_eq!((plan.origin, plan.archived_until, plan.change), (day(1), day(1), true));
    }

    #[track_caller]
    fn assert_refused(certified: &[Pass], known: &Known, text: &str) {
        let why = plan(&identity(), certified, known).expect_err("it is refused");
        assert!(why.contains(text), "`{text}` is not said: {why}");
    }

    #[test]
    fn a_ledger_that_holds_more_than_the_store_is_refused() {
        let name = "_des/certificates/20241203T000000Z-r0000-e0000000002.json";
        let (first, second) = ([pass(1, 2, 0, 1)], [pass(1, 2, 0, 1), pass(2, 3, 0, 2)]);
        assert_refused(&first, &knows(3, &second), name);
        // The same pass under another certificate, or over another window.
        for other in [pass(2, 3, 0, 7), pass(1, 3, 0, 2)] {
            assert_refused(&[first[0], other], &knows(3, &second), name);
        }
    }

    #[test]
    fn a_watermark_that_nothing_proves_is_refused() {
        let lost = Known { watermark: Some(day(10)), ..Known::default() };
        assert_refused(&all(), &lost, "only until 2024-12-09");
        let moved = Known { watermark: Some(day(5)), ..knows(2, &all()[..1]) };
        assert_refused(&all(), &moved, "somebody moved it by hand");
        assert_refused(&all()[..1], &knows(5, &[]), "only until 2024-12-02");
        let behind = Known { watermark: Some(day(5)), ..Known::default() };
        let plan = plan(&identity(), &all(), &behind).expect("a plan");
        assert_eq!(plan.archived_until, day(9), "everything up to there is certified");
    }

    #[test]
    fn another_archive_is_refused() {
        let mut other = knows(2, &[]);
        if let Some(record) = &mut other.archive {
            record.archive = "a-2".parse().expect("an id");
        }
        assert_refused(&all(), &other, "archive a-2");
    }
}
