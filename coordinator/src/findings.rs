//! What a pass over a committed window found, as it is kept in the ledger for whoever asked.

use backends::ledger::Look;
use backends::{BackendError, Ledger};
use protocol::{Row, Timestamp};
use serde::{Deserialize, Serialize};

/// Files that are named, of each kind of finding, beside the count.
const NAMED_FILES: usize = 20;

/// What a pass found, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    /// Shards of which every byte was checked.
    pub shards_checked: u64,
    /// Shards and big files that were gone or damaged, and were made again under their own names.
    pub objects_restored: u64,
    /// Shards that were gone or damaged, and whose files are in new ones now.
    pub shards_repaired: u64,
    /// Rows that appeared after the window was settled.
    pub late_rows: u64,
    /// Rows that had failed before and were tried again.
    pub retried_rows: u64,
    /// Rows that are accounted for and are gone from the catalog. Their files stay in the archive.
    pub vanished_rows: u64,
    /// Rows whose file lies elsewhere now, as the catalog says.
    pub moved_rows: u64,
    /// Files of damaged shards that cannot be read from their sources, and big files that cannot
    /// be made again.
    pub files_beyond_help: u64,
    /// The first of those that vanished, moved, or are beyond help.
    pub named: Vec<Named>,
    /// Why the pass could not be planned.
    pub dropped: Option<String>,
}

/// What is to be said of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Its row is gone from the catalog.
    Vanished,
    /// The catalog says that it lies elsewhere now.
    Moved,
    /// The shard that holds it is damaged, and its source cannot be read.
    BeyondHelp,
}

/// A file that something is to be said of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What.
    pub finding: Finding,
    /// The row's uid; of a big file of which nobody can tell whose it is, the object's name.
    pub uid: String,
    /// The row's created_at, where the row is known.
    pub created_at: Option<Timestamp>,
    /// The row's location.
    pub location: Option<String>,
}

impl Findings {
    /// Reads what the ledger keeps; nothing where it keeps nothing that can be read.
    pub fn decode(text: Option<&str>) -> Self {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    pub(crate) fn encode(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// Takes over what another pass found.
    pub fn add(&mut self, other: Self) {
        self.shards_checked += other.shards_checked;
        self.objects_restored += other.objects_restored;
        self.shards_repaired += other.shards_repaired;
        self.late_rows += other.late_rows;
        self.retried_rows += other.retried_rows;
        self.vanished_rows += other.vanished_rows;
        self.moved_rows += other.moved_rows;
        self.files_beyond_help += other.files_beyond_help;
        for named in other.named {
            push(&mut self.named, named);
        }
        self.dropped = self.dropped.take().or(other.dropped);
    }

    pub(crate) fn beyond_help(&mut self, named: Named) {
        self.files_beyond_help += 1;
        push(&mut self.named, named);
    }
}

/// How findings that tell of a dropped pass look in the ledger, and no others: a quote within a text
/// has a backslash before it.
const DROPPED: &str = "\"dropped\":\"";

/// Why the last pass over a window was dropped, if it was.
pub(crate) fn dropped(look: &Look) -> Option<String> {
    Findings::decode(look.findings.as_deref()).dropped
}

/// Ends of committed windows whose last pass was dropped, with the reason, in order, at most `limit`.
///
/// # Errors
/// When the ledger does not answer.
pub(crate) async fn dropped_passes(
    ledger: &dyn Ledger,
    limit: u32,
) -> Result<Vec<(Timestamp, String)>, BackendError> {
    let looks = ledger.looks_that_found(DROPPED, limit).await?;
    Ok(looks.iter().filter_map(|look| Some((look.window.end(), dropped(look)?))).collect())
}

/// Names a row, unless there are enough names of its kind.
pub(crate) fn name(named: &mut Vec<Named>, finding: Finding, row: &Row) {
    if named.iter().filter(|it| it.finding == finding).count() < NAMED_FILES {
        named.push(Named {
            finding,
            uid: row.uid.clone(),
            created_at: Some(row.created_at()),
            location: row.location.clone(),
        });
    }
}

fn push(all: &mut Vec<Named>, named: Named) {
    if all.iter().filter(|it| it.finding == named.finding).count() < NAMED_FILES {
        all.push(named);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(number: usize) -> Named {
        let (finding, uid) = (Finding::Vanished, format!("uid-{number}"));
        Named { finding, uid, created_at: None, location: None }
    }

    #[test]
    fn findings_add_up_and_name_a_bounded_number_of_files() {
        let mut all = Findings::default();
        for number in 0..100 {
            let one = Findings { vanished_rows: 1, named: vec![named(number)], ..all_zero() };
            all.add(Findings::decode(one.encode().as_deref()));
        }
        assert_eq!((all.vanished_rows, all.named.len()), (100, NAMED_FILES));
        assert_eq!(all.named[0], named(0));
    }

    #[test]
    fn what_is_asked_of_the_ledger_finds_dropped_passes_and_no_others() {
        let found = |findings: &Findings| findings.encode().expect("JSON").contains(DROPPED);
        assert!(found(&Findings { dropped: Some("it is gone".to_owned()), ..all_zero() }));
        let uid = format!("{{{DROPPED}x\"}}");
        let named = vec![Named { uid, ..named(1) }];
        assert!(!found(&Findings { named, ..all_zero() }) && !DROPPED.contains(['%', '_']));
    }

    fn all_zero() -> Findings {
        Findings::decode(Some("not JSON"))
    }
}
