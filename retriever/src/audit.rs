//! What became of every row, for auditors: from certificates and shards alone.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use protocol::certificate::CertificateKind;
use protocol::names::CertificateName;
use protocol::receipt::ShardRef;
use protocol::{Certificate, FailureReason, Timestamp, names};

use crate::archive::{Archive, ReadError};
use crate::walk::WalkedFile;

/// One row of the catalog, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedRow {
    /// The file's key.
    pub uid: String,
    /// The row's created_at.
    pub created_at: Timestamp,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the archive.
    Archived {
        /// When the certificate was written that proves it.
        at: Timestamp,
        /// Where in the archive.
        place: AuditedPlace,
    },
    /// It could not be archived.
    Failed {
        /// When the certificate was written that says so.
        at: Timestamp,
        /// Why.
        reason: FailureReason,
    },
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditedPlace {
    /// The object that holds its bytes: a shard, or a big file.
    pub object: String,
    /// Where they begin in the object.
    pub offset: u64,
    /// Their number, raw.
    pub size: u64,
    /// CRC-32C of the raw bytes; `None` for a big file, whose name is its SHA-256.
    pub crc32c: Option<u32>,
}

/// What an audit adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// Windows that were gone through.
    pub windows: u64,
    /// Of those, windows that an operator skipped: their rows are in no list.
    pub skipped: u64,
    /// Shards that were read, from the first byte to the last.
    pub shards: u64,
}

impl Archive {
    /// Visits every row of the windows that [`Archive::windows`] gives, window by window: what is
    /// archived, shard by shard, then what failed. Every shard is read whole, and its bytes compared
    /// with what certificate and name state of them. `parallel` shards are read at a time; memory is
    /// bounded by their entries and by one window's certificates. `visit` ends it by an error.
    ///
    /// # Errors
    /// When something cannot be read or is damaged, or `visit` fails.
    pub async fn audit<E: From<ReadError>>(
        &self,
        (from, until): (Option<Timestamp>, Option<Timestamp>),
        parallel: usize,
        visit: &mut (dyn FnMut(AuditedRow) -> Result<(), E> + Send),
    ) -> Result<Audited, E> {
        let mut audited = Audited::default();
        let names = self.certificate_names(from).await?;
        // A window's passes stand side by side, and only they replace each other's shards.
        for passes in names.chunk_by(|a, b| a.window.end == b.window.end) {
            let certificates = self.certificates_of(passes).await?;
            let Some(last) = certificates.last() else { continue };
            if until.is_some_and(|until| last.window.start() >= until) {
                break;
            }
            audited.windows += 1;
            audited.skipped += u64::from(last.kind == CertificateKind::Skipped);
            audited.shards += self.audit_shards(&certificates, parallel, visit).await?;
            for row in &last.failures {
                visit(AuditedRow {
                    uid: row.uid.clone(),
                    created_at: row.created_at,
                    fate: Fate::Failed { at: last.written_at, reason: row.reason },
                })?;
            }
        }
        Ok(audited)
    }

    async fn certificates_of(
        &self,
        passes: &[CertificateName],
    ) -> Result<Vec<Certificate>, ReadError> {
        let mut certificates = Vec::with_capacity(passes.len());
        for name in passes {
            certificates.push(self.certificate(*name).await?);
        }
        Ok(certificates)
    }

    /// Visits the files of one window's shards, in the order in which its certificates name them, but
    /// for shards that a later pass replaced. Returns how many shards there were.
    async fn audit_shards<E: From<ReadError>>(
        &self,
        certificates: &[Certificate],
        parallel: usize,
        visit: &mut (dyn FnMut(AuditedRow) -> Result<(), E> + Send),
    ) -> Result<u64, E> {
        let replaced: HashSet<&str> =
            certificates.iter().flat_map(|it| it.replaces.iter().map(String::as_str)).collect();
        let shards = certificates
            .iter()
            .flat_map(|it| it.shards.iter().map(|shard| (it.written_at, shard)))
            .filter(|(_, shard)| !replaced.contains(shard.key.as_str()));
        let mut read = stream::iter(shards)
            .map(|(at, shard)| self.files_of(at, shard))
            .buffered(parallel.max(1));
        let mut count = 0;
        while let Some(rows) = read.try_next().await? {
            count += 1;
            for row in rows {
                visit(row)?;
            }
        }
        Ok(count)
    }

    async fn files_of(
        &self,
        at: Timestamp,
        shard: &ShardRef,
    ) -> Result<Vec<AuditedRow>, ReadError> {
        let (archive, shard) = (self.clone(), shard.clone());
        // Checking is CPU work: each shard gets a task of its own on the blocking threads.
        let walk = tokio::task::spawn_blocking(move || {
            let mut rows = Vec::new();
            let mut keep = |file: WalkedFile| rows.push(archived(file, at, &shard.key));
            let walk = archive.walk(&shard, false, &mut keep);
            tokio::runtime::Handle::current().block_on(walk).map(|_walked| rows)
        });
        walk.await.unwrap_or_else(|error| {
            Err(ReadError::Contradiction(format!("reading a shard ended early: {error}")))
        })
    }
}

fn archived(file: WalkedFile, at: Timestamp, shard: &str) -> AuditedRow {
    let place = match file.big {
        Some(sha256) => AuditedPlace {
            object: names::big_file(&sha256),
            offset: 0,
            size: file.size,
            crc32c: None,
        },
        None => AuditedPlace {
            object: shard.to_owned(),
            offset: file.offset,
            size: file.size,
            crc32c: Some(file.crc32c),
        },
    };
    AuditedRow { uid: file.uid, created_at: file.created_at, fate: Fate::Archived { at, place } }
}
