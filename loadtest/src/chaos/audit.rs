//! The last word on a round: every shard that the certificates name is read from its first byte
//! to its last, every file in it compared with its source, and every row of the catalog looked
//! for.

use std::collections::{BTreeMap, HashMap, HashSet};

use protocol::{Certificate, Timestamp, WindowKey, names};

use super::files::{CatalogRow, Expected};
use super::oracle::{Bucket, Finding, Sin};
use super::shard;
use super::watch::Commit;

/// Rows that are named in one finding.
const EXAMPLES: usize = 3;

/// What was found in the archive.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    /// Rows of which the bytes in the archive are those of their source.
    pub(crate) equal: u64,
    /// Rows that are recorded as failed, and rightly so.
    pub(crate) failed: u64,
    pub(crate) findings: Vec<Finding>,
}

/// Reads everything that the committed windows name, and looks for other certificates.
pub(crate) fn audit(
    bucket: &Bucket,
    expected: &Expected,
    standing: (&[Commit], Option<Timestamp>),
    errors: &[(String, String)],
) -> Audited {
    let mut found = read_all(bucket, expected, standing, (errors, When::Over));
    found.compare_listing(bucket, standing.0);
    found
}

/// Reads everything that the committed windows name, while another may be just being committed.
pub(crate) fn audit_under_way(
    bucket: &Bucket,
    expected: &Expected,
    standing: (&[Commit], Option<Timestamp>),
    errors: &[(String, String)],
) -> Audited {
    read_all(bucket, expected, standing, (errors, When::UnderWay))
}

fn read_all(
    bucket: &Bucket,
    expected: &Expected,
    (commits, settled_until): (&[Commit], Option<Timestamp>),
    (errors, when): (&[(String, String)], When),
) -> Audited {
    let mut audit = Audit {
        bucket,
        expected,
        seen: Seen::none(expected),
        replaced: HashSet::new(),
        found: Audited::default(),
    };
    audit.note_replaced(commits);
    for commit in commits {
        if let Err(error) = audit.certificate(commit) {
            audit.found.wrong(format!("{}: {error:#}", commit.certificate));
        }
    }
    let Audit { seen, mut found, .. } = audit;
    let settled = settle(expected, &seen, errors, (settled_until, when));
    found.findings.extend(settled.findings);
    Audited { equal: settled.equal, failed: settled.failed, ..found }
}

struct Audit<'a> {
    bucket: &'a Bucket,
    expected: &'a Expected,
    seen: Seen,
    /// Shards that a later revision took the place of.
    replaced: HashSet<String>,
    found: Audited,
}

impl Audited {
    fn wrong(&mut self, what: String) {
        self.findings.push(Finding::new(Sin::Wrong, 1, what));
    }

    /// The archive explains itself: the certificates that count by their names are the ones that
    /// the ledger has.
    fn compare_listing(&mut self, bucket: &Bucket, commits: &[Commit]) {
        let folder = bucket.bucket_dir.join(format!("{}{}", bucket.prefix, names::CERTIFICATES));
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let listed = entries.filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            names::parse_certificate(&format!("{}/{name}", names::CERTIFICATES))
        });
        let listed: BTreeMap<WindowKey, u64> = names::effective_certificates(listed)
            .into_iter()
            .map(|it| (it.window, it.epoch))
            .collect();
        let in_ledger: BTreeMap<WindowKey, u64> = commits
            .iter()
            .filter_map(|commit| names::parse_certificate(&commit.certificate))
            .map(|it| (it.window, it.epoch))
            .collect();
        if listed != in_ledger {
            let differ = in_ledger.iter().find(|(window, epoch)| listed.get(window) != Some(epoch));
            let differ = differ
                .or_else(|| listed.iter().find(|(window, _)| !in_ledger.contains_key(window)));
            self.wrong(format!(
                "the bucket's certificates are not the ledger's: {} and {}, such as {differ:?}",
                listed.len(),
                in_ledger.len()
            ));
        }
    }
}

impl Audit<'_> {
    fn note_replaced(&mut self, commits: &[Commit]) {
        for commit in commits {
            let bytes = self.bucket.read(&commit.certificate).unwrap_or_default();
            // One that cannot be read is spoken of below.
            let certificate = Certificate::decode(&bytes).ok();
            self.replaced.extend(certificate.into_iter().flat_map(|it| it.replaces));
        }
    }

    fn certificate(&mut self, commit: &Commit) -> anyhow::Result<()> {
        let certificate = Certificate::decode(&self.bucket.read(&commit.certificate)?)?;
        for shard in certificate.shards.iter().filter(|it| !self.replaced.contains(&it.key)) {
            match shard::read(self.bucket, self.expected, shard) {
                Ok(held) => {
                    self.seen.count(&held.rows);
                    held.wrong.into_iter().for_each(|what| self.found.wrong(what));
                }
                Err(error) => self.found.wrong(format!("{}: {error:#}", shard.key)),
            }
        }
        Ok(())
    }
}

/// How often each row was found in a shard.
pub(crate) struct Seen(Vec<u32>);

impl Seen {
    pub(crate) fn none(expected: &Expected) -> Self {
        Self(vec![0; expected.rows().len()])
    }

    /// Takes in the rows of a shard, by their places.
    pub(crate) fn count(&mut self, rows: &[usize]) {
        for row in rows {
            if let Some(seen) = self.0.get_mut(*row) {
                *seen += 1;
            }
        }
    }
}

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Rows may still come late, and files that are away may be error rows: that is what the
    /// harness does.
    UnderWay,
    Over,
}

