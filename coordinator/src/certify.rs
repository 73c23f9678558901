//! The certificate of a window whose partitions are all accepted, and the checks before it.

use std::collections::HashSet;

use backends::ledger::{WindowCommit, WindowRecord, WindowTotals};
use backends::{BackendError, Store, crash};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::certificate::{CertificateKind, PartitionRef};
use protocol::{
    ArchiveIdentity, Certificate, PackSettings, PartitionId, Tally, Timestamp, WorkerId, names,
};

use crate::decide::{Expected, check_receipt};
use crate::findings::{Finding, Findings, Named};
use crate::flight::OpenWindow;
use crate::sabotage;

/// Objects that are looked at, or receipts that are read, at a time.
const LOOKS_IN_FLIGHT: usize = 32;
pub(crate) const MAX_RECEIPT_BYTES: u64 = 256 * 1024 * 1024;

/// Who certifies, and when.
pub(crate) struct Certifier<'a> {
    pub(crate) store: &'a Store,
    pub(crate) identity: &'a ArchiveIdentity,
    pub(crate) settings: PackSettings,
    pub(crate) writer: &'a WorkerId,
    pub(crate) epoch: u64,
    pub(crate) now: Timestamp,
}

/// What certifying came to.
pub(crate) enum Certified {
    /// The certificate is durable.
    Durable(Box<WindowCommit>),
    /// What a partition's receipt states is not so: it has to be done again.
    NotSo(PartitionId, String),
}

impl Certifier<'_> {
    /// Reads every receipt again, compares all of them with all manifests, looks at every object
    /// they name, and writes the certificate.
    pub(crate) async fn certify(&self, window: &OpenWindow) -> Result<Certified, BackendError> {
        let mut certificate = self.begin(window);
        let counted = window.partitions.iter();
        let receipts = stream::iter(counted.filter(|open| open.record.accepted.is_some()))
            .map(|open| async move {
                let accepted = open.record.accepted.as_ref();
                let key = accepted.map(|accepted| accepted.receipt.clone()).unwrap_or_default();
                let bytes = self.store.get(&key, MAX_RECEIPT_BYTES).await;
                (open, key, bytes)
            })
            .buffered(LOOKS_IN_FLIGHT);
        futures::pin_mut!(receipts);
        while let Some((open, key, bytes)) = receipts.next().await {
            let partition = &open.record;
            let bytes = match bytes {
                Err(error) if error.is_not_found() => {
                    return Ok(Certified::NotSo(partition.partition, error.to_string()));
                }
                other => other?,
            };
            let expected = Expected {
                identity: self.identity,
                window: window.record.window,
                revision: window.record.revision,
                partition,
            };
            let receipt = match check_receipt(&key, &bytes, expected) {
                Ok(receipt) => receipt,
                Err(why) => {
                    return Ok(Certified::NotSo(partition.partition, format!("{key}: {why}")));
                }
            };
            let mut named: Vec<(String, u64)> =
                vec![(partition.manifest.clone(), partition.manifest_size)];
            named.extend(receipt.shards.iter().map(|shard| (shard.key.clone(), shard.size)));
            named.extend(receipt.big_files.iter().map(|big| (big.key.clone(), big.size)));
            if let Some(gone) = self.first_missing(named).await? {
                let why = format!("{gone} is gone, or has another size than its receipt states");
                return Ok(Certified::NotSo(partition.partition, why));
            }
            certificate.partitions.push(PartitionRef {
                partition: partition.partition,
                manifest: partition.manifest.clone(),
                manifest_size: partition.manifest_size,
                range: partition.range(),
                rows: partition.rows,
                receipt: key,
                receipt_size: bytes.len() as u64,
            });
            certificate.absorb(receipt);
        }
        let settled: Tally = certificate.packed + certificate.failed;
        let adds_up = settled == window.record.rows && certificate.rows() == window.record.rows;
        if !adds_up && !sabotage::adds_up_anyhow() {
            return Err(BackendError::Invalid {
                what: format!(
                    "the window {} holds {} rows, and its receipts account for {}: \
                     nothing is committed; please report this",
                    window.record.window, window.record.rows.rows, settled.rows
                ),
            });
        }
        give_up_only_what_is_held_again(&mut certificate);
        crash::point("before_certificate");
        let key = self.write(&certificate).await?;
        let findings = findings_of(&certificate, &window.record);
        Ok(Certified::Durable(Box::new(commit_of(certificate, key, findings))))
    }

    async fn first_missing(
        &self,
        named: Vec<(String, u64)>,
    ) -> Result<Option<String>, BackendError> {
        let looks = stream::iter(named)
            .map(|(key, size)| async move {
                let there = self.store.size(&key).await? == Some(size);
                Ok::<_, BackendError>((!there).then_some(key))
            })
            .buffer_unordered(LOOKS_IN_FLIGHT)
            .try_filter_map(|missing| async move { Ok(missing) });
        futures::pin_mut!(looks);
        looks.try_next().await
    }

    fn begin(&self, window: &OpenWindow) -> Certificate {
        Certificate {
            version: Certificate::VERSION,
            archive: self.identity.archive.clone(),
            job: self.identity.job.clone(),
            window: window.record.window,
            revision: window.record.revision,
            epoch: self.epoch,
            writer: self.writer.clone(),
            written_at: self.now,
            kind: CertificateKind::Packed,
            settings: self.settings,
            packed: Tally::default(),
            failed: Tally::default(),
            bytes_raw: 0,
            bytes_stored: 0,
            partitions: Vec::new(),
            shards: Vec::new(),
            big_files: Vec::new(),
            replaces: window.record.replaces.clone(),
            unrepaired: Vec::new(),
            failures: Vec::new(),
        }
    }

    async fn write(&self, certificate: &Certificate) -> Result<String, BackendError> {
        let key = names::certificate(certificate.key(), certificate.epoch);
        self.store.put(&key, certificate.encode().into()).await?;
        self.store.flush().await?;
        Ok(key)
    }
}

