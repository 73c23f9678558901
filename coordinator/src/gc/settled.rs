//! Which objects nothing can ever name again. Pure.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use backends::store::ListedObject;
use protocol::names::{CertificateName, ObjectName};
use protocol::{Revision, Timestamp, WindowKey};

use super::named::Names;
use crate::passes::Pass;

/// What the ledger holds as committed, and as open.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    ends: BTreeMap<Timestamp, SettledEnd>,
    open: HashSet<WindowKey>,
}

#[derive(Debug)]
struct SettledEnd {
    start: Timestamp,
    /// Revisions with the epoch of the certificate that counts.
    epochs: BTreeMap<Revision, u64>,
}

impl Settled {
    pub(crate) fn new(passes: &[Pass], open: HashSet<WindowKey>) -> Self {
        let mut settled = Self { ends: BTreeMap::new(), open };
        for Pass { window, certificate } in passes {
            let end = settled
                .ends
                .entry(window.end())
                .or_insert_with(|| SettledEnd { start: window.start(), epochs: BTreeMap::new() });
            end.epochs.insert(certificate.window.revision, certificate.epoch);
        }
        settled
    }

    /// The epoch of the certificate that counts for this pass; `None` when it is not committed.
    pub(crate) fn epoch(&self, key: WindowKey) -> Option<u64> {
        self.ends.get(&key.end)?.epochs.get(&key.revision).copied()
    }

    /// Whether no coordinator will ever plan, accept or certify anything for this pass again:
    ///
    /// - a pass that is committed stays as it is;
    /// - a window that ends inside a committed one is never cut again, since windows do not reach
    ///   into committed ones and these are met whole. Skipping over a window that was open leaves
    ///   such ends behind.
    ///
    /// Every other pass may still be planned and then names what lies there.
    pub(crate) fn is_over(&self, key: WindowKey) -> bool {
        if self.open.contains(&key) {
            return false;
        }
        if self.ends.contains_key(&key.end) {
            return self.epoch(key).is_some();
        }
        let after = (Bound::Excluded(key.end), Bound::Unbounded);
        self.ends.range(after).next().is_some_and(|(_, settled)| settled.start < key.end)
    }

    /// What a certificate that the store holds is to the ledger.
    pub(crate) fn standing(&self, name: CertificateName) -> Standing {
        match self.epoch(name.window) {
            Some(epoch) if epoch == name.epoch => Standing::Committed,
            Some(epoch) if epoch > name.epoch => Standing::Superseded,
            None if self.open.contains(&name.window) => Standing::Open,
            None if self.was_covered_later(name) => Standing::Superseded,
            Some(_) | None => Standing::Unknown,
        }
    }

    /// Whether the certificate's window ends inside a committed one whose first certificate has a
    /// later epoch: a leader ended just before it committed, and an operator skipped over its window.
    /// One of a later epoch than what covers it is of another time than the ledger.
    fn was_covered_later(&self, name: CertificateName) -> bool {
        let end = name.window.end;
        let after = (Bound::Excluded(end), Bound::Unbounded);
        self.ends.range(after).next().is_some_and(|(_, settled)| {
            let first = settled.epochs.values().next();
            settled.start < end && first.is_some_and(|epoch| *epoch > name.epoch)
        })
    }
}

/// What a certificate is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It counts.
    Committed,
    /// One of a later epoch counts for the same pass, or for a stretch around its window.
    Superseded,
    /// Its window was not committed yet when the ledger was asked.
    Open,
    /// The ledger does not know of it.
    Unknown,
}

/// What is to become of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not ours to remove: named, of another packer, a big file, or of a pass that is not settled.
    Keep,
    /// Nothing will ever name it, but it is younger than the grace.
    Young,
    /// Nothing will ever name it.
    Remove,
}

/// Decides about an object whose name was read as `name`.
///
/// Big files are never removed: any window may come to name one by its content at any moment, and
/// shards of other packers, whose certificates there are none of, may name it.
pub(crate) fn judge(
    object: &ListedObject,
    name: ObjectName,
    settled: &Settled,
    named: &Names,
    written_before: Timestamp,
) -> Verdict {
    let over = match name {
        ObjectName::Identity | ObjectName::BigFile => false,
        ObjectName::Certificate(certificate) => {
            settled.standing(certificate) == Standing::Superseded
        }
        ObjectName::Manifest(key) | ObjectName::Receipt(key) | ObjectName::Shard(key) => {
            settled.is_over(key)
        }
    };
    match over && !named.contains(&object.key) {
        false => Verdict::Keep,
        true if object.modified >= written_before => Verdict::Young,
        true => Verdict::Remove,
    }
}

#[cfg(test)]
mod tests {
    use protocol::{ContentHash, Window, names};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    fn key(end: &str, revision: Revision) -> WindowKey {
        WindowKey { end: at(end), revision }
    }