/// Every row at or below the watermark, once: in a shard, or an error row with a reason that is true.
pub(crate) fn settle(
    expected: &Expected,
    seen: &Seen,
    errors: &[(String, String)],
    (settled_until, when): (Option<Timestamp>, When),
) -> Audited {
    let mut found = Audited::default();
    let reasons = reasons(expected, errors, &mut found);
    let (mut lost, mut twice, mut unfair) = (Vec::new(), Vec::new(), Vec::new());
    for (at, row) in expected.rows().iter().enumerate() {
        let seen = seen.0.get(at).copied().unwrap_or_default();
        // What is not settled yet is not lost either.
        let is_due = settled_until.is_some_and(|until| row.created_at <= until)
            && !(row.is_late && when == When::UnderWay);
        let may_fail = row.content.is_none() || (row.is_hidden && when == When::UnderWay);
        match (seen, reasons.get(&at)) {
            (1, None) => found.equal += 1,
            (0, Some(reason)) if may_fail && *reason == row.reason => found.failed += 1,
            (0, None) if !is_due => {}
            (0, None) => lost.push(row),
            (0, Some(_)) => unfair.push(row),
            _ => twice.push(row),
        }
    }
    let until = match settled_until {
        Some(until) if when == When::UnderWay => format!("with the watermark at {until}, "),
        _ => String::new(),
    };
    let mut report = |sin, rows: Vec<&CatalogRow>, what: &str| {
        if !rows.is_empty() {
            let examples: Vec<String> = rows
                .iter()
                .take(EXAMPLES)
                .map(|row| format!("{:.60} of {}", row.uid, row.created_at))
                .collect();
            let what =
                format!("{until}{} rows {what}, such as {}", rows.len(), examples.join(", "));
            found.findings.push(Finding::new(sin, rows.len() as u64, what));
        }
    };
    report(Sin::Lost, lost, "are neither in a shard nor error rows");
    report(Sin::Wrong, twice, "are in the archive more than once, or an error row besides");
    report(Sin::Wrong, unfair, "are error rows for a reason that is not so");
    found
}

/// The reasons of error rows, by the row's place.
fn reasons<'a>(
    expected: &Expected,
    errors: &'a [(String, String)],
    found: &mut Audited,
) -> HashMap<usize, &'a str> {
    let mut reasons = HashMap::new();
    for (uid, reason) in errors {
        match expected.find(uid) {
            Some(at) => {
                if reasons.insert(at, reason.as_str()).is_some() {
                    found.wrong(format!("{uid:.80} is an error row twice"));
                }
            }
            None => found.wrong(format!("{uid:.80} is an error row, and no row of the catalog")),
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::files::{Files, Manner};
    use tokio_util::sync::CancellationToken;

    /// The rows of an operated round, with every file in a shard that is there from the first.
    fn round() -> (tempfile::TempDir, Expected, Seen, Vec<(String, String)>) {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files::make(dir.path(), 2_000, &CancellationToken::new()).expect("files");
        let first = "2024-06-01".parse().expect("a date");
        let expected = Expected::new(files.rows(first, 1, Manner::Operated));
        let mut seen = Seen::none(&expected);
        let mut errors = Vec::new();
        for (at, row) in expected.rows().iter().enumerate() {
            match row.content.is_some() && !row.is_hidden {
                true if !row.is_late => seen.count(&[at]),
                true => {}
                false => errors.push((row.uid.clone(), "missing".to_owned())),
            }
        }
        (dir, expected, seen, errors)
    }

    fn sins(audited: &Audited) -> Vec<Sin> {
        audited.findings.iter().map(|finding| finding.sin).collect()
    }

    #[test]
    fn what_the_harness_does_is_excused_while_a_round_goes_on_and_not_at_its_end() {
        let (_dir, expected, seen, errors) = round();
        let end = expected.rows().last().map(|row| row.created_at);
        let under_way = settle(&expected, &seen, &errors, (end, When::UnderWay));
        assert_eq!(sins(&under_way), [], "{:?}", under_way.findings);
        // Rows that never came, and files that were never put back.
        let over = settle(&expected, &seen, &errors, (end, When::Over));
        assert_eq!(sins(&over), [Sin::Lost, Sin::Wrong], "{:?}", over.findings);
    }

    #[test]
    fn a_row_at_or_below_the_watermark_is_there_once_or_an_error_row() {
        let (_dir, expected, mut seen, mut errors) = round();
        let rows = expected.rows();
        let plain = |row: &&CatalogRow| row.content.is_some() && !row.is_hidden && !row.is_late;
        let last = rows.iter().rposition(|row| plain(&row)).expect("a row");
        let (error, _) = errors.remove(0);
        let missing = expected.find(&error).expect("a row");
        let until = |at: usize| rows.get(at).map(|row| row.created_at);
        let look = |seen: &Seen, errors: &[_], at| {
            sins(&settle(&expected, seen, errors, (until(at), When::UnderWay)))
        };
        assert_eq!(look(&seen, &errors, missing), [Sin::Lost]);
        let before = rows.get(missing).map(|row| row.created_at.saturating_add_micros(-1));
        let not_yet = settle(&expected, &seen, &errors, (before, When::UnderWay));
        assert_eq!(sins(&not_yet), [], "{:?}", not_yet.findings);
        errors.insert(0, (error, "missing".to_owned()));
        seen.count(&[last]);
        assert_eq!(look(&seen, &errors, last), [Sin::Wrong], "a row that is there twice");
    }
}
