//! Object names inside an archive.
//!
//! Readers of the format take any name that begins with eight digits for a shard, so nothing
//! else here does. Names of manifests, receipts and shards carry a hash of their content and
//! those of certificates the epoch, so that no name ever stands for two contents.

use crate::ident::{ContentHash, PartitionId, Revision, WindowKey};
use crate::routing::{NBits, ShardIndex};
use crate::time::{Day, Timestamp};

/// The archive's identity.
pub const ARCHIVE: &str = "_des/archive.json";
/// Where certificates lie.
pub const CERTIFICATES: &str = "_des/certificates";
/// Where manifests lie.
pub const MANIFESTS: &str = "_des/manifests";
/// Where receipts lie.
pub const RECEIPTS: &str = "_des/receipts";
/// Where big files lie.
pub const BIG_FILES: &str = "_bigFiles";
/// The largest part number, since names carry four digits.
pub const MAX_PART: u32 = 9_999;

/// What a shard's name says, besides its content's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    /// UTC day of the entries' created_at.
    pub day: Day,
    /// Shard index of the entries.
    pub index: ShardIndex,
    /// The window and revision that the shard was made for.
    pub window: WindowKey,
    /// Number among the shards of the same day, index, partition and revision, up to [`MAX_PART`].
    pub part: u32,
}

/// `<day>_<hex>_<window end>_r<revision>_<part>-<content hash>.des`
pub fn shard(n_bits: NBits, place: &ShardPlace, hash: ContentHash) -> String {
    let ShardPlace { day, index, window, part } = place;
    let hex = n_bits.shard_hex(*index);
    let (end, revision) = (window.end.compact(), window.revision);
    format!("{day}_{hex}_{end}_r{revision:04}_{part:04}-{hash}.des")
}

/// The day of created_at and the shard index's hex that a shard's name begins with, in any
/// packer's naming.
pub fn shard_prefix(n_bits: NBits, day: Day, index: ShardIndex) -> String {
    format!("{day}_{}_", n_bits.shard_hex(index))
}

/// `_bigFiles/<sha256>`; `sha256` is 64 lower-case hex digits.
pub fn big_file(sha256: &str) -> String {
    format!("{BIG_FILES}/{sha256}")
}

/// `_des/manifests/<window end>-r<rev>/p<partition>-<hash>.rows`
pub fn manifest(window: WindowKey, partition: PartitionId, hash: ContentHash) -> String {
    format!("{MANIFESTS}/{window}/p{partition:06}-{hash}.rows")
}

/// The number that a manifest's name carries: of the partition that it was written for.
pub fn manifest_number(key: &str) -> Option<PartitionId> {
    let (number, _hash) = key.rsplit_once("/p")?.1.split_once('-')?;
    number.parse().ok()
}

/// `_des/receipts/<window end>-r<rev>/p<partition>-<manifest hash>-<hash>.json`
pub fn receipt(
    window: WindowKey,
    partition: PartitionId,
    manifest: ContentHash,
    hash: ContentHash,
) -> String {
    format!("{RECEIPTS}/{window}/{}{hash}.json", receipt_stem(partition, manifest))
}

/// The directory of a window's receipts, and how the file names of the receipts for one manifest
/// begin.
pub fn receipts_for(
    window: WindowKey,
    partition: PartitionId,
    manifest: ContentHash,
) -> (String, String) {
    (format!("{RECEIPTS}/{window}"), receipt_stem(partition, manifest))
}

fn receipt_stem(partition: PartitionId, manifest: ContentHash) -> String {
    format!("p{partition:06}-{manifest}-")
}

/// The content hash that the name of a manifest, receipt or shard carries.
pub fn content_hash(key: &str) -> Option<ContentHash> {
    let (stem, _extension) = key.rsplit_once('.')?;
    stem.rsplit_once('-')?.1.parse().ok()
}

/// `_des/certificates/<window end>-r<rev>-e<epoch>.json`
pub fn certificate(window: WindowKey, epoch: u64) -> String {
    format!("{CERTIFICATES}/{window}-e{epoch:010}.json")
}

