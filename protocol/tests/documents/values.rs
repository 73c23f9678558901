//! One value of every document, as the fixtures hold it.

use protocol::certificate::{CertificateKind, PartitionRef};
use protocol::codec::CompressionCodec;
use protocol::manifest::{ManifestHeader, RowRange};
use protocol::message::{Outcome, PartitionAddress, Progress, Restore, Task, TaskResult};
use protocol::receipt::{BigFileRef, ShardRef};
use protocol::row::RowDefect;
use protocol::{
    ArchiveIdentity, Certificate, Digest, FailedRow, FailureReason, Fingerprint, NBits,
    PackSettings, Receipt, Row, Tally, Timestamp, Window,
};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().expect("a date")
}

fn window() -> Window {
    Window::new(at("2024-11-30T23:59:59.999999Z"), at("2024-12-02")).expect("a window")
}

fn settings() -> PackSettings {
    PackSettings {
        n_bits: NBits::new(10).expect("10 bits"),
        codec: CompressionCodec::Lz4,
        level: 3,
        max_shard_size: 1_000_000_000,
        big_file_threshold: 10_485_760,
    }
}

pub(crate) fn header() -> ManifestHeader {
    ManifestHeader {
        archive: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".parse().expect("an id"),
        job: "scans_2024.a".parse().expect("a job"),
        window: window(),
        revision: 3,
        partition: 17,
        settings: settings(),
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let row = |uid: &str, time: &str, location: Option<&str>, size| {
        Row::new(uid.to_owned(), at(time), location.map(str::to_owned), size)
    };
    vec![
        row("uid-1", "2024-12-01", Some("/data/a"), Some(4096)),
        row("zażółć 🦀", "2024-12-01T12:30:45.678901Z", Some("/data/gęś"), None),
        row("2", "2024-12-02", None, Some(0)),
        Row {
            defect: Some(RowDefect::LocationTooLong), ..row("3", "2024-12-02", Some("…"), None)
        },
    ]
}

fn shard() -> ShardRef {
    ShardRef {
        key: "20241201_3B1_20241202T000000Z_r0003_0001-af1349b9f5f9a1a6.des".to_owned(),
        size: 123_456_789_012,
        crc32c: 0xDEAD_BEEF,
        entries: 2,
        bytes_raw: 4100,
        first_fingerprint: Fingerprint([0x0F; 16]),
        last_fingerprint: Fingerprint::of("uid-1"),
        tail_bytes: 92,
    }
}

fn big_file() -> BigFileRef {
    BigFileRef { key: format!("_bigFiles/{}", "ab".repeat(32)), size: 20_000_000_000 }
}

fn failure() -> FailedRow {
    FailedRow {
        uid: "2".to_owned(),
        created_at: at("2024-12-02"),
        location: None,
        reason: FailureReason::NoLocation,
        detail: "the catalog holds no \"location\"".to_owned(),
    }
}

fn tally(rows: u64, digest: u128) -> Tally {
    Tally { rows, digest: Digest(digest) }
}

pub(crate) fn receipt() -> Receipt {
    let ManifestHeader { archive, job, window, revision, partition, .. } = header();
    Receipt {
        version: 1,
        archive,
        job,
        window,
        revision,
        partition,
        manifest_hash: "0123456789abcdef".parse().expect("a hash"),
        range: None,
        attempt: 2,
        worker: "host-7.slot_1".parse().expect("a worker"),
        packed: tally(2, u128::MAX - 1),
        failed: tally(1, 0x1F),
        bytes_raw: 20_000_004_100,
        bytes_stored: 143_456_789_012,
        shards: vec![shard()],
        big_files: vec![big_file()],
        failures: vec![failure()],
    }
}

pub(crate) fn certificate() -> Certificate {
    let receipt = receipt();
    Certificate {
        version: 1,
        archive: receipt.archive,
        job: receipt.job,
        window: receipt.window,
        revision: 3,
        epoch: 41,
        writer: "coordinator-1".parse().expect("a writer"),
        written_at: at("2024-12-03T04:05:06.000007Z"),
        kind: CertificateKind::Packed,
        settings: settings(),
        packed: receipt.packed,
        failed: receipt.failed,
        bytes_raw: receipt.bytes_raw,
        bytes_stored: receipt.bytes_stored,
        partitions: vec![PartitionRef {
            partition: 17,
            manifest: "_des/manifests/20241202T000000Z-r0003/p000017-0123456789abcdef.rows"
                .to_owned(),
            manifest_size: 500,
            range: None,
            rows: tally(3, 0x1D),
            receipt: "_des/receipts/20241202T000000Z-r0003/\
                      p000017-0123456789abcdef-fedcba9876543210.json"
                .to_owned(),
            receipt_size: 900,
        }],
        shards: receipt.shards,
        big_files: receipt.big_files,
        replaces: vec!["20241201_3B1_20241202T000000Z_r0000_0001-0011223344556677.des".to_owned()],
        unrepaired: Vec::new(),
        failures: receipt.failures,
    }
}

pub(crate) fn archive() -> ArchiveIdentity {
    let ManifestHeader { archive, job, .. } = header();
    ArchiveIdentity {
        version: 1,
        archive,
        job,
        n_bits: NBits::DEFAULT,
        origin: at("1969-12-31T23:59:59.999999Z"),
        shard_version: 2,
        created_at: at("2024-12-03T04:05:06Z"),
    }
}

fn address() -> PartitionAddress {
    let Receipt { archive, job, window, revision, partition, manifest_hash, .. } = receipt();
    PartitionAddress { archive, job, window, revision, partition, manifest_hash }
}

pub(crate) fn task() -> Task {
    Task {
        version: 1,
        address: address(),
        attempt: 5,
        manifest: "_des/manifests/20241202T000000Z-r0003/p000017-0123456789abcdef.rows".to_owned(),
        rows: 50_000,
        range: None,
        settings: settings(),
        restore: None,
        last_attempt: false,
        avoid: None,
    }
}

/// The rows of partition 64, a part of what partition 17 was.
fn range() -> RowRange {
    RowRange { first: 12_500, rows: 3 }
}

/// A task with everything that a task may carry.
pub(crate) fn task_of_a_part() -> Task {
    Task {
        address: PartitionAddress { partition: 64, ..address() },
        rows: 3,
        range: Some(range()),
        last_attempt: true,
        avoid: Some("host-8".parse().expect("a worker")),
        ..task()
    }
}

pub(crate) fn receipt_of_a_part() -> Receipt {
    Receipt { partition: 64, range: Some(range()), ..receipt() }
}

/// A certificate of a window of which a partition was split.
pub(crate) fn certificate_with_parts() -> Certificate {
    let mut certificate = certificate();
    let part = certificate.partitions.remove(0);
    for (partition, first) in [(64, 12_500), (63, 0)] {
        let range = Some(RowRange { first, ..range() });
        certificate.partitions.push(PartitionRef { partition, range, ..part.clone() });
    }
    certificate.partitions.push(PartitionRef {
        partition: 4,
        manifest: "_des/manifests/20241202T000000Z-r0003/p000004-fedcba9876543210.rows".to_owned(),
        manifest_size: 400,
        ..part
    });
    certificate
}

pub(crate) fn task_to_restore() -> Task {
    let objects = vec![shard().key, big_file().key];
    let receipt = certificate().partitions.remove(0).receipt;
    Task { restore: Some(Restore { receipt, objects }), ..task() }
}

pub(crate) fn restored() -> TaskResult {
    TaskResult::Restored { objects: vec![shard().key] }
}

pub(crate) fn certificate_of_repair() -> Certificate {
    let unrepaired = "20241201_3B2_20241202T000000Z_r0000_0000-7766554433221100.des".to_owned();
    Certificate { unrepaired: vec![unrepaired], ..certificate() }
}

pub(crate) fn outcome(result: TaskResult) -> Outcome {
    Outcome { version: 1, address: address(), attempt: 5, worker: receipt().worker, result }
}

pub(crate) fn done() -> TaskResult {
    TaskResult::Done {
        receipt: "_des/receipts/20241202T000000Z-r0003/p000017-0123456789abcdef-\
                  fedcba9876543210.json"
            .to_owned(),
        receipt_size: 900,
    }
}

pub(crate) fn progress() -> Progress {
    Progress {
        version: 1,
        address: address(),
        attempt: 5,
        worker: receipt().worker,
        rows: 1234,
        bytes: u64::MAX,
        reading: None,
    }
}