/// A damaged shard is given up only for shards that hold all of it. Else it stays certified:
/// damaged, which `verify` goes on saying, and readable where it is whole. Which shard a failed row
/// was in is told by day and shard index, which keeps rather too many than too few.
fn give_up_only_what_is_held_again(certificate: &mut Certificate) {
    let n_bits = certificate.settings.n_bits;
    let failed: HashSet<String> = certificate
        .failures
        .iter()
        .map(|row| names::shard_prefix(n_bits, row.created_at.day(), n_bits.shard_index(&row.uid)))
        .collect();
    let begins = |shard: &String| failed.iter().any(|prefix| shard.starts_with(prefix));
    let replaces = std::mem::take(&mut certificate.replaces);
    (certificate.unrepaired, certificate.replaces) = replaces.into_iter().partition(begins);
}

/// What the plan of a later pass found, with what came of it.
fn findings_of(certificate: &Certificate, record: &WindowRecord) -> Option<String> {
    if record.revision == 0 {
        return None;
    }
    let mut findings = Findings::decode(record.findings.as_deref());
    findings.shards_repaired = certificate.replaces.len() as u64;
    let n_bits = certificate.settings.n_bits;
    for row in &certificate.failures {
        let (day, index) = (row.created_at.day(), n_bits.shard_index(&row.uid));
        let prefix = names::shard_prefix(n_bits, day, index);
        if certificate.unrepaired.iter().any(|shard| shard.starts_with(&prefix)) {
            findings.beyond_help(Named {
                finding: Finding::BeyondHelp,
                uid: row.uid.clone(),
                created_at: Some(row.created_at),
                location: row.location.clone(),
            });
        }
    }
    findings.encode()
}

/// What a certificate says that its window holds.
pub(crate) const fn totals_of(certificate: &Certificate) -> WindowTotals {
    WindowTotals {
        files_archived: certificate.packed.rows,
        files_failed: certificate.failed.rows,
        shards: certificate.shards.len() as u64,
        bytes_raw: certificate.bytes_raw,
        bytes_stored: certificate.bytes_stored,
    }
}

fn commit_of(certificate: Certificate, key: String, findings: Option<String>) -> WindowCommit {
    WindowCommit {
        window: certificate.window,
        revision: certificate.revision,
        certificate: Some(key),
        scanned: None,
        findings,
        totals: totals_of(&certificate),
        failures: if backends::sabotage::is("failed_file_dropped") {
            Vec::new()
        } else {
            certificate.failures
        },
        advance_from: None,
    }
}
