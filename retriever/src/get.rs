//! Finds and reads one file.

use backends::BackendError;
use bytes::Bytes;
use futures::TryStreamExt;
use protocol::codec;
use protocol::receipt::ShardRef;
use protocol::shard::{
    Block, Content, HEADER_BYTES, IndexReader, Location, ShardError, TAIL_GUESS_BYTES, Tail,
    TailStep, check_header,
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

impl Archive {
    /// Looks a file up: one listing, the certificates of its window, then for each revision and
    /// shard that may hold it the shard's tail and one block.
    ///
    /// # Errors
    /// When something cannot be read or is damaged.
    pub async fn get(&self, uid: &str, when: When) -> Result<Lookup, ReadError> {
        let fingerprint = Fingerprint::of(uid);
        let mut failed = None;
        let mut near = Vec::new();
        let mut certified = false;
        let mut certificates = Vec::new();
        for name in self.certificate_names(Some(when.first())).await? {
            let certificate = self.certificate(name).await?;
            // The first window after the day in question, and all that follow, cannot hold it.
            let beyond = match when {
                When::Exactly(time) => certificate.window.start() >= time,
                When::On(day) => {
                    certificate.window.start() > day.start()
                        && !day.contains(certificate.window.start())
                }
            };
            if beyond {
                break;
            }
            certified = true;
            certificates.push(certificate);
        }
        let replaced: Vec<String> =
            certificates.iter().flat_map(|certificate| certificate.replaces.clone()).collect();
        for certificate in certificates.iter().rev() {
            let found = self.search(certificate, uid, fingerprint, when, &replaced, &mut near);
            if let Some(found) = found.await? {
                return Ok(Lookup::Archived(found));
            }
            let row = certificate
                .failures
                .iter()
                .find(|row| row.uid == uid && when.matches(row.created_at));
            failed = failed.or_else(|| row.cloned());
        }
        if let Some(row) = failed {
            return Ok(Lookup::Failed(row));
        }
        if !certified && let Some(found) = self.search_foreign(uid, when).await? {
            return Ok(Lookup::Archived(found));
        }
        Ok(Lookup::NotFound { near })
    }

    async fn search(
        &self,
        certificate: &Certificate,
        uid: &str,
        fingerprint: Fingerprint,
        when: When,
        replaced: &[String],
        near: &mut Vec<Timestamp>,
    ) -> Result<Option<Found>, ReadError> {
        let n_bits = self.identity.n_bits;
        let prefix = names::shard_prefix(n_bits, when.day(), n_bits.shard_index(uid));
        let may_hold = |shard: &&ShardRef| {
            shard.key.starts_with(&prefix)
                && shard.first_fingerprint <= fingerprint
                && fingerprint <= shard.last_fingerprint
                && !replaced.contains(&shard.key)
        };
        for shard in certificate.shards.iter().filter(may_hold) {
            let (_, TailStep::Fast(tail)) = self.tail(&shard.key, shard.tail_bytes).await? else {
                let what = "the lookup extension is gone".to_owned();
                let cause = ShardError::Damaged { offset: shard.size, what };
                return Err(ReadError::Damaged { object: shard.key.clone(), cause });
            };
            if let Some((content, created_at)) =
                self.look_into(&shard.key, &tail, fingerprint, when, near).await?
            {
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
        let blocks = tail.blocks_for(fingerprint);
        let ranges: Vec<_> = blocks.filter_map(|number| tail.block_range(number)).collect();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(None) };
        let bytes = self.range(key, first.start..last.end).await?;
        for range in &ranges {
            let from = usize::try_from(range.start - first.start).unwrap_or(usize::MAX);
            let to = usize::try_from(range.end - first.start).unwrap_or(usize::MAX);
            let piece = bytes.get(from..to).unwrap_or_default();
            let block = Block::parse(piece, range.start).map_err(ReadError::damaged(key))?;
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
            if let Some(found) = self.get_from_foreign(&candidate.key, uid).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Reads a file from a shard of any DES packer, by its index.
    ///
    /// # Errors
    /// When the shard cannot be read or is damaged.
    pub async fn get_from_foreign(&self, key: &str, uid: &str) -> Result<Option<Found>, ReadError> {
        let damaged = || ReadError::damaged(key);
        let (_, step) = self.tail(key, TAIL_GUESS_BYTES).await?;
        let index_range = match step {
            TailStep::Plain(plain) => plain.range,
            TailStep::Fast(tail) => tail.index_range(),
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