/// The name after which a listing of certificates holds every window whose end is at or after
/// `created_at`.
pub fn certificates_from(created_at: Timestamp) -> String {
    format!("{CERTIFICATES}/{}", created_at.compact())
}

/// What a certificate's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateName {
    /// Window end and revision.
    pub window: WindowKey,
    /// Epoch of the lease it was written under.
    pub epoch: u64,
}

/// Reads what [`certificate`] prints; `None` for any other name.
pub fn parse_certificate(key: &str) -> Option<CertificateName> {
    let stem = key.strip_prefix(CERTIFICATES)?.strip_prefix('/')?.strip_suffix(".json")?;
    let (window, epoch) = stem.rsplit_once("-e")?;
    let name = CertificateName { window: window.parse().ok()?, epoch: epoch.parse().ok()? };
    (certificate(name.window, name.epoch) == key).then_some(name)
}

/// Of each window end and revision the certificate with the highest epoch, which is the one that
/// counts; in order of window end, then revision.
pub fn effective_certificates(
    names: impl IntoIterator<Item = CertificateName>,
) -> Vec<CertificateName> {
    let mut sorted: Vec<_> = names.into_iter().collect();
    sorted.sort_unstable();
    sorted.reverse();
    sorted.dedup_by_key(|name| name.window);
    sorted.reverse();
    sorted
}

/// The name of revision `revision` of the window that ends at `end`.
pub const fn window_key(end: Timestamp, revision: Revision) -> WindowKey {
    WindowKey { end, revision }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a date")
    }

    #[test]
    fn names_are_those_of_the_format() {
        let window = window_key(at("2024-12-02"), 3);
        let hash = ContentHash::of(b"");
        let n_bits = NBits::new(8).expect("8 bits");
        let place =
            ShardPlace { day: at("2024-12-01").day(), index: ShardIndex(0x7F), window, part: 1 };
        let key = shard(n_bits, &place, hash);
        assert_eq!(key, "20241201_7F_20241202T000000Z_r0003_0001-af1349b9f5f9a1a6.des");
        assert_eq!(content_hash(&key), Some(hash));
        assert!(key.starts_with(&shard_prefix(n_bits, place.day, place.index)));
        assert_eq!(
            receipt(window, 2, hash, hash),
            "_des/receipts/20241202T000000Z-r0003/p000002-af1349b9f5f9a1a6-af1349b9f5f9a1a6.json"
        );
        assert_eq!(
            certificate(window, 7),
            "_des/certificates/20241202T000000Z-r0003-e0000000007.json"
        );
    }

    #[test]
    fn nothing_but_a_shard_begins_with_digits() {
        for name in [ARCHIVE, CERTIFICATES, MANIFESTS, RECEIPTS, BIG_FILES] {
            assert!(name.starts_with('_'), "{name}");
        }
    }

    #[test]
    fn of_one_window_the_highest_epoch_counts() {
        let name = |end: &str, revision, epoch| CertificateName {
            window: window_key(at(end), revision),
            epoch,
        };
        let effective = effective_certificates([
            name("2024-12-02", 0, 9),
            name("2024-12-02", 1, 3),
            name("2024-12-01", 0, 2),
            name("2024-12-02", 0, 10),
        ]);
        let expected =
            [name("2024-12-01", 0, 2), name("2024-12-02", 0, 10), name("2024-12-02", 1, 3)];
        assert_eq!(effective, expected);
        let key = certificate(expected[1].window, 10);
        assert_eq!(parse_certificate(&key), Some(expected[1]));
        assert_eq!(parse_certificate("_des/certificates/x.json"), None);
        let key = manifest(expected[1].window, 1_234_567, ContentHash::of(b""));
        assert_eq!(manifest_number(&key), Some(1_234_567));
        assert_eq!(manifest_number("_des/manifests/x.rows"), None);
    }

    #[test]
    fn a_listing_from_a_time_holds_the_window_that_ends_there() {
        let key = certificate(window_key(at("2024-12-02"), 0), 1);
        assert!(certificates_from(at("2024-12-02")) < key);
        assert!(certificates_from(at("2024-12-01T23:59:59.5Z")) < key);
        assert!(certificates_from(at("2024-12-02T00:00:01Z")) > key);
    }
}
