//! Finds and reads one file.

use std::sync::Arc;

use backends::BackendError;
use bytes::Bytes;
use futures::TryStreamExt;
use protocol::codec;
use protocol::names::CertificateName;
use protocol::receipt::ShardRef;
use protocol::row::recorded_uid;
use protocol::shard::{
    Content, HEADER_BYTES, IndexReader, Location, ShardError, TAIL_GUESS_BYTES, Tail, TailStep,
    check_header,
};
use protocol::{Certificate, Day, FailedRow, Fingerprint, Timestamp, names};

use crate::archive::{Archive, ReadError};

/// When the file was created, as far as the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// To the microsecond.
    Exactly(Timestamp),
    /// Some time on this UTC day.
    On(Day),
}

impl When {
    fn first(self) -> Timestamp {
        match self {
            Self::Exactly(time) => time,
            Self::On(day) => day.start(),
        }
    }

    fn matches(self, created_at: Timestamp) -> bool {
        match self {
            Self::Exactly(time) => created_at == time,
            Self::On(day) => day.contains(created_at),
        }
    }

    /// Whether windows that begin at `start`, and all later ones, cannot hold the file.
    fn is_before(self, start: Timestamp) -> bool {
        match self {
            Self::Exactly(time) => time <= start,
            Self::On(day) => day < start.day(),
        }
    }

    fn day(self) -> Day {
        self.first().day()
    }
}

/// A file that is in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What the file holds, or where it lies beside the shards.
    pub content: Content,
    /// Its created_at; `None` in shards of other packers, which do not keep it.
    pub created_at: Option<Timestamp>,
    /// The shard.
    pub shard: String,
}

/// What a search for a file came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is in the archive.
    Archived(Found),
    /// It could not be archived: an error row.
    Failed(FailedRow),
    /// The archive knows nothing of it; other times at which the uid was seen nearby.
    NotFound {
        /// Files of the same uid with another created_at, met on the way.
        near: Vec<Timestamp>,
    },
}

fn is_replaced(shard: &ShardRef, later: &[Arc<Certificate>]) -> bool {
    later.iter().any(|later| later.replaces.contains(&shard.key))
}

impl Archive {
    /// Looks a file up: one listing and the certificates of its window, both remembered, then for
    /// each revision and shard that may hold it the shard's tail, remembered too, and one block.
    ///
    /// # Errors
    /// When something cannot be read or is damaged.
    pub async fn get(&self, uid: &str, when: When) -> Result<Lookup, ReadError> {
        let (names, remembered) = self.known_names(when.first()).await?;
        match self.get_among(&names, uid, when).await? {
            // The file may have been archived since the listing was made.
            Lookup::NotFound { .. } | Lookup::Failed(_) if remembered => {
                self.forget_listing();
                let (names, _) = self.known_names(when.first()).await?;
                self.get_among(&names, uid, when).await
            }
            found => Ok(found),
        }
    }

    async fn get_among(
        &self,
        names: &[CertificateName],
        uid: &str,
        when: When,
    ) -> Result<Lookup, ReadError> {
        let mut certificates = Vec::new();
        for name in names.iter().filter(|name| name.window.end >= when.first()) {
            let certificate = self.known_certificate(*name).await?;
            if when.is_before(certificate.window.start()) {
                break;
            }
            certificates.push(certificate);
        }
        let (mut failed, mut near) = (None, Vec::new());
        let recorded = recorded_uid(uid);
        for (at, certificate) in certificates.iter().enumerate().rev() {
            let later = &certificates[at + 1..];
            let kept = |shard: &ShardRef| !is_replaced(shard, later);
            if let Some(found) = self.search(certificate, kept, uid, when, &mut near).await? {
                return Ok(Lookup::Archived(found));
            }
            let row = certificate
                .failures
                .iter()
                .find(|row| row.uid == recorded && when.matches(row.created_at));
            failed = failed.or_else(|| row.cloned());
        }
        // A shard was damaged, and its source or its row gone when it was to be made again: whatever
        // of the shard is whole is all there is.
        if certificates.iter().any(|certificate| !certificate.replaces.is_empty()) {
            for (at, certificate) in certificates.iter().enumerate().rev() {
                let replaced = |shard: &ShardRef| is_replaced(shard, &certificates[at + 1..]);
                let found = self.search(certificate, replaced, uid, when, &mut Vec::new()).await;
                if let Ok(Some(found)) = found {
                    return Ok(Lookup::Archived(found));
                }
            }
        }
        if let Some(row) = failed {
            return Ok(Lookup::Failed(row));
        }
        if certificates.is_empty()
            && let Some(found) = self.search_foreign(uid, when).await?
        {
            return Ok(Lookup::Archived(found));
        }
        Ok(Lookup::NotFound { near })
    }

    async fn search(
        &self,
        certificate: &Certificate,
        among: impl Fn(&ShardRef) -> bool,
        uid: &str,
        when: When,
        near: &mut Vec<Timestamp>,
    ) -> Result<Option<Found>, ReadError> {
        let n_bits = self.identity.n_bits;
        let fingerprint = Fingerprint::of(uid);
        let prefix = names::shard_prefix(n_bits, when.day(), n_bits.shard_index(uid));
        let may_hold = |shard: &&ShardRef| {
            shard.key.starts_with(&prefix)
                && shard.first_fingerprint <= fingerprint
                && fingerprint <= shard.last_fingerprint
                && among(shard)
        };
        for shard in certificate.shards.iter().filter(may_hold) {
            let tail = self.known_tail(&shard.key, shard.size, shard.tail_bytes).await?;
            let found = self.look_into(&shard.key, &tail, fingerprint, when, near).await?;
            if let Some((content, created_at)) = found {
                let created_at = Some(created_at);
                return Ok(Some(Found { content, created_at, shard: shard.key.clone() }));
            }
        }
        Ok(None)
    }

