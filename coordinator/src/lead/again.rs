//! Planning another pass over a window that was committed before: what of it is damaged, made again,
//! or remains to be packed.

use backends::BackendError;
use backends::ledger::{Purpose, WindowRecord};
use protocol::{Revision, Window};

use super::plan::Plan;
use crate::beside::whose;
use crate::findings::{Finding, Findings};
use crate::remaining::Difference;
use crate::restore::Restorer;
use crate::split::{Split, Splitter};
use crate::survey::survey;

/// Plans a pass over a window that was committed before: what is damaged is made again under its
/// own name where it can be, and what then remains is split.
pub(super) async fn plan_again(
    restorer: Restorer,
    splitter: Splitter,
    revisions: &[WindowRecord],
    (window, revision, purpose): (Window, Revision, Purpose),
) -> Result<Plan, BackendError> {
    let mut survey = survey(&splitter.store, revisions, purpose).await?;
    let restored = restorer.restore(&mut survey).await?;
    let mut findings = Findings {
        shards_checked: survey.shards_checked,
        objects_restored: restored,
        ..Findings::default()
    };
    if !survey.lost_big_files.is_empty() {
        let (store, lost) = (&splitter.store, &survey.lost_big_files);
        let files = whose(store, &survey.certificates, lost).await?;
        files.into_iter().for_each(|named| findings.beyond_help(named));
    }
    let damaged: Vec<String> = survey.damaged().map(str::to_owned).collect();
    let partition_rows = splitter.limits.rows;
    let Split { partitions, difference } = splitter.split(window, revision, Some(survey)).await?;
    let replaces = given_up(damaged, partitions.is_empty(), &difference);
    findings.add(Findings {
        late_rows: difference.late,
        retried_rows: if partitions.is_empty() { 0 } else { difference.failed },
        vanished_rows: difference.vanished,
        moved_rows: difference.moved,
        // Where something is packed, it is known only then what still cannot be read.
        files_beyond_help: if partitions.is_empty() { difference.beyond_help } else { 0 },
        named: difference
            .named
            .into_iter()
            .filter(|it| match it.finding {
                Finding::BeyondHelp => partitions.is_empty(),
                // Users delete rows of what is archived: whoever repairs has not asked for them.
                Finding::Vanished | Finding::Moved => purpose == Purpose::Reconcile,
            })
            .collect(),
        ..Findings::default()
    });
    let scanned = difference.scanned;
    Ok(Plan { window, revision, purpose, replaces, partitions, partition_rows, scanned, findings })
}

/// The damaged shards that the pass takes up: all of them, or, where nothing is packed, those all
/// files of which are elsewhere in the archive. A pass that packs nothing while some row is known as
/// failed takes up none: a revision answers for every failed row of its window, and would lose it.
fn given_up(damaged: Vec<String>, packs_nothing: bool, difference: &Difference) -> Vec<String> {
    if packs_nothing && difference.failed > 0 {
        return Vec::new();
    }
    let numbered = damaged.into_iter().enumerate();
    let given_up = |number: &usize| !packs_nothing || !difference.needed.contains(number);
    numbered.filter(|(number, _)| given_up(number)).map(|(_, shard)| shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_alone_holds_a_file_is_given_up_only_when_its_files_are_packed_again() {
        let damaged = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let difference = Difference { needed: [1].into(), ..Difference::default() };
        assert_eq!(given_up(damaged(), true, &difference), ["a", "c"]);
        assert_eq!(given_up(damaged(), false, &difference), damaged());
        let failed = Difference { failed: 1, ..Difference::default() };
        assert_eq!(given_up(damaged(), true, &failed), Vec::<String>::new());
        assert_eq!(given_up(damaged(), false, &failed), damaged());
    }
}
