//! Lists windows and files.

use protocol::certificate::CertificateKind;
use protocol::{Certificate, FailedRow, Timestamp, names};
use serde::Serialize;

use crate::archive::{Archive, ReadError};

/// One committed pass over one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedWindow {
    /// Exclusive lower bound of created_at.
    pub start: Timestamp,
    /// Inclusive upper bound of created_at.
    pub end: Timestamp,
    /// The pass.
    pub revision: u16,
    /// How it came to be settled.
    pub kind: CertificateKind,
    /// Files in the archive.
    pub files: u64,
    /// Error rows.
    pub failed: u64,
    /// Shards.
    pub shards: u64,
    /// Bytes of the files.
    pub bytes_raw: u64,
    /// Bytes of the shards and big files.
    pub bytes_stored: u64,
    /// Object name of the certificate.
    pub certificate: String,
}

/// One file in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedFile {
    /// The file's key.
    pub uid: String,
    /// The row's created_at.
    pub created_at: Timestamp,
    /// Size in bytes.
    pub size: u64,
    /// The shard that holds it.
    pub shard: String,
}

impl Archive {
    /// Every committed window whose end lies at or after `from` and whose start lies before
    /// `until` (unbounded where `None`), by end and revision.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn windows(
        &self,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Vec<ListedWindow>, ReadError> {
        let mut windows = Vec::new();
        for name in self.certificate_names(from).await? {
            let certificate = self.certificate(name).await?;
            if until.is_some_and(|until| certificate.window.start() >= until) {
                break;
            }
            windows.push(ListedWindow {
                start: certificate.window.start(),
                end: certificate.window.end(),
                revision: certificate.revision,
                kind: certificate.kind,
                files: certificate.packed.rows,
                failed: certificate.failed.rows,
                shards: certificate.shards.len() as u64,
                bytes_raw: certificate.bytes_raw,
                bytes_stored: certificate.bytes_stored,
                certificate: names::certificate(name.window, name.epoch),
            });
        }
        Ok(windows)
    }

    /// Visits every row of the windows that [`Archive::windows`] gives that could not be archived:
    /// of each window those of its last pass, which takes up what earlier ones failed on.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn failed(
        &self,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        visit: &mut (dyn FnMut(FailedRow) + Send),
    ) -> Result<(), ReadError> {
        let mut names = self.certificate_names(from).await?.into_iter().peekable();
        while let Some(name) = names.next() {
            if names.peek().is_some_and(|next| next.window.end == name.window.end) {
                continue;
            }
            let certificate = self.certificate(name).await?;
            if until.is_some_and(|until| certificate.window.start() >= until) {
                break;
            }
            certificate.failures.into_iter().for_each(&mut *visit);
        }
        Ok(())
    }

    /// Visits every file of the windows that [`Archive::windows`] gives, shard by shard. Reads
    /// the shards' metadata and payloads, and checks all but the payloads.
    ///
    /// # Errors
    /// When something cannot be read or is damaged.
    pub async fn files(
        &self,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        visit: &mut (dyn FnMut(ListedFile) + Send),
    ) -> Result<(), ReadError> {
        let mut certificates: Vec<Certificate> = Vec::new();
        for name in self.certificate_names(from).await? {
            let certificate = self.certificate(name).await?;
            if until.is_some_and(|until| certificate.window.start() >= until) {
                break;
            }
            certificates.push(certificate);
        }
        let replaced: Vec<String> =
            certificates.iter().flat_map(|certificate| certificate.replaces.clone()).collect();
        let shards = certificates.iter().flat_map(|certificate| &certificate.shards);
        for shard in shards.filter(|shard| !replaced.contains(&shard.key)) {
            let mut forward = |file: crate::walk::WalkedFile| {
                visit(ListedFile {
                    uid: file.uid,
                    created_at: file.created_at,
                    size: file.size,
                    shard: shard.key.clone(),
                });
            };
            self.walk(shard, false, &mut forward).await?;
        }
        Ok(())
    }
}