    fn pass(start: &str, end: &str, revision: Revision, epoch: u64) -> Pass {
        let window = Window::new(at(start), at(end)).expect("a window");
        let certificate = CertificateName { window: WindowKey::new(window, revision), epoch };
        Pass { window, certificate }
    }

    /// The 2nd with a revision; 3rd to 9th skipped at once; 10th; and the 11th open.
    fn settled() -> Settled {
        let passes = [
            pass("2024-12-01", "2024-12-02", 0, 3),
            pass("2024-12-01", "2024-12-02", 1, 5),
            pass("2024-12-02", "2024-12-09", 0, 6),
            pass("2024-12-09", "2024-12-10", 0, 7),
        ];
        Settled::new(&passes, [key("2024-12-11", 0), key("2024-12-06", 0)].into())
    }

    #[test]
    fn a_pass_is_over_when_it_is_committed_or_lies_inside_a_committed_window() {
        let settled = settled();
        for (end, revision) in [
            ("2024-12-02", 0),
            ("2024-12-02", 1),
            ("2024-12-09", 0),
            ("2024-12-05", 0),
            ("2024-12-05", 3),
        ] {
            assert!(settled.is_over(key(end, revision)), "{end} {revision}");
        }
        // A later revision may be asked for, and what lies beside the windows may be planned.
        for (end, revision) in [
            ("2024-12-02", 2),
            ("2024-12-06", 0),
            ("2024-12-10", 1),
            ("2024-12-11", 0),
            ("2024-12-01", 0),
            ("2024-11-05", 0),
        ] {
            assert!(!settled.is_over(key(end, revision)), "{end} {revision}");
        }
    }

    #[test]
    fn a_certificate_is_superseded_only_by_a_later_epoch_of_its_pass_or_around_its_window() {
        let settled = settled();
        let standing = |end, revision, epoch| {
            settled.standing(CertificateName { window: key(end, revision), epoch })
        };
        assert_eq!(standing("2024-12-02", 1, 5), Standing::Committed);
        assert_eq!(standing("2024-12-02", 1, 4), Standing::Superseded);
        assert_eq!(standing("2024-12-02", 1, 6), Standing::Unknown);
        assert_eq!(standing("2024-12-02", 2, 1), Standing::Unknown);
        // Inside the stretch that was skipped under epoch 6.
        assert_eq!(standing("2024-12-05", 0, 5), Standing::Superseded);
        assert_eq!(standing("2024-12-05", 0, 6), Standing::Unknown);
        assert_eq!(standing("2024-12-05", 0, 7), Standing::Unknown, "the ledger is older");
        assert_eq!(standing("2024-12-06", 0, 1), Standing::Open);
        assert_eq!(standing("2024-12-02", 9, 1), Standing::Unknown);
        assert_eq!(standing("2024-12-01", 0, 1), Standing::Unknown);
        assert_eq!(standing("2024-12-11", 0, 9), Standing::Open);
    }

    #[test]
    fn only_what_is_ours_over_unnamed_and_old_is_removed() {
        let settled = settled();
        let hash = ContentHash::of(b"");
        let over = names::receipt(key("2024-12-02", 0), 1, hash, hash);
        let kept = names::receipt(key("2024-12-02", 0), 2, hash, hash);
        let mut named = Names::default();
        named.insert(&kept);
        named.sort();
        let verdict = |key: &str, name, modified: &str| {
            let object = ListedObject { key: key.to_owned(), size: 1, modified: at(modified) };
            judge(&object, name, &settled, &named, at("2024-12-20"))
        };
        let receipt = ObjectName::Receipt(key("2024-12-02", 0));
        assert_eq!(verdict(&over, receipt, "2024-12-19"), Verdict::Remove);
        assert_eq!(verdict(&over, receipt, "2024-12-20"), Verdict::Young);
        assert_eq!(verdict(&kept, receipt, "2024-12-19"), Verdict::Keep);
        let open = ObjectName::Receipt(key("2024-12-11", 0));
        assert_eq!(verdict(&over, open, "2024-12-19"), Verdict::Keep);
        assert_eq!(verdict("_bigFiles/0", ObjectName::BigFile, "2024-12-01"), Verdict::Keep);
        assert_eq!(verdict(names::ARCHIVE, ObjectName::Identity, "2024-12-01"), Verdict::Keep);
        let certificate = |epoch| {
            let name = CertificateName { window: key("2024-12-02", 1), epoch };
            let text = names::certificate(name.window, name.epoch);
            verdict(&text, ObjectName::Certificate(name), "2024-12-01")
        };
        assert_eq!(
            [certificate(4), certificate(5), certificate(6)],
            [Verdict::Remove, Verdict::Keep, Verdict::Keep]
        );
    }
}
