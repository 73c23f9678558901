//! The certificate of a window whose partitions are all accepted, and the checks before it.

use std::collections::HashSet;

use backends::ledger::{
    AcceptedReceipt, PartitionRecord, WindowCommit, WindowRecord, WindowTotals,
};
use backends::{BackendError, Store, crash};
use futures::{StreamExt, TryStreamExt, stream};
use protocol::certificate::{CertificateKind, PartitionRef};
use protocol::{
    ArchiveIdentity, Certificate, PackSettings, PartitionId, Receipt, Tally, Timestamp, WorkerId,
    names,
};

use crate::decide::is_same_work;
use crate::findings::{self, Finding, Findings};
use crate::flight::OpenWindow;
use crate::kept::Kept;
use crate::receipts::{MAX_RECEIPT_BYTES, Of, Place, ReadingRoom};
use crate::sabotage;

/// Receipts that are read at a time, where they were not kept and there is room for them.
const READS_IN_FLIGHT: usize = 16;
/// Objects that are looked at, at a time.
const LOOKS_IN_FLIGHT: usize = 64;

/// Who certifies, and when.
#[derive(Clone)]
pub(crate) struct Certifier {
    pub(crate) store: Store,
    pub(crate) identity: ArchiveIdentity,
    pub(crate) settings: PackSettings,
    pub(crate) writer: WorkerId,
    pub(crate) epoch: u64,
    pub(crate) now: Timestamp,
}

/// A complete window as it was when its certificate was begun: what is found out about it takes
/// time, and counts only if it is still so.
pub(crate) struct Basis {
    record: WindowRecord,
    partitions: Vec<PartitionRecord>,
}

impl Basis {
    pub(crate) fn of(window: &OpenWindow) -> Self {
        let partitions = window.partitions.iter().map(|open| open.record.clone()).collect();
        Self { record: window.record.clone(), partitions }
    }

    /// Whether this receipt was accepted for one of its partitions.
    #[cfg(test)]
    pub(crate) fn names(&self, receipt: &str) -> bool {
        let accepted = self.partitions.iter().filter_map(|it| it.accepted.as_ref());
        accepted.into_iter().any(|accepted| accepted.receipt == receipt)
    }

    /// Whether the window is still what it was: the same partitions with the same receipts.
    pub(crate) fn is_of(&self, window: &OpenWindow) -> bool {
        let now = window.partitions.iter().map(|open| &open.record);
        let same = |(then, now): (&PartitionRecord, &PartitionRecord)| {
            is_same_work(then, now) && then.accepted == now.accepted
        };
        self.record.key() == window.record.key()
            && self.record.rows == window.record.rows
            && self.record.replaces == window.record.replaces
            && self.partitions.len() == window.partitions.len()
            && self.partitions.iter().zip(now).all(same)
    }
}

/// What comparing a window's receipts and objects came to.
pub(crate) enum Compared {
    /// Everything is there: the certificate, not written yet.
    Sound(Box<Certificate>),
    /// What a partition's receipt states is not so: it has to be done again.
    NotSo(PartitionId, String),
}

/// Why comparing ended early.
enum Doubt {
    NotSo(PartitionId, String),
    Unknown(BackendError),
}

impl From<BackendError> for Doubt {
    fn from(error: BackendError) -> Self {
        Self::Unknown(error)
    }
}

/// An object that the certificate is to name, and the size that it must have.
struct Named {
    partition: PartitionId,
    key: String,
    size: u64,
}

impl Certifier {
    /// Compares all receipts with all manifests, and looks at every object that they name, and at
    /// them. `kept` has those of the receipts, by their partition's place, that need not be read
    /// again.
    pub(crate) async fn compare(
        &self,
        basis: &Basis,
        kept: Vec<Option<Kept>>,
    ) -> Result<Compared, BackendError> {
        match self.sum_up(basis, kept).await {
            Ok(certificate) => Ok(Compared::Sound(Box::new(certificate))),
            Err(Doubt::NotSo(partition, why)) => Ok(Compared::NotSo(partition, why)),
            Err(Doubt::Unknown(error)) => Err(error),
        }
    }