    /// One request: the block that may hold the file.
    async fn look_into(
        &self,
        key: &str,
        tail: &Tail,
        fingerprint: Fingerprint,
        when: When,
        near: &mut Vec<Timestamp>,
    ) -> Result<Option<(Content, Timestamp)>, ReadError> {
        for number in tail.blocks_for(fingerprint) {
            let Some(range) = tail.block_range(number) else { continue };
            let bytes = self.range(key, range).await?;
            let block = tail.parse_block(number, &bytes).map_err(ReadError::damaged(key))?;
            if let Some(entry) = block.find(fingerprint) {
                if when.matches(entry.created_at) {
                    let content = block.content(entry).map_err(ReadError::damaged(key))?;
                    return Ok(Some((content, entry.created_at)));
                }
                near.push(entry.created_at);
            }
        }
        Ok(None)
    }

    /// Looks through shards that other packers left beside ours, as the format's readers do:
    /// every candidate in name order until one holds the uid.
    async fn search_foreign(&self, uid: &str, when: When) -> Result<Option<Found>, ReadError> {
        let n_bits = self.identity.n_bits;
        let prefix = names::shard_prefix(n_bits, when.day(), n_bits.shard_index(uid));
        let mut candidates = Vec::new();
        let mut listing = self.store.list_after("", &prefix);
        while let Some(object) = listing.try_next().await? {
            if object.key.starts_with(&prefix)
                && std::path::Path::new(&object.key).extension().is_some_and(|it| it == "des")
            {
                candidates.push(object);
            } else if !self.store.is_directory() {
                // Buckets list in order.
                break;
            }
        }
        candidates.sort_by(|a, b| a.key.cmp(&b.key));
        for candidate in candidates {
            if let Some(found) = self.get_from(&candidate.key, uid, when).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Reads a file from a shard of any DES packer, which no certificate names.
    ///
    /// # Errors
    /// When the shard cannot be read or is damaged.
    pub async fn get_from(
        &self,
        key: &str,
        uid: &str,
        when: When,
    ) -> Result<Option<Found>, ReadError> {
        let damaged = || ReadError::damaged(key);
        let (_, step) = self.tail(key, TAIL_GUESS_BYTES).await?;
        let index_range = match step {
            TailStep::Plain(plain) => plain.range,
            TailStep::Fast(tail) => {
                let near = &mut Vec::new();
                let found = self.look_into(key, &tail, Fingerprint::of(uid), when, near).await?;
                return Ok(found.map(|(content, created_at)| Found {
                    content,
                    created_at: Some(created_at),
                    shard: key.to_owned(),
                }));
            }
            TailStep::Need(_) => return Ok(None),
        };
        let header = self.range(key, 0..HEADER_BYTES).await?;
        let version = check_header(&header).map_err(damaged())?;
        let index = self.range(key, index_range.clone()).await?;
        let mut entries = IndexReader::new(version, &index, index_range.start).map_err(damaged())?;
        while let Some(entry) = entries.next_entry().map_err(damaged())? {
            if entry.uid != uid {
                continue;
            }
            let content = match entry.location {
                Location::Beside { sha256, size } => Content::Big { sha256, size },
                Location::Inside { offset, stored_size, codec, raw_size } => {
                    let stored = if stored_size == 0 {
                        Bytes::new()
                    } else {
                        self.range(key, offset..offset + stored_size).await?
                    };
                    let raw = codec::decode(codec, &stored, raw_size).map_err(|error| {
                        let what = format!("the payload does not decode: {error}");
                        damaged()(ShardError::Damaged { offset, what })
                    })?;
                    Content::File(raw)
                }
            };
            return Ok(Some(Found { content, created_at: None, shard: key.to_owned() }));
        }
        Ok(None)
    }

    /// The bytes of a big file, piece by piece, checked against its hash at the end.
    ///
    /// # Errors
    /// When it cannot be read, `sink` fails, or its content is not what its name stands for; what
    /// `sink` has taken by then is not to be used.
    pub async fn copy_big_file(
        &self,
        sha256: &str,
        size: u64,
        sink: &mut (dyn std::io::Write + Send),
    ) -> Result<(), ReadError> {
        use sha2::{Digest as _, Sha256};
        const PIECE_BYTES: u64 = 8 * 1024 * 1024;
        let key = names::big_file(sha256);
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < size {
            let end = (at + PIECE_BYTES).min(size);
            let piece = self.range(&key, at..end).await?;
            hasher.update(&piece);
            sink.write_all(&piece).map_err(|error| {
                ReadError::Backend(BackendError::Failed {
                    what: format!("writing {key} out"),
                    cause: error.into(),
                })
            })?;
            at = end;
        }
        let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found == sha256 && self.store.size(&key).await? == Some(size) {
            Ok(())
        } else {
            Err(ReadError::Contradiction(format!(
                "{key} does not hold what its name stands for: it is damaged"
            )))
        }
    }
}
