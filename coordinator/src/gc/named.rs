//! The names that certificates give, in bounded memory. Pure.

use std::ops::RangeInclusive;

use protocol::{Certificate, Timestamp, names};

/// Everything that a certificate names, itself included; what it replaces, or leaves unrepaired, is
/// named by the certificate of the pass before. Every field is listed, so that a new one is not
/// forgotten here.
pub(crate) fn for_each_name(certificate: &Certificate, mut visit: impl FnMut(&str)) {
    let Certificate {
        partitions,
        shards,
        big_files,
        version: _,
        archive: _,
        job: _,
        window: _,
        revision: _,
        epoch,
        writer: _,
        written_at: _,
        kind: _,
        settings: _,
        packed: _,
        failed: _,
        bytes_raw: _,
        bytes_stored: _,
        replaces: _,
        unrepaired: _,
        failures: _,
    } = certificate;
    visit(&names::certificate(certificate.key(), *epoch));
    for partition in partitions {
        visit(&partition.manifest);
        visit(&partition.receipt);
    }
    shards.iter().for_each(|shard| visit(&shard.key));
    big_files.iter().for_each(|big| visit(&big.key));
}

/// Names that certificates give, by hash. Two names of one hash keep an object that nothing names;
/// they never remove one that is named.
#[derive(Debug, Default)]
pub(crate) struct Names {
    hashes: Vec<u64>,
}

impl Names {
    pub(crate) fn insert(&mut self, name: &str) {
        self.hashes.push(hash_of(name));
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.hashes.extend_from_slice(&others.hashes);
    }

    /// To be called once all names are in.
    pub(crate) fn sort(&mut self) {
        self.hashes.sort_unstable();
        self.hashes.dedup();
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.hashes.binary_search(&hash_of(name)).is_ok()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }
}

fn hash_of(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// A stretch of window ends whose names fit into memory, with the names where they are at hand.
pub(crate) struct Stretch {
    pub(crate) ends: RangeInclusive<Timestamp>,
    pub(crate) names: Option<Names>,
}

/// Divides window ends into stretches with a bounded number of names.
pub(crate) struct Cut {
    /// Names of a stretch, unless a single window has more.
    most: usize,
    /// The last end of each stretch but the last.
    borders: Vec<Timestamp>,
    /// Names since the last border, at most.
    since: usize,
    last_end: Option<Timestamp>,
    /// All names, as long as they fit.
    names: Names,
    overflowed: bool,
}

impl Cut {
    pub(crate) fn new(most: usize) -> Self {
        let names = Names::default();
        Self { most, borders: Vec::new(), since: 0, last_end: None, names, overflowed: false }
    }

    pub(crate) fn add(&mut self, certificate: &Certificate) {
        let end = certificate.window.end();
        let mut count = 0;
        for_each_name(certificate, |_| count += 1);
        if self.since + count > self.most
            && let Some(last) = self.last_end.filter(|last| *last != end)
        {
            self.borders.push(last);
            self.since = 0;
            self.overflowed = true;
            self.names = Names::default();
        }
        self.since += count;
        self.last_end = Some(end);
        if !self.overflowed {
            for_each_name(certificate, |name| self.names.insert(name));
        }
    }

    pub(crate) fn finish(self) -> Vec<Stretch> {
        if !self.overflowed {
            let ends = Timestamp::MIN..=Timestamp::MAX;
            return vec![Stretch { ends, names: Some(self.names) }];
        }
        let mut from = Timestamp::MIN;
        let mut stretches = Vec::with_capacity(self.borders.len() + 1);
        for border in self.borders {
            stretches.push(Stretch { ends: from..=border, names: None });
            from = border.saturating_add_micros(1);
        }
        stretches.push(Stretch { ends: from..=Timestamp::MAX, names: None });
        stretches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(day: i64, shards: usize) -> Certificate {
        let text = include_str!("../../../protocol/fixtures/v1/certificate.json");
        let mut certificate = Certificate::decode(text.as_bytes()).expect("a certificate");
        let at = |day: i64| Timestamp::from_micros(day * 86_400_000_000).expect("a time");
        certificate.window = protocol::Window::new(at(day - 1), at(day)).expect("a window");
        certificate.partitions.clear();
        certificate.big_files.clear();
        let shard = certificate.shards[0].clone();
        certificate.shards = vec![shard; shards];
        certificate
    }

    fn ends(stretches: &[Stretch]) -> Vec<(i64, i64)> {
        let day = |time: &Timestamp| time.as_micros().div_euclid(86_400_000_000);
        stretches.iter().map(|it| (day(it.ends.start()), day(it.ends.end()))).collect()
    }

    #[test]
    fn names_that_fit_are_gone_through_at_once() {
        let mut cut = Cut::new(100);
        for day in 1..=9 {
            cut.add(&certificate(day, 10));
        }
        let stretches = cut.finish();
        assert_eq!(stretches.len(), 1);
        assert!(stretches[0].names.as_ref().is_some_and(|names| names.len() == 99));
        assert!(stretches[0].ends.contains(&Timestamp::MIN));
        assert!(stretches[0].ends.contains(&Timestamp::MAX));
    }

    #[test]
    fn names_that_do_not_fit_are_gone_through_in_stretches_without_gap_or_overlap() {
        let mut cut = Cut::new(25);
        for (day, shards) in [(1, 10), (2, 10), (3, 10), (4, 90), (4, 5), (5, 3)] {
            cut.add(&certificate(day, shards));
        }
        let stretches = cut.finish();
        assert!(stretches.iter().all(|stretch| stretch.names.is_none()));
        let ends = ends(&stretches);
        assert_eq!(ends.len(), 4, "{ends:?}");
        let inner: Vec<_> = ends.windows(2).map(|pair| (pair[0].1, pair[1].0)).collect();
        // A stretch begins a microsecond after the end of the one before.
        assert_eq!(inner, [(2, 2), (3, 3), (4, 4)]);
        for pair in stretches.windows(2) {
            assert_eq!(pair[0].ends.end().saturating_add_micros(1), *pair[1].ends.start());
        }
        assert_eq!(
            (*stretches[0].ends.start(), *stretches[3].ends.end()),
            (Timestamp::MIN, Timestamp::MAX)
        );
    }
}