    async fn sum_up(&self, basis: &Basis, kept: Vec<Option<Kept>>) -> Result<Certificate, Doubt> {
        let record = &basis.record;
        let mut certificate = self.begin(record);
        let kept = kept.into_iter().chain(std::iter::repeat_with(|| None));
        let counted: Vec<_> = basis
            .partitions
            .iter()
            .zip(kept)
            .filter_map(|(it, kept)| Some((it.clone(), it.accepted.clone()?, kept)))
            .collect();
        // Who comes first asks for room first, and what is read leaves in the same order.
        let room = &ReadingRoom::default();
        let looks = stream::iter(counted)
            .map(|(partition, accepted, kept)| async move {
                let (receipt, place) = match kept {
                    Some(kept) => (kept.into_receipt(), None),
                    None => self.read(record, &partition, &accepted, room).await?,
                };
                Ok::<_, Doubt>((partition, accepted, receipt, place))
            })
            .buffered(READS_IN_FLIGHT)
            .map_ok(|(partition, accepted, receipt, _place)| {
                let named = named(&partition, &accepted, &receipt);
                certificate.partitions.push(PartitionRef {
                    partition: partition.partition,
                    range: partition.range(),
                    manifest: partition.manifest,
                    manifest_size: partition.manifest_size,
                    rows: partition.rows,
                    receipt: accepted.receipt,
                    receipt_size: accepted.receipt_size,
                });
                certificate.absorb(receipt);
                stream::iter(named.into_iter().map(Ok))
            })
            .try_flatten()
            .map_ok(|named| self.look_at(named))
            .try_buffer_unordered(LOOKS_IN_FLIGHT);
        looks.try_for_each(|()| std::future::ready(Ok(()))).await?;
        let settled: Tally = certificate.packed + certificate.failed;
        let adds_up = settled == record.rows && certificate.rows() == record.rows;
        if !adds_up && !sabotage::adds_up_anyhow() {
            return Err(Doubt::Unknown(BackendError::Invalid {
                what: format!(
                    "the window {} holds {} rows, and its receipts account for {}: \
                     nothing is committed; please report this",
                    record.window, record.rows.rows, settled.rows
                ),
            }));
        }
        give_up_only_what_is_held_again(&mut certificate);
        Ok(certificate)
    }

    async fn read(
        &self,
        record: &WindowRecord,
        partition: &PartitionRecord,
        AcceptedReceipt { receipt: key, receipt_size, .. }: &AcceptedReceipt,
        room: &ReadingRoom,
    ) -> Result<(Receipt, Option<Place>), Doubt> {
        let not_so = |why: String| Doubt::NotSo(partition.partition, why);
        let place = room.enter(*receipt_size).await;
        let bytes = match self.store.get(key, MAX_RECEIPT_BYTES).await {
            Err(error) if error.is_not_found() => return Err(not_so(error.to_string())),
            other => other?,
        };
        let (window, revision) = (record.window, record.revision);
        let of = Of { identity: &self.identity, window, revision, partition };
        let receipt = of.check(key, bytes).await?.map_err(|why| not_so(format!("{key}: {why}")))?;
        Ok((receipt, place))
    }

    async fn look_at(&self, named: Named) -> Result<(), Doubt> {
        let Named { partition, key, size } = named;
        if self.store.size(&key).await? == Some(size) {
            return Ok(());
        }
        let why = format!("{key} is gone, or has another size than its receipt states");
        Err(Doubt::NotSo(partition, why))
    }

    /// Writes the certificate, durably; what is then to be committed. A name carries the epoch, so
    /// that one is there already only if this epoch was somebody else's too: of a ledger that was
    /// restored to an older point.
    pub(crate) async fn write(
        &self,
        certificate: Certificate,
        record: &WindowRecord,
    ) -> Result<WindowCommit, BackendError> {
        crash::point("before_certificate");
        let key = names::certificate(certificate.key(), certificate.epoch);
        self.store.put_once(&key, certificate.encode().into()).await?;
        self.store.flush().await?;
        let findings = findings_of(&certificate, record);
        Ok(commit_of(certificate, key, findings))
    }

    fn begin(&self, record: &WindowRecord) -> Certificate {
        Certificate {
            version: Certificate::VERSION,
            archive: self.identity.archive.clone(),
            job: self.identity.job.clone(),
            window: record.window,
            revision: record.revision,
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
            replaces: record.replaces.clone(),
            unrepaired: Vec::new(),
            failures: Vec::new(),
        }
    }
}

/// What the certificate names for a partition: manifest, receipt, shards and big files.
fn named(partition: &PartitionRecord, accepted: &AcceptedReceipt, receipt: &Receipt) -> Vec<Named> {
    let of = |key: &str, size| Named { partition: partition.partition, key: key.to_owned(), size };
    let mut named = vec![
        of(&partition.manifest, partition.manifest_size),
        of(&accepted.receipt, accepted.receipt_size),
    ];
    named.extend(receipt.shards.iter().map(|shard| of(&shard.key, shard.size)));
    named.extend(receipt.big_files.iter().map(|big| of(&big.key, big.size)));
    named
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
            findings.beyond_help(findings::Named {
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
